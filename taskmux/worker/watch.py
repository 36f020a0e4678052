"""The watch: notices that the event loop does not turn, and which handler keeps it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from taskmux.model.log import Log
from taskmux.worker.clock import monotonic
from taskmux.worker.held import Held
from taskmux.worker.invocation import CoroutineInvocation

__all__ = ["Watch", "whereabouts"]

logger = Log("taskmux.worker")

TURN_EVERY = 0.25
BLOCKED = 1.0
"""Seconds without a turn that are worth a warning."""
BUSY = 0.5
"""The share of its time that a process computes at least if it keeps all threads from looking."""


class Watch:
    """Watches the event loop it is made in.

    Args:
        running: returns the jobs whose handlers run now.
    """

    def __init__(self, running: Callable[[], list[Held]]) -> None:
        self._running = running
        self._thread = threading.get_ident()
        self._turned = self._looked = self._awake = monotonic()
        self._spent = time.process_time()
        self._told = 0.0
        """The turn after which a blockade was told of."""

    async def turn(self) -> None:
        """Say again and again that the loop turns. A task in the loop that is watched."""
        while True:
            self._turned = monotonic()
            await asyncio.sleep(TURN_EVERY)

    @property
    def blocked(self) -> float:
        """For how many seconds the loop has not turned, as far as can be told.

        The time does not count in which the whole process was suspended: the thread that looks was
        away for long, too, and the processor did nothing for this process.
        """
        now, spent = monotonic(), time.process_time()
        away = now - self._looked
        if away > BLOCKED and spent - self._spent < away * BUSY:
            self._awake = now
        self._looked, self._spent = now, spent
        return max(0.0, now - max(self._turned, self._awake) - TURN_EVERY)

    def look(self) -> None:
        """Warn if the loop is blocked, once for each time. Called in another thread."""
        turned, blocked = self._turned, self.blocked
        if self._told == turned or blocked < BLOCKED:
            return
        self._told = turned
        who, where = self.culprit()
        logger.warning(
            "the event loop has been blocked for more than %.0f s by %s%s: nothing else runs "
            "meanwhile. Await, make the handler sync (it gets a thread), or use asyncio.to_thread",
            blocked,
            who,
            where,
            extra={"seconds": round(blocked, 3), "blocked_by": who},
        )

    def culprit(self) -> tuple[str, str]:
        """Return which handler is being run, and where it is."""
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - the only way
        while frame is not None and frame.f_code is not CoroutineInvocation.__await__.__code__:
            frame = frame.f_back
        who = None if frame is None else self._whose(frame.f_locals.get("self"))
        nobody, where = whereabouts(self._thread)
        return who or nobody, where

    def _whose(self, invocation: object) -> str | None:
        for held in self._running():
            if held.invocation is invocation:
                return f"job {held.job.ref} ({held.job.task})"
        return None


def whereabouts(thread: int | None = None) -> tuple[str, str]:
    """Return whom the code is said to be of that a thread runs, and where it is.

    Args:
        thread: its identifier; the main thread by default.
    """
    frames = sys._current_frames()  # noqa: SLF001 - the only way
    frame = frames.get(threading.main_thread().ident or 0 if thread is None else thread)
    return "code that is no handler's", "" if frame is None else f" ({_place(frame)})"


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
