from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from msgspec.structs import replace
from taskmux import DeclarationError, Taskmux
from taskmux.api.options import parse_call, parse_shared
from taskmux.model.job import JobRecord, Policy, State
from taskmux.model.queue import QueueSettings
from taskmux.policy.expiry import begins_by, expired
from taskmux.policy.explain import Cause, explain
from taskmux.policy.lifecycle import Run, decide
from taskmux.policy.outcome import Crashed, Expired


def job(**policy: int) -> JobRecord:
    return JobRecord(
        queue="q", id="j", task="t", created_at=1_000, fence=7, policy=Policy(**policy)
    )


class TestWhen:
    @pytest.mark.parametrize(
        ("policy", "end"),
        [
            ({}, None),
            ({"expires_ms": 500}, 1_500),
            ({"deadline": 1_200}, 1_200),
            ({"expires_ms": 500, "deadline": 1_200}, 1_200),
            ({"expires_ms": 100, "deadline": 1_200}, 1_100),
        ],
    )
    def test_the_earlier_end_counts(self, policy, end):
        one = job(**policy)
        assert begins_by(one) == end
        if end is None:
            assert expired(one, 2**50) is None
        else:
            assert expired(one, end - 1) is None
            assert (expired(one, end) or "").startswith("expired: no run was to begin ")

    def test_the_reason_says_which(self):
        assert "more than 10m after it was enqueued" in (
            expired(job(expires_ms=600_000), 2**50) or ""
        )
        assert "after 1970-01-01 00:01:00 UTC" in (expired(job(deadline=60_000), 2**50) or "")


class TestSaid:
    def test_expires_counts_from_when_the_job_is_due(self):
        assert parse_call({"expires": "10m"}).policy().expires_ms == 600_000
        assert parse_call({"expires": "10m", "delay": "1h"}).policy().expires_ms == 4_200_000

    def test_with_run_at_it_is_an_instant(self):
        due = datetime(2030, 1, 1, tzinfo=UTC)
        policy = parse_call({"expires": "10m", "run_at": due}).policy()
        ms = round(due.timestamp() * 1000) + 600_000
        assert (policy.expires_ms, policy.deadline) == (None, ms)
        early = parse_call({"expires": "10m", "run_at": due, "deadline": due}).policy()
        assert early.deadline == ms - 600_000

    def test_a_call_takes_its_tasks_away(self):
        said = parse_call({"expires": None}).over(parse_shared({"expires": "1m"}))
        assert said.policy() == Policy()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"expires": 0}, "would let nothing begin"),
            ({"expires": "soon"}, "not a duration"),
            ({"deadline": "tomorrow"}, "names no instant"),
            ({"deadline": datetime(2030, 1, 1)}, "names no instant"),
        ],
    )
    def test_bad_input(self, options, words):
        with pytest.raises(DeclarationError, match=words):
            parse_call(options)

    def test_a_deadline_belongs_to_a_call(self):
        with pytest.raises(DeclarationError, match="belongs to a single call"):
            Taskmux("memory://").task(deadline=datetime.now(UTC) + timedelta(hours=1))


class TestDecided:
    run = Run(worker="w")

    def test_an_expired_job_is_cancelled_under_its_fence_and_costs_nothing(self):
        one = decide(job(expires_ms=1), Expired("expired: why"), self.run, Random(1))
        assert (one.to, one.guard.fence, one.changes.reason) == (
            State.CANCELLED,
            7,
            "expired: why",
        )

    def test_a_lapsed_one_counts_its_crash_and_is_not_delivered_again(self):
        lapsed = replace(job(expires_ms=1), started=True, state=State.ACTIVE)
        one = decide(lapsed, Crashed("expired: why"), self.run, Random(1))
        assert (one.to, one.changes.crashes) == (State.CANCELLED, 1)
        assert one.changes.history[-1].outcome == "crashed"

    def test_a_poison_message_dies_all_the_same(self):
        lapsed = replace(job(expires_ms=1, max_crashes=1), started=True, state=State.ACTIVE)
        assert decide(lapsed, Crashed("expired: why"), self.run, Random(1)).to is State.DEAD

    def test_one_that_had_not_begun_is_cancelled(self):
        assert decide(job(), Crashed("expired: why"), self.run, Random(1)).to is State.CANCELLED


class TestExplained:
    def test_it_is_named_once_it_is_too_late(self):
        one = job(expires_ms=500)
        early, late = (explain(one, QueueSettings(), None, None, now) for now in (1_499, 1_500))
        assert Cause.EXPIRED not in early.causes
        assert late.causes[0] is Cause.EXPIRED
        assert "The worker that claims it next cancels it" in str(late)
