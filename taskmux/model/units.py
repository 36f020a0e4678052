"""Durations and names: the small grammar that every declaration shares.

Inside taskmux every duration is an integer number of milliseconds and every instant an integer
number of milliseconds since the epoch, by the store's clock.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta

from taskmux.model.errors import DeclarationError, InvalidName

__all__ = [
    "PRIORITIES",
    "Duration",
    "PriorityName",
    "brief",
    "check_name",
    "check_queue",
    "checked_reason",
    "instant_ms",
    "milliseconds",
    "priority_number",
    "show_ms",
    "storable",
]

Duration = str | int | float | timedelta
"""`"250ms"`, `"30s"`, `"5m"`, `"1h30m"`, `"7d"`, a number of seconds, or a `timedelta`."""

PriorityName = str

PRIORITIES = {"critical": 10, "high": 50, "normal": 100, "low": 200}
"""Names for common priorities. Lower runs first; any integer from 0 to 2047 is a priority."""

MAX_PRIORITY = 2047
LONGEST_REASON = 1000
MAX_MS = 100 * 365 * 24 * 3600 * 1000

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)(ms|s|m|h|d|w)")
_QUEUE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}\Z")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@+\-]{0,254}\Z")


def brief(value: object, limit: int = 80) -> str:
    """Return how an error shows a wrong value: its repr, cut short, for it may be huge."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an integer of 5,000 digits, or an object that cannot say
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def storable(text: str, limit: int) -> str:
    """Return text as every store can hold it: cut to `limit` characters, valid UTF-8, no NUL.

    File names and foreign data bring lone surrogates into messages; they come out escaped. A NUL,
    which not every database can hold in a text, becomes the sign for it.
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    cut = cut.replace("\0", "␀")
    return cut if cut.isascii() else cut.encode(errors="backslashreplace").decode()


def checked_reason(value: object) -> str:
    """Return why a job is cancelled, as every store can hold it; `"on request"` for None.

    Raises:
        DeclarationError: it is no text of 1 to 1000 characters.
    """
    if value is None:
        return "on request"
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_REASON:
        raise DeclarationError(
            f"reason {brief(value)} is no text of 1 to {LONGEST_REASON} characters."
        )
    return storable(value, LONGEST_REASON)


def milliseconds(value: object, what: str = "duration") -> int:
    """Return a duration in whole milliseconds.

    Args:
        value: text such as `"1h30m"`, a number of seconds, or a timedelta.
        what: how the error calls it.

    Raises:
        DeclarationError: it is negative, not finite, over 100 years, or not a duration at all.
    """
    match value:
        case bool():
            number = math.nan
        case timedelta():
            number = value / timedelta(milliseconds=1)
        case int() | float():
            number = value * 1000
        case str():
            number = _parse(value)
        case _:
            number = math.nan
    if not 0 <= number <= MAX_MS:  # also refuses NaN
        raise DeclarationError(
            f"{what} {brief(value)} is not a duration. Write text such as '250ms', '30s', '5m' or "
            f"'1h30m', a number of seconds, or a timedelta; none may be negative or over 100 years."
        )
    return round(number)


def _parse(text: str) -> float:
    text = text.strip()
    if len(text) > 64:  # noqa: PLR2004 - no duration is longer; a hostile one ends here
        return math.nan
    total, end = 0.0, 0
    for part in _PART.finditer(text):
        if part.start() != end:
            return math.nan
        total += float(part[1]) * _UNITS[part[2]]
        end = part.end()
    return total if end and end == len(text) else math.nan


def show_ms(ms: int) -> str:
    """Return milliseconds as people write them, the two largest units: `"1m30s"`, `"1.5s"`."""
    if ms < 1000:  # noqa: PLR2004 - below a second
        return f"{ms}ms"
    if ms < 60_000:  # noqa: PLR2004 - below a minute
        return f"{ms / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    parts: list[str] = []
    rest = ms
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def instant_ms(value: object, what: str = "run_at") -> int:
    """Return an aware datetime as epoch milliseconds.

    Raises:
        DeclarationError: the datetime has no time zone, so it names no instant.
    """
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise DeclarationError(
            f"{what} {brief(value)} names no instant. Give a datetime with a time zone, "
            f"such as datetime.now(UTC) + timedelta(minutes=5), or use delay= instead."
        )
    return round(value.timestamp() * 1000)


def priority_number(value: object) -> int:
    """Return a priority from 0 (first) to 2047 (last).

    Raises:
        DeclarationError: the name is unknown or the number out of range.
    """
    if isinstance(value, str) and value in PRIORITIES:
        return PRIORITIES[value]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_PRIORITY:
        return value
    raise DeclarationError(
        f"priority {brief(value)} is neither a number from 0 (first) to {MAX_PRIORITY} nor one of "
        f"{', '.join(PRIORITIES)}."
    )


def check_queue(name: object) -> str:
    """Return the queue name if every store can hold it.

    Raises:
        InvalidName: it is empty, too long, or has characters outside letters, digits, `_ . -`.
    """
    if isinstance(name, str) and _QUEUE.match(name):
        return name
    raise InvalidName(
        f"{brief(name)} is not a queue name. Use 1 to 128 letters, digits, '_', '.' or '-', "
        f"starting with a letter, a digit or '_'."
    )


def check_name(name: object, what: str) -> str:
    """Return a task name, job id, tag or key if every store can hold it.

    Raises:
        InvalidName: it is empty, too long, or has characters outside letters, digits, `_.:/@+-`.
    """
    if isinstance(name, str) and _NAME.match(name):
        return name
    raise InvalidName(
        f"{brief(name)} is not a {what}. Use 1 to 255 letters, digits or any of '_.:/@+-', "
        f"starting with a letter, a digit or '_'."
    )
