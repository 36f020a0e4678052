"""Words: what is understood, and what the error says otherwise."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskmux.model.errors import DeclarationError
from taskmux.model.triggers import AnyTrigger, CronTrigger, InstantTrigger, IntervalTrigger
from taskmux.policy.schedule import declare, words
from taskmux.policy.schedule.slots import next_slot

BERLIN = "Europe/Berlin"
NOW = round(datetime(2026, 11, 28, 13, 0, tzinfo=UTC).timestamp() * 1000)  # a Saturday, 14:00 there


def understand(text: object, now: int = NOW) -> words.Understood:
    return words.understand(text, now, tz=BERLIN)


@pytest.mark.parametrize(
    ("words", "every_ms"),
    {
        "every 5 minutes": 300_000,
        "Every 5  Minutes": 300_000,
        "every 1 minute": 60_000,
        "every two hours": 7_200_000,
        "every 1 hour and 30 minutes": 5_400_000,
        "every 1 hour 30 mins": 5_400_000,
        "every 1h30m": 5_400_000,
        "every 90s": 90_000,
        "every 2 days": 2 * 86_400_000,
        "every a week": 7 * 86_400_000,
    }.items(),
)
def test_intervals(words, every_ms):
    assert understand(words).trigger == IntervalTrigger(every_ms)


@pytest.mark.parametrize(
    ("words", "expressions"),
    {
        "every second": ["* * * * * *"],
        "every minute": ["* * * * *"],
        "every hour": ["0 * * * *"],
        "every day": ["0 0 * * *"],
        "every month": ["0 0 1 * *"],
        "every year": ["0 0 1 1 *"],
        "daily at 3:30pm": ["30 15 * * *"],
        "every day at 9:00 and 17:00": ["0 9,17 * * *"],
        "every day at 9:00, 17:30": ["0 9 * * *", "30 17 * * *"],
        "every day at 12am": ["0 0 * * *"],
        "every day at 12 pm": ["0 12 * * *"],
        "every day at 9:00:15": ["15 0 9 * * *"],
        "every weekday at 18:30": ["30 18 * * 1-5"],
        "weekdays at noon": ["0 12 * * 1-5"],
        "every weekend at midnight": ["0 0 * * 0,6"],
        "every monday at 8am": ["0 8 * * 1"],
        "every mon, wed and fri at 8am": ["0 8 * * 1,3,5"],
        "every monday to friday at 08:05": ["5 8 * * 1-5"],
        "every fri-mon": ["0 0 * * 5-1"],
        "every first monday of the month at 8:00": ["0 8 * * 1#1"],
        "every 2nd tue of every month": ["0 0 * * 2#2"],
        "every last friday of the month at 17:00": ["0 17 * * 5L"],
        "every last day of the month at 23:00": ["0 23 L * *"],
        "every 15th of the month at noon": ["0 12 15 * *"],
        "every second day of the month": ["0 0 2 * *"],
        "every month on the 31st at 9:00": ["0 9 31 * *"],
        "every december 24th at 12:00": ["0 12 24 12 *"],
        "every feb 29": ["0 0 29 2 *"],
        "every february last": ["0 0 L 2 *"],
    }.items(),
)
def test_cron(words, expressions):
    trigger = understand(words).trigger
    members = trigger.triggers if isinstance(trigger, AnyTrigger) else (trigger,)
    assert members == tuple(CronTrigger(one, BERLIN) for one in expressions)


@pytest.mark.parametrize(
    ("words", "at"),
    {
        "in 20 minutes": "2026-11-28T14:20",
        "in an hour": "2026-11-28T15:00",
        "in 1 day and 2 hours": "2026-11-29T16:00",
        "today at 18:00": "2026-11-28T18:00",
        "tomorrow at 9:00": "2026-11-29T09:00",
        "tomorrow 9am": "2026-11-29T09:00",
        "at 3:30pm": "2026-11-28T15:30",
        "3:30 pm": "2026-11-28T15:30",
        "at 13:59": "2026-11-29T13:59",
        "at 14:00": "2026-11-29T14:00",
        "saturday at 15:00": "2026-11-28T15:00",
        "saturday at 9:00": "2026-12-05T09:00",
        "next saturday at 15:00": "2026-12-05T15:00",
        "monday at 9:00": "2026-11-30T09:00",
        "next mon at 9:00": "2026-11-30T09:00",
        "2030-06-01 at 9:00": "2030-06-01T09:00",
        "2027-03-28 at 2:30": "2027-03-28T03:00",  # there is no 2:30 on that night
        "2027-03-28 at 2:00": "2027-03-28T03:00",
        "2027-03-28 at 2:59:59": "2027-03-28T03:00",
        "2027-10-31 at 2:30": "2027-10-31T02:30+02:00",  # the first of two
    }.items(),
)
def test_instants(words, at):
    instant = datetime.fromisoformat(at)
    instant = instant if instant.tzinfo else instant.replace(tzinfo=ZoneInfo(BERLIN))
    assert understand(words).trigger == InstantTrigger(round(instant.timestamp() * 1000))


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "every", "soon", "every blue moon", "every 5 minuts", "in", "every week", "weekly"),
        *("every 2 months", "at 25:00", "at 12:60", "every day at 13pm", "every day at 0am"),
        *("every day at 9", "every 32nd of the month", "every 6th monday of the month"),
        *("yesterday at 9:00", "today at 9:00", "2026-02-30 at 9:00", "2020-01-01 at 9:00"),
        *("every 5 minutes at 9:00", "x" * 1_000_000, "every " * 30, 5, None, b"every hour"),
    ],
    ids=lambda it: repr(it)[:25],
)
def test_what_means_nothing_says_what_is_understood(wrong):
    with pytest.raises(DeclarationError, match="every weekday at 18:30") as caught:
        understand(wrong)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "wrong", ["every 0 minutes", "every zero hours", "in 999999 weeks", "every feb 30"]
)
def test_what_is_understood_may_still_be_impossible(wrong):
    with pytest.raises(DeclarationError):
        understand(wrong)


WORDS = (
    *("every", "in", "at", "and", "to", "of the month", "5", "two", "a", "minutes", "hour", "day"),
    *("weekday", "monday", "fri", "first", "last", "31st", "9:00", "8am", "noon", "today", "next"),
    *("december", "1h30m", "an", "2027-01-01", ","),
)


@given(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join))
def test_any_words_are_understood_or_refused(text):
    try:
        trigger, said = understand(text)
    except DeclarationError:
        return
    assert said
    assert next_slot(trigger, NOW) is not None


def test_it_says_what_it_understood():
    assert understand("every 5 minutes").said == "every 5m, counted from 1970-01-01 00:00:00 UTC"
    assert understand("tomorrow at 9:00").said == "once, 2026-11-29 08:00:00 UTC"
    assert understand("every mon at 9:00 and 17:30").said == (
        "whenever the clock of Europe/Berlin fits '0 9 * * 1', and whenever the clock of "
        "Europe/Berlin fits '30 17 * * 1'"
    )
    whole = declare.bounded(
        declare.cron("@daily"),
        start=datetime(2026, 1, 1, tzinfo=UTC),
        end=datetime(2027, 1, 1, tzinfo=UTC),
        exclude=declare.exclusions(weekdays=["sun"]),
    )
    assert words.describe(whole) == (
        "whenever the clock of UTC fits '@daily', from 2026-01-01 00:00:00 UTC, until 2027-01-01 "
        "00:00:00 UTC, but for what is excluded"
    )


def test_policies_for_clocks_that_are_set_go_along():
    trigger = words.understand(
        "every day at 2:30", NOW, tz=BERLIN, gap="skip", repeated="both"
    ).trigger
    assert trigger == CronTrigger("30 2 * * *", BERLIN, "skip", "both")
