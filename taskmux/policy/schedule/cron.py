"""Slots of a cron trigger: days by croniter, times of the day by our own sets, zones by `dst`.

The engine sees neither a zone nor a time of day: it is asked which days of a month fit, in UTC.
What happens when clocks are set is thus our own rule, the same for every version of the engine:

- A *fixed* time that a gap skips is due when the gap ends (`gap="shift"`) or not at all; several in
  one gap are one slot.
- A fixed time that is shown twice is due the first time (`repeated="first"`) or both times.
- Times are not fixed, and are due whenever the clock shows them, if the hour begins with `*`, or if
  the hours on both sides of the change are named: the expression then runs through the change.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache

from taskmux.model.errors import DeclarationError
from taskmux.model.triggers import CronTrigger
from taskmux.policy.schedule import dst
from taskmux.policy.schedule.dst import DAY, Change
from taskmux.policy.schedule.fields import Fields, read_expression

__all__ = ["engine", "walk"]

HOUR = 3600
LONGEST_WAIT = 12 * 60
"""Months without a fitting day; a 29th of February that is a fifth Monday is at most 40 years off.
"""


@cache
def engine() -> str:
    """Return the engine's name and version."""
    from importlib.metadata import version  # noqa: PLC0415 - slow to import, and seldom needed

    return f"croniter {version('croniter')}"


def walk(trigger: CronTrigger, after: int) -> Iterator[int]:
    """Yield the slots after an instant, in order, in epoch milliseconds.

    Raises:
        DeclarationError: the expression is none.
    """
    fields = read_expression(trigger.expression, trigger.seconds)
    for second in _instants(trigger, fields, after // 1000):
        yield second * 1000


def _instants(trigger: CronTrigger, fields: Fields, after: int) -> Iterator[int]:
    """Yield instants after another, from one change of the zone's offset to the next."""
    zone = trigger.tz
    walls = _walls(fields, _first_wall(trigger, fields, after))
    wall = next(walls, None)
    for change in dst.changes(zone, after):
        while wall is not None and wall < change.old_wall:
            yield wall - change.before
            wall = next(walls, None)
        if wall is None:
            return
        if wall < change.new_wall:  # in a gap
            walls = _walls(fields, change.new_wall)
            wall = next(walls, None)
            if trigger.gap == "shift" and _fixed(fields, change):
                yield change.at
                if wall == change.new_wall:
                    wall = next(walls, None)
        elif change.new_wall < change.old_wall and _twice(trigger, fields, change):
            walls = _walls(fields, change.new_wall)
            wall = next(walls, None)


def _first_wall(trigger: CronTrigger, fields: Fields, after: int) -> int:
    """Return the wall second from which on times count: later in an hour that is not repeated."""
    wall = after + 1 + dst.offset(trigger.tz, after)
    last = dst.latest_change(trigger.tz, after)
    if last is not None and wall < last.old_wall and not _twice(trigger, fields, last):
        return last.old_wall
    return wall


def _twice(trigger: CronTrigger, fields: Fields, change: Change) -> bool:
    """Say whether times that the clock shows again are due again."""
    return trigger.repeated == "both" or not _fixed(fields, change)


def _fixed(fields: Fields, change: Change) -> bool:
    """Say whether the hours are fixed times of the day at this change."""
    if fields.hour_star:
        return False
    low, high = sorted((change.old_wall, change.new_wall))
    return not ((low - 1) // HOUR % 24 in fields.hours and high // HOUR % 24 in fields.hours)


def _walls(fields: Fields, start: int) -> Iterator[int]:
    """Yield the wall seconds that fit, from `start` on."""
    first_day, first_time = divmod(start, DAY)
    for day in _days(fields, first_day):
        base = day * DAY
        for time in _times(fields, first_time if day == first_day else 0):
            yield base + time


def _times(fields: Fields, first: int) -> Iterator[int]:
    """Yield the seconds of a day that fit, from `first` on."""
    for hour in fields.hours:
        if (hour + 1) * HOUR <= first:
            continue
        for minute in fields.minutes:
            base = hour * HOUR + minute * 60
            if base + 60 <= first:
                continue
            for second in fields.seconds:
                if base + second >= first:
                    yield base + second


def _days(fields: Fields, first: int) -> Iterator[int]:
    """Yield the days that fit, counted from the epoch, from the first on."""
    today = date.fromordinal(_EPOCH + first)
    year, month, waited = today.year, today.month, 0
    while year <= dst.LAST_YEAR and waited < LONGEST_WAIT:
        days = _month(fields.days, year, month) if month in fields.months else ()
        waited = 0 if days else waited + 1
        begin = date(year, month, 1).toordinal() - 1 - _EPOCH
        yield from (begin + day for day in days if begin + day >= first)
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)  # noqa: PLR2004


_EPOCH = date(1970, 1, 1).toordinal()


@lru_cache(maxsize=65_536)
def _month(expressions: tuple[str, ...], year: int, month: int) -> tuple[int, ...]:
    """Return the days of a month that fit at least one expression; none at all: every day."""
    length = calendar.monthrange(year, month)[1]
    if not expressions:
        return tuple(range(1, length + 1))
    start = datetime(year, month, 1, tzinfo=UTC)
    end = start + timedelta(days=length)
    found = {day for one in expressions for day in _ask_engine(one, start, end)}
    return tuple(sorted(found))


def _ask_engine(expression: str, start: datetime, end: datetime) -> Iterator[int]:
    """Yield the days on which an expression fits, from the start of a month to its end."""
    # It takes longer to import than all of taskmux's own modules; few processes need it.
    from croniter import CroniterBadDateError, croniter  # noqa: PLC0415

    last = start - timedelta(seconds=1)
    iterator = croniter(expression, last)  # a fresh one for each month: it keeps state
    while True:
        try:
            found = iterator.get_next(datetime)
        except CroniterBadDateError:  # not within decades
            return
        if found <= last:
            raise DeclarationError(
                f"{engine()} found {found} after {last} for {expression!r}: it does not advance. "
                f"Install another version of croniter 7."
            )
        if found >= end:
            return
        yield found.day
        last = found
