"""Plans: each slot is decided once, whatever the clock does, and late slots go by their policy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from taskmux.model.errors import DeclarationError
from taskmux.model.triggers import Plan, Schedule, SlotJob, Stamp
from taskmux.policy.schedule import declare, stamp
from taskmux.policy.schedule import plan as plans
from taskmux.policy.schedule.slots import next_slot
from taskmux.policy.schedule.slots import slots as slots_between

NOW = 1_700_006_400_000  # a full hour
HOUR, DAY = 3_600_000, 86_400_000
HOURLY = declare.every("1h")


def instant(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC)


def make(trigger=HOURLY, now=NOW, **options) -> Schedule:
    policy = options.pop("policy", {})
    return declare.schedule("s", trigger, now, misfire=declare.misfire(**policy), **options)


def fire(one: Schedule, now: int) -> tuple[Schedule, Plan, list[int]]:
    """Return the schedule after a plan, the plan, and its slots."""
    plan = plans.plan(one, now)
    return plans.advance(one, plan), plan, [job.slot for job in plan.jobs]


class TestOneSlot:
    def test_nothing_is_due_until_the_slot(self):
        one = make()
        assert plans.plan(one, NOW) == Plan((), NOW + HOUR, 0, 0, NOW)
        assert plans.plan(one, NOW + HOUR - 1) == Plan((), NOW + HOUR, 0, 0, NOW)

    def test_its_job_has_the_slots_id_and_the_next_is_waited_for(self):
        at = NOW + HOUR
        job = SlotJob(f"s@{at}", at, at)
        assert plans.plan(make(), at + 7) == Plan((job,), at + HOUR, 0, 0, at)

    def test_it_is_decided_once(self):
        one, _, slots = fire(make(), NOW + HOUR)
        assert slots == [NOW + HOUR]
        assert fire(one, NOW + HOUR)[1:] == (Plan((), NOW + 2 * HOUR, 0, 0, NOW + HOUR), [])

    def test_a_schedule_becomes_json_and_comes_back(self):
        one, _, _ = fire(make(declare.cron("@hourly"), limit=9, jitter="1m"), NOW + HOUR)
        assert msgspec.json.decode(msgspec.json.encode(one), type=Schedule) == one


SLOTS = [NOW + HOUR, NOW + 2 * HOUR, NOW + 3 * HOUR]


class TestMisfire:
    """A worker sees three slots that are late; the fourth comes in half an hour."""

    LATE = NOW + 3 * HOUR + HOUR // 2

    @pytest.mark.parametrize(
        ("policy", "fired"), [("skip", []), ("once", SLOTS[-1:]), ("all", SLOTS)]
    )
    def test_three_slots_of_downtime(self, policy, fired):
        one, plan, slots = fire(make(policy={"policy": policy}), self.LATE)
        assert slots == fired
        assert (plan.missed, plan.skipped, plan.next_at) == (3, 3 - len(fired), NOW + 4 * HOUR)
        assert (one.progress.fired, one.progress.missed) == (len(fired), 3)
        assert fire(one, self.LATE)[2] == []

    @pytest.mark.parametrize(
        ("policy", "fired"), [("skip", SLOTS[-1:]), ("once", SLOTS[-1:]), ("all", SLOTS)]
    )
    def test_a_slot_within_the_grace_is_not_late(self, policy, fired):
        _, plan, slots = fire(make(policy={"policy": policy}), NOW + 3 * HOUR + 10_000)
        assert slots == fired
        assert plan.missed == 2
        _, plan, _ = fire(make(policy={"policy": policy}), NOW + 3 * HOUR + 10_001)
        assert plan.missed == 3

    @pytest.mark.parametrize("policy", ["skip", "once", "all"])
    def test_every_slot_within_the_grace_has_its_job(self, policy):
        often = make(declare.every("1s"), policy={"policy": policy})
        _, plan, slots = fire(often, NOW + 3000)
        assert slots == [NOW + 1000, NOW + 2000, NOW + 3000]
        assert (plan.missed, plan.skipped) == (0, 0)

    def test_what_is_older_than_the_window_is_not_made_up_for(self):
        wide = make(policy={"policy": "all", "window": "2h"})
        assert fire(wide, self.LATE)[2] == SLOTS[1:]
        narrow = make(policy={"policy": "once", "window": "20m"})
        _, plan, slots = fire(narrow, self.LATE)
        assert (slots, plan.missed, plan.skipped) == ([], 3, 3)

    def test_the_cap_keeps_the_latest(self):
        capped = make(policy={"policy": "all", "cap": 2})
        _, plan, slots = fire(capped, self.LATE)
        assert (slots, plan.missed, plan.skipped) == (SLOTS[1:], 3, 1)

    @pytest.mark.parametrize(
        "trigger",
        [
            declare.every("1s"),
            declare.cron("* * * * * *", tz="Europe/Berlin"),
            declare.any_of(declare.cron("* * * * *"), declare.every("1s")),
        ],
        ids=["interval", "cron", "union"],
    )
    def test_a_year_of_downtime_costs_no_year_of_slots(self, trigger, monkeypatch):
        walked = 0
        real = plans.walk

        def counting(*args):
            nonlocal walked
            for slot in real(*args):
                walked += 1
                yield slot

        monkeypatch.setattr(plans, "walk", counting)
        late = NOW + 365 * DAY + 1500
        one = make(trigger, policy={"policy": "all", "grace": 0})
        _, plan, slots = fire(one, late)
        assert slots == [late - 500 - 1000 * back for back in reversed(range(100))]
        assert (plan.missed, plan.next_at) == (plans.MOST_COUNTED, late + 500)
        assert walked < plans.MOST_COUNTED + 1000

    def test_long_ago_alone(self, monkeypatch):
        """Many slots, all of them far back: the latest are found there, in a few steps."""
        walks: list[int] = []
        real = plans.walk
        monkeypatch.setattr(plans, "walk", lambda one, at: walks.append(at) or real(one, at))
        start, end = instant(NOW), instant(NOW + 5 * HOUR)
        busy = declare.bounded(declare.every("1s"), start=start, end=end)
        one = make(busy, now=NOW - 1, policy={"policy": "all", "window": "400d", "cap": 3})
        _, plan, slots = fire(one, NOW + 300 * DAY)
        assert slots == [NOW + 5 * HOUR - 2000, NOW + 5 * HOUR - 1000, NOW + 5 * HOUR]
        assert plan.next_at is None
        assert len(walks) < 20

    @pytest.mark.parametrize(
        "options",
        [{"policy": "never"}, {"cap": 0}, {"cap": True}, {"cap": 1001}, {"window": "x"}],
        ids=repr,
    )
    def test_what_is_no_policy(self, options):
        with pytest.raises(DeclarationError):
            declare.misfire(**options)


class TestClocks:
    @given(
        st.lists(st.integers(-3 * HOUR, 8 * HOUR), min_size=1, max_size=30),
        st.sampled_from(["skip", "once", "all"]),
        st.sampled_from([HOURLY, declare.cron("*/20 * * * *"), declare.every("7m")]),
        st.sampled_from([1, 3, 100]),
    )
    def test_no_slot_is_decided_twice_or_forgotten(self, jumps, policy, trigger, cap):
        one, now, ahead, fired = make(trigger, policy={"policy": policy, "cap": cap}), NOW, NOW, []
        for jump in jumps:
            now += jump
            ahead = max(ahead, now)
            before = one.progress.seen
            one, plan, slots = fire(one, now)
            assert all(before < slot <= now for slot in slots)
            assert one.progress.seen >= before
            assert plan.next_at == next_slot(trigger, one.progress.seen)
            fired += slots
        assert len(set(fired)) == len(fired)
        due = slots_between(trigger, NOW, ahead)
        assert set(fired) <= set(due)
        assert len(fired) + one.progress.skipped == len(due)
        if policy == "all" and cap > len(due):
            assert fired == due

    def test_a_clock_that_was_ahead_loses_no_slot_after_it(self):
        one, _, slots = fire(make(), NOW + HOUR + 20 * 60_000)
        assert slots == [NOW + HOUR]
        assert fire(one, NOW + 10 * 60_000)[1].next_at == NOW + 2 * HOUR
        assert fire(one, NOW + 2 * HOUR)[2] == [NOW + 2 * HOUR]

    def test_a_thousand_ticks_late_by_anything(self):
        one, fired, now = make(declare.every("90s")), [], NOW
        for tick in range(1000):
            now = (plans.plan(one, now).next_at or 0) + (tick * 7919) % 9000
            one, _, slots = fire(one, now)
            fired += slots
        assert fired == list(range(fired[0], fired[0] + 1000 * 90_000, 90_000))
        assert one.progress.missed == 0


class TestEnds:
    def test_a_limit_counts_jobs(self):
        one = make(limit=2)
        one, plan, slots = fire(one, NOW + HOUR)
        assert (len(slots), plan.next_at) == (1, NOW + 2 * HOUR)
        one, plan, slots = fire(one, NOW + 2 * HOUR)
        assert (len(slots), plan.next_at) == (1, None)
        assert fire(one, NOW + 9 * HOUR)[1] == Plan((), None, 0, 0, NOW + 2 * HOUR)

    def test_a_limit_takes_the_first_of_several(self):
        one, plan, slots = fire(make(limit=2, policy={"policy": "all"}), NOW + 3 * HOUR)
        assert (slots, plan.next_at) == ([NOW + HOUR, NOW + 2 * HOUR], None)
        assert len(slots) + one.progress.skipped == 3

    def test_after_the_end_there_is_nothing_to_wait_for(self):
        until = declare.bounded(HOURLY, end=instant(NOW + HOUR))
        _, plan, slots = fire(make(until), NOW + HOUR)
        assert (slots, plan.next_at) == ([NOW + HOUR], None)

    @pytest.mark.parametrize(
        "options",
        [{"limit": 0}, {"limit": -1}, {"limit": True}, {"limit": "2"}, {"jitter": "-1s"}],
        ids=repr,
    )
    def test_what_is_refused(self, options):
        with pytest.raises(DeclarationError):
            make(**options)

    @pytest.mark.parametrize("name", ["", "a b", "x" * 241, None])
    def test_what_is_no_id(self, name):
        with pytest.raises(DeclarationError.__base__, match="schedule id"):
            declare.schedule(name, HOURLY, NOW)


class TestInstants:
    """What is due once, and is put late."""

    @pytest.mark.parametrize(
        ("late", "policy", "fired"),
        [
            (0, "skip", 1),
            (9_000, "skip", 1),
            (HOUR, "skip", 0),
            (HOUR, "once", 1),
            (HOUR, "all", 1),
            (DAY + 1, "once", 0),
        ],
    )
    def test_an_instant_that_has_passed_goes_by_the_policy(self, late, policy, fired):
        one = make(declare.at(instant(NOW - late)), policy={"policy": policy})
        one, plan, slots = fire(one, NOW)
        assert (slots, plan.next_at) == ([NOW - late] * fired, None)
        again = make(one.trigger, before=one, policy={"policy": policy})
        assert fire(again, NOW)[1] == Plan((), None, 0, 0, NOW - late)


class TestAtOnce:
    def test_there_is_a_slot_now_and_the_others_stay(self):
        one = make(immediately=True, now=NOW + 5)
        one, plan, slots = fire(one, NOW + 5)
        assert (slots, plan.next_at) == ([NOW + 5], NOW + HOUR)
        assert fire(one, NOW + HOUR)[2] == [NOW + HOUR]

    def test_a_slot_of_its_own_is_not_doubled(self):
        one, _, slots = fire(make(immediately=True), NOW)
        assert slots == [NOW]
        assert fire(one, NOW + HOUR)[2] == [NOW + HOUR]

    def test_it_waits_for_the_start(self):
        later = declare.bounded(declare.cron("@hourly"), start=instant(NOW + 9 * HOUR + 1))
        one = make(later, immediately=True)
        assert plans.plan(one, NOW).next_at == NOW + 9 * HOUR + 1
        one, plan, slots = fire(one, NOW + 9 * HOUR + 1)
        assert (slots, plan.next_at) == ([NOW + 9 * HOUR + 1], NOW + 10 * HOUR)

    def test_it_keeps_to_end_and_exclusions(self):
        day = declare.exclusions(dates=[instant(NOW).date()])
        for bounds in ({"end": instant(NOW - 1)}, {"exclude": day}):
            one = make(declare.bounded(HOURLY, **bounds), immediately=True)
            assert fire(one, NOW)[2] == []


class TestPutAgain:
    def test_the_same_trigger_goes_on_as_if_nothing_had_happened(self):
        one, _, _ = fire(make(), NOW + HOUR)
        again = make(now=NOW + 3 * HOUR, before=one, immediately=True, policy={"policy": "all"})
        assert again.progress == one.progress
        assert fire(again, NOW + 3 * HOUR)[2] == [NOW + 2 * HOUR, NOW + 3 * HOUR]

    def test_another_trigger_counts_from_now(self):
        one, _, _ = fire(make(), NOW + HOUR)
        again = make(declare.every("10m"), now=NOW + 3 * HOUR, before=one)
        assert again.progress == replace(one.progress, seen=NOW + 3 * HOUR)
        assert plans.plan(again, NOW + 3 * HOUR).next_at == NOW + 3 * HOUR + 600_000


class TestJitter:
    def test_it_is_the_slots_own_and_within_bounds(self):
        one = make(declare.every("1m"), jitter="30s")
        jobs = plans.preview(one, NOW, 1000)
        late = [job.run_at - job.slot for job in jobs]
        assert 0 <= min(late) < 500
        assert 29_500 < max(late) <= 30_000
        assert len(set(late)) > 900
        assert plans.preview(one, NOW, 1000) == jobs
        assert plans.plan(one, jobs[0].slot).jobs == (jobs[0],)

    def test_schedules_of_one_slot_are_spread(self):
        due = {
            plans.preview(declare.schedule(f"s{at}", HOURLY, NOW, jitter="1m"), NOW, 1)[0].run_at
            for at in range(50)
        }
        assert len(due) > 45

    def test_it_does_not_change_with_a_version(self):
        """Stored slots are due when another process says they are."""
        assert plans.preview(make(jitter="30s"), NOW, 1)[0].run_at == NOW + HOUR + 17_273


def test_a_preview_is_what_will_happen():
    one = make(limit=3, immediately=True, now=NOW + 1)
    assert [job.slot for job in plans.preview(one, NOW, 9)] == [
        NOW + 1,
        NOW + HOUR,
        NOW + 2 * HOUR,
    ]
    one, _, _ = fire(one, NOW + HOUR)
    assert [job.slot for job in plans.preview(one, NOW, 9)] == [NOW + 2 * HOUR, NOW + 3 * HOUR]


class TestVersions:
    """Another engine, or another dialect: what was stored says what it computed."""

    def test_to_put_the_same_trigger_again_keeps_what_was_stored(self, monkeypatch):
        """Else a deployment with another engine would write over what it is compared with."""
        one = make(declare.cron("@daily"))
        monkeypatch.setattr(stamp, "engine", lambda: "croniter 7.9")
        assert make(declare.cron("@daily"), now=NOW + DAY, before=one).stamp == one.stamp
        other = make(declare.cron("@hourly"), now=NOW + DAY, before=one).stamp
        assert other is not None
        assert other.engine == "croniter 7.9"

    def test_the_same_version_computes_nothing(self, monkeypatch):
        one = make(declare.cron("@daily"))
        assert one.stamp is not None
        assert one.stamp.engine.startswith("croniter 7.")
        monkeypatch.setattr(stamp, "_digest", None)
        assert stamp.restamp(one, NOW) == (one, None)
        assert make(HOURLY).stamp is None

    def test_another_version_with_the_same_slots_is_noted(self, monkeypatch):
        one = make(declare.bounded(declare.cron("@daily"), end=instant(NOW + 99 * DAY)))
        monkeypatch.setattr(stamp, "engine", lambda: "croniter 7.9")
        again, warning = stamp.restamp(one, NOW + DAY)
        assert warning is None
        assert isinstance(again.stamp, Stamp)
        assert (again.stamp.engine, again.stamp.since) == ("croniter 7.9", NOW + DAY)

    def test_another_version_with_other_slots_is_told(self, monkeypatch):
        one = make(declare.any_of(declare.cron("0 9 * * *"), HOURLY))
        monkeypatch.setattr(stamp, "engine", lambda: "croniter 7.9")
        moved = replace(one, trigger=declare.cron("1 9 * * *"))  # as if it computed otherwise
        again, warning = stamp.restamp(moved, NOW)
        assert warning is not None
        assert "'s' is due at other times" in warning
        assert stamp.restamp(again, NOW + timedelta(1) // timedelta(milliseconds=1)) == (
            again,
            None,
        )
