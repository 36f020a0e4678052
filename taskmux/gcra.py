"""Rates by the generic cell rate algorithm: two numbers per rate, and no window to keep.

A meter says how full a bucket is, in jobs, and when that was: it leaks at the rate's even pace,
and every start fills it by one. It holds `burst + 1`. Unlike counters per window, this never lets
twice the rate through at a window's edge; and a new rate counts at once. Instants are
milliseconds.

Source: ITU-T I.371, annex A (the continuous-state leaky bucket).
"""

from __future__ import annotations

import math

import msgspec

from taskmux.messages import Rate

__all__ = ["Meter", "opens_in", "room", "spend"]

EPSILON = 1e-6
"""Jobs: what adding up fractions may be off by."""


class Meter(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The bucket's level in jobs, and at which instant that was."""

    level: float = 0.0
    at: int = 0


def _level(rate: Rate, meter: Meter, now: int) -> float:
    leaked = max(0, now - meter.at) * rate.count / rate.per
    return max(0.0, meter.level - leaked)


def room(rate: Rate, meter: Meter, now: int) -> int:
    """Return how many may start now."""
    return max(0, math.floor(rate.burst + 1 - _level(rate, meter, now) + EPSILON))


def spend(rate: Rate, meter: Meter, now: int, count: int) -> Meter:
    """Return the meter after `count` starts now."""
    return Meter(_level(rate, meter, now) + count, max(now, meter.at))


def opens_in(rate: Rate, meter: Meter, now: int) -> int:
    """Return the whole milliseconds until one more may start; 0 if it may now."""
    over = _level(rate, meter, now) - rate.burst - EPSILON / 2
    return max(0, math.ceil(over * rate.per / rate.count))
