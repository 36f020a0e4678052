"""Zones: when their offsets change, and what the wall clock shows when.

*Wall seconds* are what a clock on the wall shows, counted as if it showed UTC. All numbers here are
whole seconds; instants are counted from the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from taskmux.model.errors import DeclarationError
from taskmux.model.units import brief

__all__ = [
    "END",
    "LAST_YEAR",
    "Change",
    "changes",
    "check_zone",
    "latest_change",
    "offset",
    "to_instant",
]

LAST_YEAR = 2999
END = 32_503_680_000_000
"""The year 3000 in epoch milliseconds: nothing is due from then on."""

DAY = 86_400

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_+\-/]{0,63}", re.ASCII)
_LOCAL = {"localtime", "posixrules", "Factory"}
"""Keys that mean another zone on another machine, or none."""


def check_zone(zone: object, what: str = "tz") -> str:
    """Return the key of an IANA time zone.

    Args:
        zone: its key, such as `"Europe/Berlin"`, or a ZoneInfo.
        what: how the error calls it.

    Raises:
        DeclarationError: this machine knows no such zone.
    """
    key = zone.key if isinstance(zone, ZoneInfo) else zone
    if not isinstance(key, str) or not _KEY.fullmatch(key) or key in _LOCAL:
        raise _unknown(what, zone)
    try:
        ZoneInfo(key)
    except (ValueError, KeyError, OSError):  # of a bad key, of none such, of a folder
        raise _unknown(what, zone) from None
    return key


def _unknown(what: str, zone: object) -> DeclarationError:
    return DeclarationError(
        f"{what} {brief(zone)} is no time zone that this machine knows. Use the name of a zone "
        f"such as 'UTC', 'Europe/Berlin' or 'America/New_York', written as IANA writes it."
    )


@cache
def _zone(key: str) -> ZoneInfo:
    """Return a zone; a stored trigger may name one that only another machine knows."""
    return ZoneInfo(check_zone(key))


def offset(key: str, instant: int) -> int:
    """Return how far a zone's wall clock is ahead of UTC at an instant.

    Raises:
        DeclarationError: this machine knows no such zone.
    """
    ahead = datetime.fromtimestamp(instant, _zone(key)).utcoffset()
    assert ahead is not None
    return ahead.days * DAY + ahead.seconds


class Change(NamedTuple):
    """From `at` on a zone's offset is `after`; until then it was `before`.

    At the end of each year stands one that changes nothing.
    """

    at: int
    before: int
    after: int

    @property
    def old_wall(self) -> int:
        """What the wall clock would show next, had it not been set."""
        return self.at + self.before

    @property
    def new_wall(self) -> int:
        """What it shows instead."""
        return self.at + self.after


def changes(key: str, instant: int) -> Iterator[Change]:
    """Yield the changes after an instant, up to the end of the last year."""
    year = datetime.fromtimestamp(instant, UTC).year
    while year <= LAST_YEAR:
        yield from (one for one in _year(key, year) if one.at > instant)
        year += 1


def latest_change(key: str, instant: int) -> Change | None:
    """Return the last change at or before an instant, if it was in this year or the last."""
    year = datetime.fromtimestamp(instant, UTC).year
    both = (*_year(key, year - 1), *_year(key, year))
    found = [one for one in both if one.at <= instant and one.before != one.after]
    return found[-1] if found else None


@lru_cache(maxsize=8192)
def _year(key: str, year: int) -> tuple[Change, ...]:
    """Return the changes of a year, after its first instant up to its end.

    Each day is looked at, since zoneinfo does not list them; two changes in one day that undo each
    other would not be seen, and there are none.
    """
    start = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp())
    found, before = [], offset(key, start)
    for day in range(start, end, DAY):
        after = offset(key, day + DAY)
        if after != before:
            found.append(Change(_moment(key, day, day + DAY), before, after))
            before = after
    found.append(Change(end, before, before))
    return tuple(found)


def _moment(key: str, low: int, high: int) -> int:
    """Return the first instant of the offset that holds at `high` but not yet at `low`."""
    new = offset(key, high)
    while high - low > 1:
        middle = (low + high) // 2
        if offset(key, middle) == new:
            high = middle
        else:
            low = middle
    return high


def to_instant(key: str, wall: int) -> int:
    """Return when a wall clock shows this first; for what it never shows, the end of the gap."""
    early = wall - offset(key, wall - DAY)
    late = wall - offset(key, wall + DAY)
    for instant in sorted((early, late)):
        if instant + offset(key, instant) == wall:
            return instant
    if early == late:
        return early
    return _moment(key, min(early, late) - 1, max(early, late))
