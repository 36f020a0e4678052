"""The watch: notices that the event loop does not turn, and which handler keeps it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from types import FrameType

from taskmux.model.log import Log
from taskmux.worker.clock import monotonic
from taskmux.worker.held import Held
from taskmux.worker.invocation import CoroutineInvocation

__all__ = ["Watch"]

logger = Log("taskmux.worker")

TURN_EVERY = 0.25
BLOCKED = 1.0
"""Seconds without a turn that are worth a warning."""


class Watch:
    """Watches the event loop it is made in.

    Args:
        running: returns the jobs whose handlers run now.
    """

    def __init__(self, running: Callable[[], list[Held]]) -> None:
        self._running = running
        self._thread = threading.get_ident()
        self._turned = monotonic()
        self._told = 0.0
        """The turn after which a blockade was told of."""

    async def turn(self) -> None:
        """Say again and again that the loop turns. A task in the loop that is watched."""
        while True:
            self._turned = monotonic()
            await asyncio.sleep(TURN_EVERY)

    @property
    def blocked(self) -> float:
        """For how many seconds the loop has not turned, as far as can be told."""
        return max(0.0, monotonic() - self._turned - TURN_EVERY)

    def look(self) -> None:
        """Warn if the loop is blocked, once for each time. Called in another thread."""
        turned = self._turned
        if self._told == turned or self.blocked < BLOCKED:
            return
        self._told = turned
        who, where = self._culprit()
        logger.warning(
            "the event loop has been blocked for more than %.0f s by %s%s: nothing else runs "
            "meanwhile. Await, make the handler sync (it gets a thread), or use asyncio.to_thread",
            self.blocked,
            who,
            where,
            extra={"seconds": round(self.blocked, 3), "blocked_by": who},
        )

    def _culprit(self) -> tuple[str, str]:
        """Return which handler is being run, and where it is."""
        innermost = frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - the only way
        while frame is not None and frame.f_code is not CoroutineInvocation.__await__.__code__:
            frame = frame.f_back
        who = None if frame is None else self._whose(frame.f_locals.get("self"))
        if innermost is None:
            return "code that is no handler's", ""
        return who or "code that is no handler's", f" ({_place(innermost)})"

    def _whose(self, invocation: object) -> str | None:
        for held in self._running():
            if held.invocation is invocation:
                return f"job {held.job.ref} ({held.job.task})"
        return None


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
