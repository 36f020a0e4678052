"""The server's clock as this process can know it, and numbers that rise with it."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final

__all__ = ["Clock", "Numbers"]

REMEASURE_AFTER: Final = 10_000.0
"""Milliseconds after which the offset is measured again."""

_DRIFT: Final = 1 / 5000
"""How far two clocks may drift apart, at most: 0.2 ms a second."""

_SAMPLES: Final = 5


def _local_ms() -> float:
    # Not the wall clock: an operator who sets that must not move the server's time.
    return time.monotonic_ns() / 1_000_000


class Clock:
    """Bounds of the server's time, from the offset that its `hello` showed.

    The server's time is never before `earliest` and never after `latest`. What something is
    delayed or leased until is counted from `latest`, and all else is judged and written by
    `earliest`: nothing happens early, whatever the network does.

    Args:
        server_ms: asks the server for its time, in epoch milliseconds.
    """

    def __init__(self, server_ms: Callable[[], Awaitable[int]]) -> None:
        self._server_ms = server_ms
        self._low = -inf
        self._high = inf
        self._measured = 0.0
        self._stale = True

    async def fresh(self) -> None:
        """Measure the offset if it was never measured, is old, or was forgotten."""
        if self._stale:
            samples = [await self._sample() for _ in range(_SAMPLES)]
        elif _local_ms() - self._measured > REMEASURE_AFTER:
            samples = [await self._sample()]
        else:
            return
        self._learn(*min(samples, key=lambda bounds: bounds[1] - bounds[0]))

    async def _sample(self) -> tuple[float, float]:
        before = _local_ms()
        server = await self._server_ms()
        return server - _local_ms(), server + 1 - before

    def _learn(self, low: float, high: float) -> None:
        """Take new bounds; what was known still narrows them, unless the clock was moved."""
        now = _local_ms()
        known = self._low - self._drift(now), self._high + self._drift(now)
        if known[0] <= high and low <= known[1]:
            low, high = max(low, known[0]), min(high, known[1])
        self._low, self._high, self._measured, self._stale = low, high, now, False

    def forget(self) -> None:
        """Measure before the next use: another server may answer now."""
        self._stale = True

    def earliest(self) -> int:
        """Return an instant that the server's clock has reached."""
        now = _local_ms()
        return int(now + self._low - self._drift(now))

    def latest(self) -> int:
        """Return an instant that the server's clock has not passed."""
        now = _local_ms()
        return int(now + self._high + self._drift(now)) + 1

    def _drift(self, now: float) -> float:
        return _DRIFT * (now - self._measured)


class Numbers:
    """Numbers that rise with the server's time, strictly within one instance.

    42 bits of milliseconds, 9 that count within one, 12 at random for the instance: 63 in all, so
    two instances do not draw the same one but by a rare chance. A burst of more than 512 in a
    millisecond borrows from the next ones.
    """

    _STEP: Final = 1 << 12
    _MILLISECOND: Final = 1 << 21

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._instance = int.from_bytes(os.urandom(2), "big") % self._STEP
        self._last = 0

    @classmethod
    def at(cls, instant: int) -> int:
        """Return the least number of an instant."""
        return instant * cls._MILLISECOND

    def next(self) -> int:
        """Return the next number."""
        return self.take(1)[0]

    def take(self, count: int) -> range:
        """Return the next numbers, in order."""
        now = self._clock.latest() * self._MILLISECOND + self._instance
        first = max(self._last + self._STEP, now)
        end = first + count * self._STEP
        self._last = end - self._STEP
        return range(first, end, self._STEP)
