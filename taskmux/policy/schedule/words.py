"""Words: a small grammar for triggers. Written down in `docs/schedules.md`.

```
every AMOUNT                                   every 5 minutes, every 1 hour and 30 minutes
every second|minute|hour|day|month|year        every hour
every DAYS [at TIMES]                          every weekday at 18:30, every mon and fri at 8am
every NTH day|DAY of the month [at TIMES]      every first monday of the month at 8:00
every MONTH NTH [at TIMES]                     every december 24th at 12:00
in AMOUNT                                      in 20 minutes
today|tomorrow|DATE at TIME                    tomorrow at 9:00, 2030-01-31 at 9:00
[next] DAY at TIME                             monday at 9:00
at TIME                                        at 3:30pm
```
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from taskmux.model.errors import DeclarationError
from taskmux.model.triggers import (
    AnyTrigger,
    BoundedTrigger,
    CronTrigger,
    InstantTrigger,
    IntervalTrigger,
    Trigger,
)
from taskmux.model.units import brief, milliseconds, show_ms
from taskmux.policy.schedule import declare, dst

__all__ = ["Understood", "describe", "understand"]

LONGEST = 200

UNDERSTOOD = (
    "'every 5 minutes', 'every hour', 'every day at 9:00', 'every weekday at 18:30', "
    "'every monday and friday at 8am', 'every first monday of the month at 8:00', "
    "'every last day of the month at noon', 'every december 24th at 12:00', 'in 20 minutes', "
    "'tomorrow at 9:00', 'next monday at 9:00', 'at 3:30pm', '2030-01-31 at 9:00'"
)

_LENGTHS = {
    **dict.fromkeys(("s", "sec", "second"), 1000),
    **dict.fromkeys(("m", "min", "minute"), 60_000),
    **dict.fromkeys(("h", "hr", "hour"), 3_600_000),
    **dict.fromkeys(("d", "day"), 86_400_000),
    **dict.fromkeys(("w", "week"), 604_800_000),
}
_COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_CALENDAR = {
    "second": "* * * * * *",
    "minute": "* * * * *",
    "hour": "0 * * * *",
    "day": "0 0 * * *",
    "month": "0 0 1 * *",
    "year": "0 0 1 1 *",
}
_DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("october", "november", "december"),
)
_ORDINALS = ("first", "second", "third", "fourth", "fifth")

_UNIT = "(?:seconds?|secs?|minutes?|mins?|hours?|hrs?|days?|weeks?|[smhdw])"
_PART = rf"(?:\d{{1,6}} ?|(?:an?|{'|'.join(_COUNTS)}) ){_UNIT}"
_AMOUNT = rf"(?P<amount>{_PART}(?: ?(?:and )?{_PART})*)"
_TIME = r"(?:noon|midnight|\d{1,2}:\d\d(?::\d\d)?(?: ?[ap]m)?|\d{1,2} ?[ap]m)"
_TIMES = rf"(?: at (?P<times>{_TIME}(?: (?:and )?{_TIME})*))?"
_DAY = "(?:" + "|".join(f"{day[:3]}(?:{day[3:]}s?)?" for day in _DAYS) + ")"
_MONTH = "(?:" + "|".join(f"{one[:3]}(?:{one[3:]})?" for one in _MONTHS) + ")"
_NTH = rf"(?:last|{'|'.join(_ORDINALS)}|\d{{1,2}}(?:st|nd|rd|th))"


class Understood(NamedTuple):
    """What words mean, and the same said in other words, so that a user can see it."""

    trigger: Trigger
    said: str


class _Ask(NamedTuple):
    """How a user's cron trigger is made, and what `now` is there."""

    cron: Callable[[str], CronTrigger]
    tz: str
    now: int

    @property
    def today(self) -> date:
        """The date in the zone."""
        return datetime.fromtimestamp(self.now / 1000, ZoneInfo(self.tz)).date()


class _Meaningless(Exception):
    pass


def understand(
    text: object,
    now: int,
    *,
    tz: declare.Zone = "UTC",
    gap: Literal["shift", "skip"] = "shift",
    repeated: Literal["first", "both"] = "first",
) -> Understood:
    """Return what words mean.

    Args:
        text: such as `"every weekday at 18:30"`.
        now: epoch milliseconds, for words such as "in" and "tomorrow".
        tz: the zone whose clock and days are meant.
        gap: as in `cron`.
        repeated: as in `cron`.

    Raises:
        DeclarationError: they mean nothing here; the error says what is understood.
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        raise _error(text)
    zone = dst.check_zone(tz)
    ask = _Ask(partial(declare.cron, tz=zone, gap=gap, repeated=repeated), zone, now)
    plain = " ".join(text.lower().replace(",", " ").split())
    for pattern, make in _FORMS:
        if match := pattern.fullmatch(plain):
            try:
                trigger = make(match, ask)
            except _Meaningless as why:
                raise _error(text, f" ({why})") from None
            return Understood(trigger, describe(trigger))
    raise _error(text)


def _error(text: object, why: str = "") -> DeclarationError:
    return DeclarationError(
        f"{brief(text)} means nothing here{why}. What is understood: {UNDERSTOOD}; or a cron "
        f"expression such as '0 9 * * mon-fri'."
    )


def describe(trigger: Trigger) -> str:
    """Return when a trigger is due, in words for people."""
    match trigger:
        case CronTrigger(expression, tz):
            return f"whenever the clock of {tz} fits {expression!r}"
        case IntervalTrigger(length, anchor):
            return f"every {show_ms(length)}, counted from {_moment(anchor)}"
        case InstantTrigger(at):
            return f"once, {_moment(at)}"
        case AnyTrigger(triggers):
            return ", and ".join(map(describe, triggers))
        case BoundedTrigger(inner, start, end, exclude):
            since = f", from {_moment(start)}" if start else ""
            until = "" if end is None else f", until {_moment(end)}"
            return f"{describe(inner)}{since}{until}{', but for what is excluded' * bool(exclude)}"


def _moment(instant: int) -> str:
    return f"{datetime.fromtimestamp(instant / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _amount(match: re.Match[str]) -> str:
    """Return an amount of time as a duration."""
    total = 0
    for part in re.findall(_PART, match["amount"]):
        unit = re.split(r"[\d ]+", part)[-1]
        total += _count(part.removesuffix(unit).strip()) * _LENGTHS[_singular(unit)]
    return f"{total}ms"


def _count(number: str) -> int:
    if number.isdigit():
        return int(number)
    return 1 if number in {"a", "an"} else _COUNTS.index(number)


def _singular(unit: str) -> str:
    return unit if len(unit) == 1 else unit.removesuffix("s")


def _times(text: str | None) -> list[tuple[int, int, int]]:
    """Return times of the day as hours, minutes and seconds; none said: midnight."""
    if text is None:
        return [(0, 0, 0)]
    return [_time(one) for one in re.findall(_TIME, text)]


def _time(text: str) -> tuple[int, int, int]:
    if text in {"noon", "midnight"}:
        return (12 if text == "noon" else 0), 0, 0
    digits = text.rstrip("apm ")
    hour, minute, second = (int(part) for part in (*digits.split(":"), "0", "0")[:3])
    half = text[len(digits) :].strip()
    if half:
        if not 1 <= hour <= 12:  # noqa: PLR2004 - as on a dial
            raise _Meaningless(f"there is no {text}")
        hour = hour % 12 + (12 if half == "pm" else 0)
    if hour > 23 or minute > 59 or second > 59:  # noqa: PLR2004 - as on a clock
        raise _Meaningless(f"there is no {text}")
    return hour, minute, second


def _crons(ask: _Ask, times: Iterable[tuple[int, int, int]], days: str) -> Trigger:
    """Return a trigger for times of days, where `days` is the rest of an expression."""
    hours: dict[tuple[int, int], set[int]] = {}
    for hour, minute, second in times:
        hours.setdefault((second, minute), set()).add(hour)
    return declare.any_of(
        *(
            ask.cron(
                f"{f'{second} ' if second else ''}{minute} {','.join(map(str, sorted(at)))} {days}"
            )
            for (second, minute), at in hours.items()
        )
    )


def _interval(match: re.Match[str], ask: _Ask) -> Trigger:  # noqa: ARG001 - all forms take both
    return declare.every(_amount(match))


def _calendar(match: re.Match[str], ask: _Ask) -> Trigger:
    return ask.cron(_CALENDAR[match["unit"]])


def _on_days(match: re.Match[str], ask: _Ask) -> Trigger:
    return _crons(ask, _times(match["times"]), f"* * {_weekdays(match['days'])}")


def _weekdays(text: str) -> str:
    if text.startswith(("day", "daily")):
        return "*"
    if text.startswith("week"):
        return "0,6" if text.startswith("weekend") else "1-5"
    if ends := re.fullmatch(rf"({_DAY}) ?(?:to|-|through) ?({_DAY})", text):
        return f"{_weekday(ends[1])}-{_weekday(ends[2])}"
    return ",".join(map(str, sorted({_weekday(day) for day in re.findall(_DAY, text)})))


def _weekday(name: str) -> int:
    return [day[:3] for day in _DAYS].index(name[:3])


def _in_month(match: re.Match[str], ask: _Ask) -> Trigger:
    nth, day = match["nth"], match["day"]
    last = nth == "last"
    if day in {None, "day"}:
        days = f"{'L' if last else _ordinal(nth, 31)} * *"
    else:
        weekday = _weekday(day)
        days = f"* * {weekday}L" if last else f"* * {weekday}#{_ordinal(nth, 5)}"
    return _crons(ask, _times(match["times"]), days)


def _ordinal(nth: str, most: int) -> int:
    number = _ORDINALS.index(nth) + 1 if nth in _ORDINALS else int(nth[:-2])
    if not 1 <= number <= most:
        raise _Meaningless(f"there is no {nth}")
    return number


def _in_year(match: re.Match[str], ask: _Ask) -> Trigger:
    month = [one[:3] for one in _MONTHS].index(match["month"][:3]) + 1
    nth = match["nth"]
    day = "L" if nth == "last" else int(re.sub(r"\D", "", nth))
    return _crons(ask, _times(match["times"]), f"{day} {month} *")


def _later(match: re.Match[str], ask: _Ask) -> Trigger:
    return InstantTrigger(ask.now + milliseconds(_amount(match), "in"))


def _on_date(match: re.Match[str], ask: _Ask) -> Trigger:
    named = match["date"]
    try:
        day = {
            "today": ask.today,
            "tomorrow": ask.today + timedelta(days=1),
        }.get(named) or date.fromisoformat(named)
    except ValueError:
        raise _Meaningless(f"there is no {named}") from None
    return _instant(ask, day, match["time"])


def _on_weekday(match: re.Match[str], ask: _Ask) -> Trigger:
    ahead = (_weekday(match["day"]) - ask.today.isoweekday()) % 7
    if ahead or not match["next"]:
        coming = _instant(ask, ask.today + timedelta(days=ahead), match["time"], past=True)
        if coming.at > ask.now:
            return coming
    return _instant(ask, ask.today + timedelta(days=ahead or 7), match["time"])


def _at_time(match: re.Match[str], ask: _Ask) -> Trigger:
    today = _instant(ask, ask.today, match["time"], past=True)
    if today.at > ask.now:
        return today
    return _instant(ask, ask.today + timedelta(days=1), match["time"])


def _instant(ask: _Ask, day: date, time: str, *, past: bool = False) -> InstantTrigger:
    hour, minute, second = _time(time)
    midnight = (day.toordinal() - date(1970, 1, 1).toordinal()) * dst.DAY
    at = dst.to_instant(ask.tz, midnight + hour * 3600 + minute * 60 + second) * 1000
    if at <= ask.now and not past:
        raise _Meaningless(f"{day} {time} has passed")
    return InstantTrigger(at)


_SOME_DAYS = (
    rf"(?P<days>days?|weekdays?|weekend(?: days?|s)?"
    rf"|{_DAY} ?(?:to|-|through) ?{_DAY}|{_DAY}(?: (?:and )?{_DAY})*)"
)
_ON_NTH = rf"(?P<nth>{_NTH})(?: (?P<day>day|{_DAY}))?"

_Form = Callable[[re.Match[str], _Ask], Trigger]

_FORMS: tuple[tuple[re.Pattern[str], _Form], ...] = tuple(
    (re.compile(pattern, re.ASCII), make)
    for pattern, make in (
        (rf"every {_AMOUNT}", _interval),
        (rf"every (?P<unit>{'|'.join(_CALENDAR)})", _calendar),
        (rf"every {_SOME_DAYS}{_TIMES}", _on_days),
        (rf"(?P<days>daily|weekdays|weekends){_TIMES}", _on_days),
        (rf"every {_ON_NTH} of (?:the|every) month{_TIMES}", _in_month),
        (rf"every month on the {_ON_NTH}{_TIMES}", _in_month),
        (rf"every (?P<month>{_MONTH}) (?P<nth>\d{{1,2}}|{_NTH}){_TIMES}", _in_year),
        (rf"in {_AMOUNT}", _later),
        (rf"(?P<date>today|tomorrow|\d{{4}}-\d\d-\d\d)(?: at)? (?P<time>{_TIME})", _on_date),
        (rf"(?P<next>next )?(?P<day>{_DAY}) at (?P<time>{_TIME})", _on_weekday),
        (rf"(?:at )?(?P<time>{_TIME})", _at_time),
    )
)
