"""Builders: what users write becomes a trigger or a schedule, or a typed error at once."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from typing import Literal
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from taskmux.model.errors import DeclarationError
from taskmux.model.triggers import (
    AnyTrigger,
    BoundedTrigger,
    CronTrigger,
    Exclusions,
    InstantTrigger,
    IntervalTrigger,
    Misfire,
    Progress,
    Schedule,
    Trigger,
)
from taskmux.model.units import Duration, brief, check_name, instant_ms, milliseconds
from taskmux.policy.schedule.dst import END, check_zone
from taskmux.policy.schedule.fields import read_expression
from taskmux.policy.schedule.slots import next_slot
from taskmux.policy.schedule.stamp import stamp

__all__ = ["any_of", "at", "bounded", "cron", "every", "exclusions", "misfire", "schedule"]

Zone = str | ZoneInfo

SHORTEST_MS = 100
LONGEST_ID = 240
"""So that `<schedule>@<slot>` is the id of a job."""
MOST_TRIGGERS = 50
MOST_DATES = 500
MOST_CAP = 1000

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LONG = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def cron(
    expression: str,
    *,
    tz: Zone = "UTC",
    gap: Literal["shift", "skip"] = "shift",
    repeated: Literal["first", "both"] = "first",
    seconds: Literal["first", "last"] = "first",
) -> CronTrigger:
    """Return a trigger for an expression of five or six fields, or a nickname such as `@daily`.

    Raises:
        DeclarationError: the expression, the zone or an option is wrong.
    """
    _one_of("gap", gap, ("shift", "skip"))
    _one_of("repeated", repeated, ("first", "both"))
    _one_of("seconds", seconds, ("first", "last"))
    read_expression(expression, seconds)
    return CronTrigger(expression, check_zone(tz), gap, repeated, seconds)


def every(duration: Duration, *, anchor: datetime | None = None) -> IntervalTrigger:
    """Return a trigger for an interval: slots are counted from the anchor, else from the epoch.

    Raises:
        DeclarationError: it is no duration or shorter than 100 ms, or the anchor has no zone.
    """
    length = milliseconds(duration, "every")
    if length < SHORTEST_MS:
        raise DeclarationError(
            f"every {brief(duration)} is too short: the shortest interval is {SHORTEST_MS} ms. For "
            f"what runs all the time, use a loop in a handler."
        )
    return IntervalTrigger(length, 0 if anchor is None else _instant(anchor, "anchor"))


def at(instant: datetime) -> InstantTrigger:
    """Return a trigger for one instant.

    Raises:
        DeclarationError: the datetime has no zone, or is not between 1970 and 3000.
    """
    return InstantTrigger(_instant(instant, "at"))


def any_of(*triggers: Trigger) -> Trigger:
    """Return a trigger that is due whenever one of several is.

    Raises:
        DeclarationError: there is none, or there are too many.
    """
    flat: list[Trigger] = []
    for one in triggers:
        flat += one.triggers if isinstance(one, AnyTrigger) else [one]
    if not 1 <= len(flat) <= MOST_TRIGGERS:
        raise DeclarationError(
            f"A union of {len(flat)} triggers is not possible: from 1 to {MOST_TRIGGERS} are. "
            f"Use schedules of their own, or one expression with lists."
        )
    return flat[0] if len(flat) == 1 else AnyTrigger(tuple(flat))


def exclusions(
    *,
    tz: Zone = "UTC",
    weekdays: Iterable[str] = (),
    dates: Iterable[date | tuple[date, date]] = (),
    spans: Iterable[tuple[datetime, datetime]] = (),
) -> Exclusions:
    """Return what to leave out: weekdays by name, dates or ranges of them, spans of time.

    Args:
        tz: the zone whose days are meant.
        weekdays: such as `["sat", "sun"]`.
        dates: days, or pairs of a first and a last day.
        spans: pairs of instants: from the first until before the second.

    Raises:
        DeclarationError: one of them is not what it should be, or ends before it starts.
    """
    ranges = sorted({_dates(one) for one in dates})
    pairs = sorted({_span(one) for one in spans})
    if max(len(ranges), len(pairs)) > MOST_DATES:
        raise DeclarationError(
            f"There are more than {MOST_DATES} excluded dates or spans. Join them to longer ones."
        )
    days = tuple(sorted({_weekday(one) for one in weekdays}))
    return Exclusions(check_zone(tz), days, tuple(ranges), tuple(pairs))


def bounded(
    trigger: Trigger,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    exclude: Exclusions | None = None,
) -> Trigger:
    """Return a trigger from a start to an end, both included, without what is excluded.

    An interval is counted from the start then, unless it has an anchor of its own.

    Raises:
        DeclarationError: an instant has no zone, or nothing is left.
    """
    if start is None and end is None and exclude is None:
        return trigger
    first = 0 if start is None else _instant(start, "start")
    last = None if end is None else _instant(end, "end")
    if last is not None and last < first:
        raise DeclarationError(f"end {end} is before start {start}: nothing would ever be due.")
    if isinstance(trigger, IntervalTrigger) and start is not None and trigger.anchor == 0:
        trigger = replace(trigger, anchor=first)
    whole = BoundedTrigger(trigger, first, last, exclude)
    if next_slot(whole, first - 1) is None:
        raise DeclarationError(
            "Nothing is ever due between start and end that is not excluded. Move the end, or "
            "exclude less."
        )
    return whole


def misfire(
    policy: Literal["skip", "once", "all"] = "once",
    *,
    window: Duration = "1d",
    cap: int = 100,
    grace: Duration = "10s",
) -> Misfire:
    """Return what becomes of slots that nobody fired in time; the fields are `Misfire`'s.

    Raises:
        DeclarationError: the policy is none, or a number or a duration is wrong.
    """
    _one_of("misfire", policy, ("skip", "once", "all"))
    cap = _number("cap", cap, MOST_CAP)
    return Misfire(policy, milliseconds(window, "window"), cap, milliseconds(grace, "grace"))


def schedule(
    name: str,
    trigger: Trigger,
    now: int,
    *,
    before: Schedule | None = None,
    misfire: Misfire | None = None,
    limit: int | None = None,
    jitter: Duration = 0,
    immediately: bool = False,
) -> Schedule:
    """Return a schedule that begins now.

    Earlier slots are no business of it, but for a single instant: if that has passed, the misfire
    policy says whether it is made up for.

    Args:
        name: its id.
        trigger: when it is due.
        now: epoch milliseconds.
        before: what it replaces. Its counters go on; if the trigger is the same, what it missed is
            made up for as if nothing had happened, else the new one's slots count from now on.
        misfire: what becomes of slots that nobody fired in time.
        limit: jobs in all; it ends with the last.
        jitter: a job is due up to so much later than its slot, each slot by an amount of its own.
        immediately: there is a slot at once, or when the trigger starts.

    Raises:
        DeclarationError: the id, the limit or the jitter is wrong.
    """
    check_name(name, "schedule id")
    if len(name) > LONGEST_ID:
        raise DeclarationError(f"The schedule id {brief(name)} has over {LONGEST_ID} characters.")
    if limit is not None:
        _number("limit", limit, 2**53)
    if before is not None and before.trigger == trigger:
        progress, noted = before.progress, before.stamp
    else:
        past = Progress(0) if before is None else before.progress
        progress, noted = _begin(past, trigger, now, immediately), stamp(trigger, now)
    return Schedule(
        name,
        trigger,
        progress,
        misfire or Misfire(),
        limit,
        milliseconds(jitter, "jitter"),
        immediately,
        noted,
    )


def _begin(past: Progress, trigger: Trigger, now: int, immediately: bool) -> Progress:  # noqa: FBT001 - private
    first = _at_once(trigger, now) if immediately else None
    seen = now if first is None else first - 1
    if isinstance(trigger, InstantTrigger) and trigger.at <= now:
        seen = trigger.at - 1
    return replace(past, seen=max(0, seen), first=first)


def _at_once(trigger: Trigger, now: int) -> int | None:
    """Return the first instant from now on at which the trigger's bounds allow a slot."""
    if not isinstance(trigger, BoundedTrigger):
        return now
    first = max(now, trigger.start)
    return next_slot(replace(trigger, trigger=InstantTrigger(first)), first - 1)


def _instant(value: datetime, what: str) -> int:
    try:
        instant = instant_ms(value, what)
    except OverflowError:  # at the very ends of what a datetime can say
        instant = -1
    if 0 <= instant < END:
        return instant
    raise DeclarationError(f"{what} {brief(value)} is not between the years 1970 and 3000.")


def _span(value: object) -> tuple[int, int]:
    match value:
        case (datetime() as first, datetime() as last):
            begin, end = _instant(first, "span"), _instant(last, "span")
            if begin < end:
                return begin, end
    raise DeclarationError(
        f"{brief(value)} is no span of time. Give a pair of datetimes with a time zone, the "
        f"earlier one first."
    )


def _dates(value: object) -> tuple[date, date]:
    match value:
        case datetime() | (datetime(), _) | (_, datetime()):
            pass  # a datetime is a date, too, but not meant as one
        case date():
            return value, value
        case (date() as first, date() as last) if first <= last:
            return first, last
    raise DeclarationError(
        f"{brief(value)} is no excluded date. Give a date, or a pair of a first and a last date; "
        f"for datetimes use spans=."
    )


def _weekday(value: object) -> int:
    name = value.lower() if isinstance(value, str) else ""
    for names in (_DAYS, _LONG):
        if name in names:
            return names.index(name)
    raise DeclarationError(f"{brief(value)} is no weekday. Use one of {', '.join(_DAYS)}.")


def _one_of(what: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise DeclarationError(f"{what} {brief(value)} is none of {', '.join(choices)}.")


def _number(what: str, value: object, most: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    raise DeclarationError(f"{what} {brief(value)} is no number from 1 to {most}.")
