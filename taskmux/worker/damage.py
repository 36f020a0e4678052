"""Damage: a queue that cannot be served stops itself, and the worker's other queues go on."""

from __future__ import annotations

from collections.abc import Sequence

from taskmux.model.errors import CorruptRecord, StoreIncompatible
from taskmux.model.log import Log
from taskmux.model.units import show_ms
from taskmux.worker.clock import monotonic

__all__ = ["DAMAGED", "Damage"]

logger = Log("taskmux.worker")

DAMAGED = (CorruptRecord, StoreIncompatible)
"""Errors that stay until somebody mends what is stored of a queue."""

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0


class Damage:
    """Which queues a duty cannot serve, and when it looks at each again.

    Args:
        duty: what cannot be done, for the log.
    """

    def __init__(self, duty: str) -> None:
        self._duty = duty
        self._again: dict[str, tuple[float, float]] = {}
        """For each damaged queue when to look again, and the pause before that."""

    @property
    def queues(self) -> tuple[str, ...]:
        """The damaged ones."""
        return tuple(self._again)

    def usable(self, queues: Sequence[str]) -> Sequence[str]:
        """Return the queues that may be tried now."""
        if not self._again:
            return queues
        now = monotonic()
        return [one for one in queues if one not in self._again or self._again[one][0] <= now]

    def next_in(self) -> float | None:
        """Return the seconds until a damaged queue is to be looked at; None: there is none."""
        if not self._again:
            return None
        return max(0.0, min(at for at, _ in self._again.values()) - monotonic())

    def met(self, queue: str, error: Exception) -> None:
        """A queue could not be served: leave it alone for a while, longer each time."""
        known = self._again.get(queue)
        pause = FIRST_PAUSE if known is None else min(2 * known[1], LONGEST_PAUSE)
        self._again[queue] = monotonic() + pause, pause
        if known is not None:  # told of already
            logger.debug("queue %s is damaged still, next look in %.1f s", queue, pause)
            return
        logger.error(
            "queue %s is damaged: %s stops there until it is mended, other queues go on; next "
            "look in %s: %s",
            queue,
            self._duty,
            show_ms(round(pause * 1000)),
            error,
            extra={"queue": queue},
        )

    def well(self, queue: str) -> None:
        """A queue was served."""
        if self._again and self._again.pop(queue, None) is not None:
            logger.warning("queue %s: %s goes on", queue, self._duty, extra={"queue": queue})
