"""Rates by the generic cell rate algorithm: two numbers per rate, and no window to keep.

A meter says how full a bucket is, in jobs, and when that was: it leaks at the rate's even pace,
and every start fills it by one. It holds `burst + 1`. Unlike counters per window, this never lets
twice the rate through at a window's edge; and a new rate counts at once. Instants are
milliseconds.

Source: ITU-T I.371, annex A (the continuous-state leaky bucket).
"""

from __future__ import annotations

import math
import re
from typing import Annotated

import msgspec

from taskmux.model.errors import DeclarationError
from taskmux.model.queue import Rate
from taskmux.model.units import brief, milliseconds

__all__ = ["OPEN", "Gate", "Meter", "as_rate", "opens_in", "room", "spend"]

_RATE = re.compile(r"(\d{1,7})/([\d.]*[a-z]{1,2})(?:\+(\d{1,7}))?")
MOST = 1_000_000
DAY_MS = 86_400_000

EPSILON = 1e-6
"""Jobs: what adding up fractions may be off by."""


OPEN = 2**31
"""More starts than anybody asks for."""

_Level = Annotated[float, msgspec.Meta(ge=0, le=2**53)]
_Instant = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Meter(msgspec.Struct, frozen=True, gc=False):
    """The bucket's level in jobs, and at which instant that was."""

    level: _Level = 0.0
    at: _Instant = 0


class Gate(Meter, frozen=True, gc=False):
    """A queue's or a line's meter, and until when it is held: how many jobs may start now."""

    held_until: _Instant = 0

    def room(self, rate: Rate | None, now: int) -> int:
        """Return how many may start now."""
        if self.held_until > now:
            return 0
        return OPEN if rate is None else room(rate, self, now)

    def opens_in(self, rate: Rate | None, now: int) -> int:
        """Return the milliseconds until one may start."""
        paced = 0 if rate is None else opens_in(rate, self, now)
        return max(0, self.held_until - now, paced)

    def spent(self, rate: Rate, now: int, count: int) -> Gate:
        """Return the gate after so many starts now."""
        meter = spend(rate, self, now, count)
        return Gate(meter.level, meter.at, self.held_until)

    def held(self, until: int) -> Gate:
        """Return the gate held until then at least."""
        return Gate(self.level, self.at, max(self.held_until, until))

    def let_go(self) -> Gate:
        """Return the gate without a hold."""
        return Gate(self.level, self.at)

    def empty_at(self, rate: Rate | None) -> int:
        """Return the instant at which an untouched gate keeps nothing back any more."""
        leaks = 0 if rate is None else int(self.level * rate.per / rate.count) + 1
        return max(self.held_until, self.at + leaks)


def _level(rate: Rate, meter: Meter, now: int) -> float:
    full = min(meter.level, rate.burst + 1.0)  # a larger bucket before must not keep it shut
    leaked = abs(now - meter.at) * rate.count / rate.per  # nor must a clock that was set back
    return max(0.0, full - leaked)


def room(rate: Rate, meter: Meter, now: int) -> int:
    """Return how many may start now."""
    return max(0, math.floor(rate.burst + 1 - _level(rate, meter, now) + EPSILON))


def spend(rate: Rate, meter: Meter, now: int, count: int) -> Meter:
    """Return the meter after `count` starts now."""
    return Meter(_level(rate, meter, now) + count, now)


def opens_in(rate: Rate, meter: Meter, now: int) -> int:
    """Return the whole milliseconds until one more may start; 0 if it may now."""
    over = _level(rate, meter, now) - rate.burst - EPSILON / 2
    return max(0, math.ceil(over * rate.per / rate.count))


def as_rate(value: object) -> Rate:
    """Return a rate from text such as `"100/m"`, `"5/s"`, `"10/30s"` or `"100/m+20"`.

    The number after the plus is the burst; without it, a tenth of the count, at least 1. `+0`
    keeps an even pace however late a worker comes for the next one, so some of the rate is lost.

    Raises:
        DeclarationError: it is no rate, or one that nothing could ever pass.
    """
    if isinstance(value, Rate):
        count, per, burst = value.count, value.per, value.burst
    else:
        found = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            raise _no_rate(value)
        unit = found[2] if found[2][0].isdigit() else f"1{found[2]}"
        try:
            count, per = int(found[1]), milliseconds(unit)
        except DeclarationError:
            raise _no_rate(value) from None
        burst = int(found[3]) if found[3] else max(1, count // 10)
    whole = all(type(number) is int for number in (count, per, burst))
    if not (whole and 1 <= count <= MOST and 1 <= per <= DAY_MS and 0 <= burst <= MOST):
        raise _no_rate(value)
    return Rate(count, per, burst)


def _no_rate(value: object) -> DeclarationError:
    return DeclarationError(
        f"rate {brief(value)} is not a rate. Write how many per s, m, h or d: '100/m', '5/s', "
        f"'10/30s', with a burst '100/m+20'; from 1 to 1000000, per day at the longest. To stop a "
        f"queue, pause it."
    )
