"""Exclusions: whether a slot is left out, and until when."""

from __future__ import annotations

from datetime import date
from functools import lru_cache

from taskmux.model.triggers import Exclusions
from taskmux.policy.schedule import dst

__all__ = ["excluded_until", "exclusions"]

_EPOCH = date(1970, 1, 1).toordinal()
_MONDAY = 3
"""The weekday of the epoch's first day, a Thursday."""


def exclusions(exclude: Exclusions | None) -> int:
    """Return how many exclusions end for good; each is passed once at most."""
    return 0 if exclude is None else len(exclude.dates) + len(exclude.spans)


def excluded_until(exclude: Exclusions, slot: int) -> int | None:
    """Return the first instant after what leaves a slot out; None: it is not left out."""
    ends = [end for begin, end in exclude.spans if begin <= slot < end]
    if exclude.weekdays or exclude.dates:
        second = slot // 1000
        day = (second + dst.offset(exclude.tz, second)) // dst.DAY
        last_days = [last for first, last in _ranges(exclude.dates) if first <= day <= last]
        if (day + _MONDAY) % 7 in exclude.weekdays:
            last_days.append(day)
        if last_days:  # a day that begins in the hour that is repeated begins the first time
            midnight = (max(last_days) + 1) * dst.DAY
            ends.append(max(dst.to_instant(exclude.tz, midnight) * 1000, slot + 1))
    return max(ends, default=None)


@lru_cache(maxsize=4096)
def _ranges(dates: tuple[tuple[date, date], ...]) -> tuple[tuple[int, int], ...]:
    """Return ranges of dates as ranges of days counted from the epoch."""
    return tuple((first.toordinal() - _EPOCH, last.toordinal() - _EPOCH) for first, last in dates)
