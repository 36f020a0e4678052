"""Cron in zones whose clocks are set, against minutes counted one by one.

The oracle shares nothing with the code but the written policy: it marks the fitting minutes of the
wall clock in one long row of bytes, reads off what the clock shows in each minute that passes, and
then applies the policy to the minutes that were shown twice or never. Days are matched by their
dates, not by an engine.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from taskmux.policy.schedule import declare, dst
from taskmux.policy.schedule.slots import slots
from tests.scale import scaled

ZONES = """
America/New_York America/Los_Angeles America/St_Johns America/Santiago America/Sao_Paulo
America/Havana America/Asuncion America/Scoresbysund America/Nuuk America/Halifax America/Caracas
America/Bogota America/Tijuana America/Port-au-Prince Europe/Berlin Europe/London Europe/Dublin
Europe/Lisbon Europe/Istanbul Europe/Moscow Europe/Volgograd Africa/Casablanca Africa/Cairo
Africa/Juba Africa/Lagos Asia/Kolkata Asia/Kathmandu Asia/Tehran Asia/Gaza Asia/Beirut Asia/Amman
Asia/Damascus Asia/Pyongyang Australia/Lord_Howe Australia/Sydney Australia/Adelaide
Pacific/Auckland Pacific/Chatham Pacific/Apia Antarctica/Troll
""".split()  # noqa: SIM905 - forty quoted lines are harder to read

EXPRESSIONS = (
    """
*/5 * * * *|0 * * * *|59 * * * *|*/30 * * * *|15,45 */2 * * *|0 */6 * * *|30 1 * * *|30 2 * * *
0 2 * * *|0 3 * * *|0 0 * * *|30 0 * * *|59 23 * * *|0 1,2,3 * * *|*/20 1 * * *|*/20 2 * * *
*/15 1-4 * * *|30 0-3 * * *|0 2-5 * * *|0,30 22-3 * * *|0 9-17 * * mon-fri|30 8-18/2 * * *
0 9 * * 1|30 18 * * mon-fri|0 2 * * sun|30 2 * * 0|30 1 * * sun|0 12 * * 6,7|0 8 * * mon#1
0 2 * * sun#2|0 1 * * sun#1|30 2 * * sunL|0 1 * * 0L|0 23 * * fri#5|15 2 1 * *|0 0 1 * *
30 3 L * *|0 0 15,L * *|0 2 13 * fri|45 1 1-7 * sun|0 0 29 2 *|0 0 31 * *|0 12 30 */2 *
0 4 * mar,oct,nov *|30 2 8-14 3 *|10 1 25-31 10 0|0 0 1 1 *|0 0 */10 * *|5 0 * * 0-7/3|0 23-1 * * *
""".strip()
    .replace("\n", "|")
    .split("|")
)

POLICIES = [("shift", "first"), ("skip", "both"), ("shift", "both"), ("skip", "first")]


def test_there_are_as_many_as_said():
    assert (len(set(ZONES)), len(set(EXPRESSIONS))) == (40, 50)


class Row(NamedTuple):
    """A zone, minute by minute: runs of minutes in which its clock shows consecutive ones."""

    start: int  # minutes from the epoch
    runs: list[tuple[int, int, int]]  # from, until before, and how far ahead the clock is


@cache
def row(zone: str, first: int, years: int) -> Row:
    """Look at the clock in each hour, and in each minute of the hours in which it was set."""
    info = ZoneInfo(zone)
    start = int(datetime(first, 1, 1, tzinfo=UTC).timestamp()) // 60
    end = int(datetime(first + years, 1, 1, tzinfo=UTC).timestamp()) // 60

    def ahead(minute: int) -> int:
        shown = datetime.fromtimestamp(minute * 60, UTC).astimezone(info).replace(tzinfo=UTC)
        return int(shown.timestamp()) // 60 - minute

    runs, begin, now = [], start, ahead(start)
    for hour in range(start, end, 60):
        if ahead(hour + 60) != now:
            for minute in range(hour, hour + 61):
                if ahead(minute) != now:
                    runs.append((begin, minute, now))
                    begin, now = minute, ahead(minute)
    runs.append((begin, end, now))
    return Row(start, runs)


@cache
def numbers(text: str, low: int, high: int, names: str = "") -> frozenset[int]:
    """Read a field the simple way."""
    for at, name in enumerate(names.split()):
        text = text.replace(name, str(at + low))
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        if span == "*":
            span = f"{low}-{high}"
        first, _, last = span.partition("-")
        begin, end = int(first), int(last or (high if step else first))
        every = list(range(begin, end + 1))
        if end < begin:
            every = [*range(begin, high + 1), *range(low, end + 1)]
        found |= set(every[:: int(step or 1)])
    return frozenset(found)


WEEKDAYS = "sun mon tue wed thu fri sat"
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec"


def fits(day: date, days: str, months: str, weekdays: str) -> bool:
    """Say whether a date fits the three fields of days."""
    if day.month not in numbers(months, 1, 12, MONTHS):
        return False
    last = calendar.monthrange(day.year, day.month)[1]
    weekday = day.isoweekday() % 7
    in_month = any(
        day.day == last if part == "L" else day.day in numbers(part, 1, 31)
        for part in days.split(",")
    )
    in_week = False
    for part in weekdays.split(","):
        name, _, nth = part.partition("#")
        if part.endswith("L"):
            hit = weekday in numbers(part[:-1], 0, 6, WEEKDAYS) and day.day > last - 7
        else:
            hit = weekday in {one % 7 for one in numbers(name, 0, 6, WEEKDAYS)}
            hit = hit and (not nth or (day.day - 1) // 7 + 1 == int(nth))
        in_week = in_week or hit
    if "*" in (days, weekdays):
        return in_month and in_week
    return in_month or in_week


@cache
def marked(expression: str, first: int, years: int) -> tuple[int, bytes]:
    """Return a byte for each minute of the wall clock, from two days before the first year on."""
    minutes, hours, days, months, weekdays = expression.split()
    pattern = bytearray(1440)
    for hour in numbers(hours, 0, 23):
        for minute in numbers(minutes, 0, 59):
            pattern[hour * 60 + minute] = 1
    day, end = date(first, 1, 1) - timedelta(2), date(first + years, 1, 3)
    begin, found = (day - date(1970, 1, 1)).days * 1440, bytearray()
    while day < end:
        found += pattern if fits(day, days, months, weekdays) else bytes(1440)
        day += timedelta(1)
    return begin, bytes(found)


def oracle(
    expression: str, zone: str, first: int, years: int, policy: tuple[str, str]
) -> Iterator[int]:
    """Yield the minutes that are slots."""
    gap, repeated = policy
    begin, marks = marked(expression, first, years)
    start, runs = row(zone, first, years)
    hits = bytearray()
    for since, until, ahead in runs:
        hits += marks[since + ahead - begin : until + ahead - begin]
    text = expression.split()[1]
    hours = numbers(text, 0, 23)
    for (_, at, before), (_, _, after) in pairwise(runs):
        low, high = sorted((at + before, at + after))
        # What the clock shows in the minute before the strange ones, and after them.
        if "*" in text or ((low - 1) // 60 % 24 in hours and high // 60 % 24 in hours):
            continue
        if after > before and gap == "shift" and any(marks[low - begin : high - begin]):
            hits[at - start] = 1
        if after < before and repeated == "first":
            hits[at - start : at - start + high - low] = bytes(high - low)
    at = hits.find(1)
    while at >= 0:
        yield start + at
        at = hits.find(1, at + 1)


def differences(zone: str, expression: str, first: int, years: int, policy: tuple[str, str]) -> int:
    """Return how many slots only one of the two has."""
    gap, repeated = policy
    start, runs = row(zone, first, years)
    trigger = declare.cron(expression, tz=zone, gap=gap, repeated=repeated)
    found = slots(trigger, start * 60_000 - 1, runs[-1][1] * 60_000 - 1)
    wanted = [minute * 60_000 for minute in oracle(expression, zone, first, years, policy)]
    return 0 if found == wanted else len(set(found) ^ set(wanted)) or 1


HARD = ["America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "America/Santiago"]
"""Clocks set at night, by half an hour, for Ramadan, at midnight."""


@pytest.mark.parametrize("zone", HARD)
@pytest.mark.parametrize("policy", POLICIES, ids="-".join)
def test_slots_are_those_of_minutes_counted_one_by_one(zone, policy):
    for expression in EXPRESSIONS[1:]:
        assert differences(zone, expression, 2025, 1, policy) == 0, expression


def test_a_day_that_a_zone_left_out():
    """Samoa went from the 29th of December 2011 to the 31st."""
    for expression in EXPRESSIONS[1:]:
        for policy in POLICIES:
            assert differences("Pacific/Apia", expression, 2011, 1, policy) == 0, expression


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("zone", ZONES[: scaled(len(ZONES))])
def test_ten_years_of_each_zone(zone):
    wrong = {
        (expression, policy): count
        for expression in EXPRESSIONS
        for policy in (POLICIES if expression != EXPRESSIONS[0] else POLICIES[:1])
        if (count := differences(zone, expression, 2018, 10, policy))
    }
    assert wrong == {}


def test_the_oracle_is_no_copy():
    """What the two known traps are: it finds them by counting."""
    policy = ("shift", "first")
    got = [
        datetime.fromtimestamp(minute * 60, ZoneInfo("America/New_York")).isoformat()
        for minute in oracle("30 1 * * sun", "America/New_York", 2025, 1, policy)
        if minute * 60 > datetime(2025, 10, 30, tzinfo=UTC).timestamp()
    ]
    assert got[:2] == ["2025-11-02T01:30:00-04:00", "2025-11-09T01:30:00-05:00"]
    gone = [
        datetime.fromtimestamp(minute * 60, ZoneInfo("America/New_York")).isoformat()
        for minute in oracle("30 2 * * sun", "America/New_York", 2025, 1, policy)
    ]
    assert "2025-03-09T03:00:00-04:00" in gone


def test_a_clock_set_shortly_before_the_year_ends_is_not_forgotten(monkeypatch):
    """No zone does so in our days; some did."""
    end = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp())
    set_back, no_change = dst.Change(end - 1800, 3600, 0), dst.Change(end, 0, 0)
    years = {2029: (set_back, no_change), 2030: (), 2028: ()}
    monkeypatch.setattr(dst, "_year", lambda key, year: years[year])
    assert dst.latest_change("UTC", end + 600) == set_back
    assert dst.latest_change("UTC", end - 1801) is None
