"""Triggers: what users write, and the slots that follow from it."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import croniter
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskmux.model.errors import DeclarationError
from taskmux.model.triggers import CronTrigger, InstantTrigger, IntervalTrigger, Trigger
from taskmux.policy.schedule import declare
from taskmux.policy.schedule.fields import read_expression
from taskmux.policy.schedule.slots import next_slot, slots, walk

NOW = 1_700_000_000_000
HOUR, DAY = 3_600_000, 86_400_000


def ms(text: str, zone: str = "UTC") -> int:
    at = datetime.fromisoformat(text)
    return round((at if at.tzinfo else at.replace(tzinfo=ZoneInfo(zone))).timestamp() * 1000)


def shown(trigger: Trigger, since: str, count: int, zone: str = "UTC") -> list[str]:
    return [
        f"{datetime.fromtimestamp(slot / 1000, ZoneInfo(zone)):%m-%d %H:%M}"
        for slot in islice(walk(trigger, ms(since, zone) - 1), count)
    ]


class TestDialect:
    @pytest.mark.parametrize(
        ("expression", "slots"),
        {
            "*/20 * * * *": ["01-01 00:00", "01-01 00:20", "01-01 00:40"],
            "5-55/25 3 * * *": ["01-01 03:05", "01-01 03:30", "01-01 03:55"],
            "50/5 0 * * *": ["01-01 00:50", "01-01 00:55", "01-02 00:50"],
            "0 22-2/2 1 1 *": ["01-01 00:00", "01-01 02:00", "01-01 22:00"],
            "0 0 * * MON-FRI": ["01-01 00:00", "01-02 00:00", "01-05 00:00"],
            "0 0 * * sat-sun": ["01-03 00:00", "01-04 00:00", "01-10 00:00"],
            "0 0 * * 5-7": ["01-02 00:00", "01-03 00:00", "01-04 00:00"],
            "0 0 * * 7": ["01-04 00:00", "01-11 00:00", "01-18 00:00"],
            "0 0 * * 0-7": ["01-01 00:00", "01-02 00:00", "01-03 00:00"],
            "0 0 13 * fri": ["01-02 00:00", "01-09 00:00", "01-13 00:00"],
            "0 0 ? * fri": ["01-02 00:00", "01-09 00:00", "01-16 00:00"],
            "0 0 * * mon#1": ["01-05 00:00", "02-02 00:00", "03-02 00:00"],
            "0 0 * * friL": ["01-30 00:00", "02-27 00:00", "03-27 00:00"],
            "0 0 * * L5": ["01-30 00:00", "02-27 00:00", "03-27 00:00"],
            "0 0 * * mon#1,wed": ["01-05 00:00", "01-07 00:00", "01-14 00:00"],
            "0 0 L * *": ["01-31 00:00", "02-28 00:00", "03-31 00:00"],
            "0 0 15,L * *": ["01-15 00:00", "01-31 00:00", "02-15 00:00"],
            "0 0 31 jan,feb,mar *": ["01-31 00:00", "03-31 00:00", "01-31 00:00"],
            "0 0 28-2 feb *": ["02-01 00:00", "02-02 00:00", "02-28 00:00"],
            "@hourly": ["01-01 00:00", "01-01 01:00", "01-01 02:00"],
            "@daily": ["01-01 00:00", "01-02 00:00", "01-03 00:00"],
            "@weekly": ["01-04 00:00", "01-11 00:00", "01-18 00:00"],
            "@monthly": ["01-01 00:00", "02-01 00:00", "03-01 00:00"],
            "  0   12  1 */6 * ": ["01-01 12:00", "07-01 12:00", "01-01 12:00"],
        }.items(),
    )
    def test_what_an_expression_means(self, expression, slots):
        assert shown(declare.cron(expression), "2026-01-01", 3) == slots

    @pytest.mark.parametrize(
        ("where", "text"), [("first", "15 30 9 * * *"), ("last", "30 9 * * * 15")]
    )
    def test_seconds_come_first_unless_said_otherwise(self, where, text):
        trigger = declare.cron(text, seconds=where)
        assert next_slot(trigger, ms("2026-01-01")) == ms("2026-01-01T09:30:15")

    def test_rare_days_are_found_decades_ahead(self):
        fifth_monday = declare.cron("0 0 * feb mon#5")
        assert next_slot(fifth_monday, ms("2072-03-01")) == ms("2112-02-29")
        assert next_slot(declare.cron("0 0 29 2 *"), ms("2096-03-01")) == ms("2104-02-29")

    @pytest.mark.parametrize(
        "wrong",
        [
            *(
                "",
                "* * * *",
                "* * * * * * *",
                "60 * * * *",
                "* 24 * * *",
                "* * 0 * *",
                "* * 32 * *",
            ),
            *("* * * 13 *", "* * * * 8", "*/0 * * * *", "59/15 * * * *", "*/60 * * * *", "5/1 x"),
            *("59/1 * * * *", "50-51/15 * * * *", "-1 * * * *", "1- * * * *", "1,,2 * * * *"),
            *("* * 15W * *", "H * * * *", "R * * * *", "@reboot", "@sometimes", "* * * foo *"),
            *("* * * * mon#6", "* * * * mon#0", "* * L-2 * *", "? * * * *", "* * * * L"),
            *("0 0 31 2 *", "0 0 30 feb *", "0 0 31 4,6,9,11 *", "٣ * * * *", "* * * * mon-fri#2"),
            *("a" * 1_000_000, "*/5," * 250_000, "0 0 1 1 *\0", 5, None, b"* * * * *"),
        ],
        ids=lambda it: repr(it)[:20],
    )
    def test_what_is_no_expression(self, wrong):
        with pytest.raises(DeclarationError, match="Write five fields") as caught:
            declare.cron(wrong)
        assert len(str(caught.value)) < 500

    @given(st.lists(st.text("0123456789*/,-#?Llmonfri ", max_size=8), max_size=7))
    def test_any_text_is_understood_or_refused(self, parts):
        try:
            fields = read_expression(" ".join(parts))
        except DeclarationError:
            return
        assert fields.hours
        assert fields.months
        assert next_slot(CronTrigger(" ".join(parts)), NOW) is not None


class TestZones:
    NEW_YORK = "America/New_York"

    def slots(self, expression: str, since: str, count: int, **options) -> list[str]:
        trigger = declare.cron(expression, tz=self.NEW_YORK, **options)
        return shown(trigger, since, count, self.NEW_YORK)

    def test_a_time_that_the_clock_skips_is_due_when_the_gap_ends_or_not_at_all(self):
        assert self.slots("30 2 * * *", "2026-03-07T12:00", 2) == ["03-08 03:00", "03-09 02:30"]
        skipped = self.slots("30 2 * * *", "2026-03-07T12:00", 2, gap="skip")
        assert skipped == ["03-09 02:30", "03-10 02:30"]

    def test_several_times_in_one_gap_are_one_slot(self):
        slots = self.slots("0,20,40 2,3 * * *", "2026-03-08", 4)
        assert slots == ["03-08 03:00", "03-08 03:20", "03-08 03:40", "03-09 02:00"]

    def test_a_time_that_the_clock_shows_twice_is_due_once_or_twice(self):
        assert self.slots("30 1 * * *", "2025-11-02", 2) == ["11-02 01:30", "11-03 01:30"]
        twice = self.slots("30 1 * * *", "2025-11-02", 3, repeated="both")
        assert twice == ["11-02 01:30", "11-02 01:30", "11-03 01:30"]

    @pytest.mark.parametrize("hours", ["*", "0-23", "0-4", "*/1"])
    def test_what_runs_through_neither_pauses_nor_bunches(self, hours):
        trigger = declare.cron(f"*/5 {hours} * * *", tz=self.NEW_YORK)
        for night in ("2026-03-08T00:00", "2025-11-02T00:00"):
            start = ms(night, self.NEW_YORK)
            found = slots(trigger, start - 1, start + 3 * HOUR)
            assert found == list(range(start, start + 3 * HOUR + 1, 300_000))

    def test_a_range_that_ends_at_the_change_is_fixed(self):
        assert self.slots("0 1-2 * * *", "2026-03-08", 3) == [
            *("03-08 01:00", "03-08 03:00", "03-09 01:00"),
        ]

    @pytest.mark.parametrize("policy", [("shift", "first"), ("shift", "both"), ("skip", "first")])
    @pytest.mark.parametrize(
        ("zone", "change"),
        [
            ("America/New_York", "2025-03-09T07:00"),
            ("America/New_York", "2025-11-02T06:00"),
            ("Australia/Lord_Howe", "2025-04-05T15:00"),
            ("Australia/Lord_Howe", "2025-10-04T15:30"),
            ("America/Havana", "2025-11-02T05:00"),
            ("Pacific/Apia", "2011-12-30T10:00"),
        ],
    )
    def test_slots_are_the_same_wherever_one_begins(self, zone, change, policy):
        at = ms(change)
        before = datetime.fromtimestamp(at / 1000 - 1, ZoneInfo(zone)).utcoffset()
        assert before != datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).utcoffset()
        for expression in ("30 1 * * *", "*/20 0-2 * * *", "7 */3 * * *", "0 0,2 * * *"):
            trigger = declare.cron(expression, tz=zone, gap=policy[0], repeated=policy[1])
            found = slots(trigger, at - 2 * DAY, at + 3 * DAY)
            for after in range(at - 4 * HOUR, at + 4 * HOUR, 150_000):
                expected = next(slot for slot in found if slot > after)
                assert next_slot(trigger, after) == expected

    def test_every_second_around_a_change(self):
        trigger = declare.cron("0 2 * * *", tz=self.NEW_YORK)
        change = ms("2026-03-08T07:00:00+00:00")
        for after in range(change - 3000, change + 3000, 500):
            expected = change if after < change else change + 23 * HOUR
            assert next_slot(trigger, after) == expected

    @pytest.mark.parametrize(
        "wrong",
        [
            *("Europe/Berln", "Mars", "", "../etc/passwd", "/etc/passwd", "America", "localtime"),
            *("europe/../UTC", "UTC\0", "x" * 1_000_000, "\ud800", 5, None, UTC),
        ],
        ids=lambda it: repr(it)[:20],
    )
    def test_what_is_no_zone(self, wrong):
        with pytest.raises(DeclarationError, match="time zone"):
            declare.cron("0 9 * * *", tz=wrong)

    def test_a_stored_zone_may_be_unknown_here(self):
        with pytest.raises(DeclarationError, match="tz 'Mars/Base'"):
            next_slot(CronTrigger("0 9 * * *", "Mars/Base"), NOW)

    def test_a_zone_may_be_a_zoneinfo(self):
        assert declare.cron("@daily", tz=ZoneInfo("Asia/Tokyo")).tz == "Asia/Tokyo"


class TestIntervals:
    def test_a_slow_handler_adds_no_drift(self):
        trigger, at = declare.every("90s"), NOW
        first = next_slot(trigger, at)
        assert first is not None
        for tick in range(1000):
            slot = next_slot(trigger, at)
            assert slot == first + tick * 90_000
            at = slot + (tick * 7919) % 90_000  # when the handler got round to the next

    @given(st.integers(100, 10**12), st.integers(0, 2 * 10**12), st.integers(0, 2 * 10**12))
    def test_slots_lie_on_the_anchors_grid(self, every, anchor, after):
        slot = next_slot(IntervalTrigger(every, anchor), after)
        assert slot is not None
        assert after < slot <= after + every
        assert (slot - anchor) % every == 0

    @pytest.mark.parametrize(
        "wrong", [0, "0s", "99ms", -1, "5 minuts", True, None, "9" * 1_000_000]
    )
    def test_what_is_no_interval(self, wrong):
        with pytest.raises(DeclarationError, match=r"duration|too short"):
            declare.every(wrong)

    def test_a_start_is_the_anchor_of_what_has_none(self):
        start = datetime(2026, 5, 1, 10, 7, tzinfo=UTC)
        trigger = declare.bounded(declare.every("1h"), start=start)
        assert shown(trigger, "2026-01-01", 2) == ["05-01 10:07", "05-01 11:07"]
        own = declare.every("1h", anchor=start - timedelta(minutes=2))
        trigger = declare.bounded(own, start=start)
        assert shown(trigger, "2026-01-01", 2) == ["05-01 11:05", "05-01 12:05"]


class TestInstants:
    def test_once(self):
        trigger = declare.at(datetime(2030, 1, 31, 9, tzinfo=UTC))
        assert slots(trigger, 0, 2**50) == [ms("2030-01-31T09:00")]
        assert next_slot(trigger, ms("2030-01-31T09:00")) is None

    @pytest.mark.parametrize(
        "wrong",
        [
            datetime(2030, 1, 31, 9),
            datetime(1969, 1, 1, tzinfo=UTC),
            datetime.max.replace(tzinfo=UTC),
            datetime.min.replace(tzinfo=ZoneInfo("Asia/Tokyo")),
            "2030-01-31",
            5,
        ],
        ids=repr,
    )
    def test_what_is_no_instant(self, wrong):
        with pytest.raises(DeclarationError, match=r"time zone|between the years"):
            declare.at(wrong)


MEMBERS = st.one_of(
    st.builds(IntervalTrigger, st.integers(HOUR, 40 * DAY), st.integers(0, NOW)),
    st.builds(InstantTrigger, st.integers(NOW - DAY, NOW + 30 * DAY)),
    st.sampled_from([CronTrigger("0 9 * * *"), CronTrigger("0 9 * * mon", "Asia/Tokyo")]),
)


class TestUnionsAndBounds:
    UNTIL = NOW + 30 * DAY

    @given(st.lists(MEMBERS, min_size=1, max_size=5), st.integers(NOW - DAY, NOW + DAY))
    def test_a_union_has_the_slots_of_all_each_once(self, members, since):
        every = {slot for one in members for slot in slots(one, since, self.UNTIL)}
        union = declare.any_of(*members)
        assert slots(union, since, self.UNTIL) == sorted(every)

    @given(
        st.lists(MEMBERS, min_size=1, max_size=3),
        st.sets(st.sampled_from(["mon", "tuesday", "sat", "sun"])),
        st.lists(st.tuples(st.integers(-3, 30), st.integers(0, 5)), max_size=4),
        st.lists(st.tuples(st.integers(0, 700), st.integers(1, 50)), max_size=3),
    )
    def test_exclusions_leave_out_what_they_say_and_nothing_else(self, members, days, dates, spans):
        zone = "America/New_York"
        begin = date(2023, 11, 14)
        ranges = [(begin + timedelta(at), begin + timedelta(at + size)) for at, size in dates]
        pairs = [
            tuple(datetime.fromtimestamp(NOW / 1000 + 3600 * hour, UTC) for hour in (at, at + size))
            for at, size in spans
        ]
        out = declare.exclusions(tz=zone, weekdays=days, dates=ranges, spans=pairs)

        def left(slot: int) -> bool:
            at = datetime.fromtimestamp(slot / 1000, ZoneInfo(zone))
            return not (
                f"{at:%a}".lower() in {day[:3] for day in days}
                or any(first <= at.date() <= last for first, last in ranges)
                or any(first <= at < last for first, last in pairs)
            )

        union = declare.any_of(*members)
        expected = list(filter(left, slots(union, NOW, self.UNTIL)))
        try:
            trigger = declare.bounded(union, exclude=out)
        except DeclarationError:
            assert expected == []
        else:
            assert slots(trigger, NOW, self.UNTIL) == expected

    def test_start_and_end_are_within(self):
        start, end = datetime(2026, 1, 2, 9, tzinfo=UTC), datetime(2026, 1, 4, 9, tzinfo=UTC)
        trigger = declare.bounded(declare.cron("0 9 * * *"), start=start, end=end)
        assert shown(trigger, "2025-01-01", 9) == ["01-02 09:00", "01-03 09:00", "01-04 09:00"]

    def test_a_span_has_its_first_instant_and_not_its_last(self):
        span = (datetime(2026, 1, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 3, tzinfo=UTC))
        trigger = declare.bounded(
            declare.every("1h"), exclude=declare.exclusions(spans=[span, span])
        )
        assert shown(trigger, "2026-01-01", 3) == ["01-01 00:00", "01-01 03:00", "01-01 04:00"]

    def test_an_excluded_day_may_begin_in_a_gap_or_be_repeated(self):
        """In Havana midnight is skipped in spring and comes twice in autumn."""
        hourly = declare.cron("0 * * * *", tz="America/Havana")
        for day in (date(2026, 3, 8), date(2025, 11, 2)):
            out = declare.exclusions(tz="America/Havana", dates=[day])
            trigger = declare.bounded(hourly, exclude=out)
            since = ms(f"{day - timedelta(1)}T22:00", "America/Havana")
            found = slots(trigger, since - 1, since + 40 * HOUR)
            dates = [
                datetime.fromtimestamp(one / 1000, ZoneInfo("America/Havana")) for one in found
            ]
            assert day not in {one.date() for one in dates}
            assert [one.hour for one in dates[:4]] == [22, 23, 0, 1]

    def test_what_is_impossible(self):
        late, early = datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
        daily, mondays = declare.cron("@daily"), declare.cron("* * * * mon")
        week = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
        for options in (
            {"start": late, "end": early},
            {"start": datetime(2026, 1, 1)},
            {"end": datetime(2026, 1, 1)},
            {"exclude": declare.exclusions(weekdays=week)},
            {
                "start": early,
                "end": late,
                "exclude": declare.exclusions(dates=[(early.date(), late.date())]),
            },
        ):
            with pytest.raises(DeclarationError):
                declare.bounded(daily, **options)
        with pytest.raises(DeclarationError, match="Nothing is ever due"):
            declare.bounded(mondays, exclude=declare.exclusions(weekdays=["Monday"]))
        for count in (0, 51):
            with pytest.raises(DeclarationError, match="union"):
                declare.any_of(*[daily] * count)

    @pytest.mark.parametrize(
        "options",
        [
            {"weekdays": ["mo"]},
            {"weekdays": [1]},
            {"dates": ["2026-01-01"]},
            {"dates": [datetime(2026, 1, 1, tzinfo=UTC)]},
            {"dates": [(date(2026, 1, 2), date(2026, 1, 1))]},
            {"dates": [date.fromordinal(one) for one in range(700_000, 700_501)]},
            {"spans": [(datetime(2026, 1, 1), datetime(2026, 1, 2))]},
            {"spans": [(datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))]},
            {"tz": "Mars"},
        ],
        ids=lambda it: repr(it)[:40],
    )
    def test_what_is_no_exclusion(self, options):
        with pytest.raises(DeclarationError):
            declare.exclusions(**options)


WHOLE = declare.bounded(
    declare.any_of(
        declare.cron("0 9 * * mon#1", tz="Europe/Berlin", gap="skip", repeated="both"),
        declare.cron("5 0 9 * * *", seconds="first"),
        declare.every("15m", anchor=datetime(2026, 1, 1, tzinfo=UTC)),
        declare.at(datetime(2030, 1, 1, tzinfo=UTC)),
    ),
    start=datetime(2026, 1, 1, tzinfo=UTC),
    end=datetime(2031, 1, 1, tzinfo=UTC),
    exclude=declare.exclusions(
        tz="Asia/Tokyo",
        weekdays=["sun"],
        dates=[date(2026, 12, 25)],
        spans=[(datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC))],
    ),
)


def test_triggers_become_json_and_come_back():
    assert msgspec.json.decode(msgspec.json.encode(WHOLE), type=Trigger) == WHOLE


def test_the_engine_is_imported_by_who_needs_it_alone():
    code = (
        "import sys, taskmux\n"
        "assert 'croniter' not in sys.modules and 'taskmux.policy.schedule' not in sys.modules\n"
        "from taskmux.policy.schedule import declare\n"
        "from taskmux.policy.schedule.slots import next_slot\n"
        "next_slot(declare.every('5m'), 0)\n"
        "next_slot(declare.cron('0 9 * * *', tz='Europe/Berlin'), 0)\n"
        "assert 'croniter' not in sys.modules\n"
        "next_slot(declare.cron('0 9 * * mon'), 0)\n"
        "assert 'croniter' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_an_engine_that_does_not_advance_is_an_error(monkeypatch):
    monkeypatch.setattr(
        croniter.croniter, "get_next", lambda self, kind: datetime(1999, 1, 1, tzinfo=UTC)
    )
    with pytest.raises(DeclarationError, match="does not advance"):
        next_slot(declare.cron("0 9 * * thu-fri"), ms("2199-01-01"))
