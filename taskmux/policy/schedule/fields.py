"""The cron dialect: from text to sets of numbers. Written down in `docs/schedules.md`.

All of an expression is read here, so that what it means does not hang on an engine's version. The
engine is given plain numbers for the days, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from taskmux.model.errors import DeclarationError
from taskmux.model.units import brief

__all__ = ["Fields", "read_expression"]

LONGEST = 255
"""Characters of an expression; read before anything else is done with it."""

NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
LENGTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

_PART = re.compile(
    r"(?P<star>\*)(?:/(?P<every>\d{1,4}))?"
    r"|(?P<first>\d{1,4}|[a-z]{3})(?:-(?P<last>\d{1,4}|[a-z]{3}))?(?:/(?P<step>\d{1,4}))?",
    re.ASCII,
)
_NTH = re.compile(r"(?P<day>[0-7]|[a-z]{3})#(?P<nth>[1-5])", re.ASCII)
_LAST = re.compile(r"(?P<before>[0-7]|[a-z]{3})l|l(?P<after>[0-7])", re.ASCII)


class Fields(NamedTuple):
    """An expression, read. `days`: expressions for the engine, of which one must fit; none: all."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: frozenset[int]
    days: tuple[str, ...]
    hour_star: bool
    """Whether the hour begins with `*`: it names no fixed time of the day."""


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


SECOND = _Field("second", 0, 59)
MINUTE = _Field("minute", 0, 59)
HOUR = _Field("hour", 0, 23)
DAY = _Field("day of the month", 1, 31)
MONTH = _Field("month", 1, 12, MONTHS)
WEEKDAY = _Field("weekday", 0, 6, DAYS)


class _Wrong(Exception):
    pass


def read_expression(expression: object, seconds: str = "first") -> Fields:
    """Return what an expression of five or six fields, or a nickname, means.

    Args:
        expression: such as `"0 9 * * mon-fri"`; with six fields the seconds are one of them.
        seconds: `"first"` or `"last"`: where the seconds are.

    Raises:
        DeclarationError: it is none, or no day will ever fit it.
    """
    if not isinstance(expression, str):
        raise _error(expression, "it is no text")
    if len(expression) > LONGEST:
        raise _error(expression, f"it has over {LONGEST} characters")
    return _read(expression, seconds == "last")


def _error(expression: object, why: str) -> DeclarationError:
    return DeclarationError(
        f"{brief(expression)} is no cron expression: {why}. Write five fields (minute, hour, day "
        f"of the month, month, weekday) such as '0 9 * * mon-fri', six with seconds, or one of "
        f"{', '.join(NICKNAMES)}."
    )


@lru_cache(maxsize=16_384)
def _read(expression: str, seconds_last: bool) -> Fields:  # noqa: FBT001 - a key of the cache
    text = expression.strip().lower()
    parts = NICKNAMES.get(text, text).split()
    if len(parts) == 6:  # noqa: PLR2004 - with seconds
        second = parts.pop(-1 if seconds_last else 0)
    elif len(parts) == 5:  # noqa: PLR2004 - without
        second = "0"
    else:
        raise _error(expression, f"it has {len(parts)} fields")
    minute, hour, day, month, weekday = parts
    try:
        months = frozenset(_numbers(MONTH, month))
        return Fields(
            _numbers(SECOND, second),
            _numbers(MINUTE, minute),
            _numbers(HOUR, hour),
            months,
            _days(day, months, weekday),
            any(part.startswith("*") for part in hour.split(",")),
        )
    except _Wrong as wrong:
        raise _error(expression, str(wrong)) from None


def _numbers(field: _Field, text: str) -> tuple[int, ...]:
    return tuple(sorted({number for part in text.split(",") for number in _part(field, part)}))


def _part(field: _Field, part: str) -> Iterator[int]:
    """Yield the numbers of one part: a number, a name, a range, `*`, each perhaps with a step."""
    match = _PART.fullmatch(part)
    if match is None:
        raise _Wrong(f"{brief(part)} is no {field.name}")
    size = field.high - field.low + 1
    if match["star"]:
        first, count, step = field.low, size, int(match["every"] or 1)
    else:
        first = _number(field, match["first"])
        step = int(match["step"] or 1)
        if match["last"]:
            count = (_number(field, match["last"]) - first) % size + 1
            if field is WEEKDAY and first == 0 and match["last"] == "7":  # Sunday to Sunday
                count = size
        else:
            count = field.high - first + 1 if match["step"] else 1
    if (match["every"] or match["step"]) and not 1 <= step < count:
        raise _Wrong(
            f"the step in {brief(part)} leads nowhere: of the {field.name}s it would give one alone"
        )
    for number in range(first, first + count, step):
        yield (number - field.low) % size + field.low


def _number(field: _Field, text: str) -> int:
    if text in field.names:
        return field.names.index(text) + field.low
    if text.isdigit():
        number = int(text)
        if field is WEEKDAY and number == 7:  # noqa: PLR2004 - Sunday has two numbers
            return 0
        if field.low <= number <= field.high:
            return number
    raise _Wrong(f"{brief(text)} is no {field.name}")


def _days(day: str, months: frozenset[int], weekday: str) -> tuple[str, ...]:
    """Return expressions for the engine; a day fits if one of them does.

    A field that is `*` (or `?`) says nothing. If both say something, either is enough.
    """
    found: list[str] = []
    if day not in {"*", "?"}:
        parts = day.split(",")
        last = ["l"] if "l" in parts else []
        plain = [part for part in parts if part != "l"]
        numbers = _numbers(DAY, ",".join(plain)) if plain else ()
        if weekday in {"*", "?"} and not last:
            _some_month_has(numbers, months)
        found.append(f"0 0 {','.join([*map(str, numbers), *last])} * *")
    if weekday not in {"*", "?"}:
        found += _weekdays(weekday.split(","))
    return tuple(found)


def _some_month_has(numbers: tuple[int, ...], months: frozenset[int]) -> None:
    if numbers[0] > max(LENGTHS[month - 1] for month in months):
        raise _Wrong("no such month has such a day, so that it would never be due")


def _weekdays(parts: list[str]) -> list[str]:
    """Return one expression for plain weekdays, and one for each that is counted in its month."""
    plain, counted = [], []
    for part in parts:
        if match := _NTH.fullmatch(part):
            counted.append(f"0 0 * * {_number(WEEKDAY, match['day'])}#{match['nth']}")
        elif match := _LAST.fullmatch(part):
            counted.append(f"0 0 * * l{_number(WEEKDAY, match['before'] or match['after'])}")
        else:
            plain.append(part)
    if plain:
        numbers = _numbers(WEEKDAY, ",".join(plain))
        counted.append(f"0 0 * * {','.join(map(str, numbers))}")
    return counted
