from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from taskmux.config import Limits
from taskmux.model.backoff import DEFAULT_BACKOFF, Fixed, Steps
from taskmux.model.job import Attempt, ErrorInfo, JobRecord, Keep, Policy, State
from taskmux.model.signals import Fail, RateLimited, Retry, Snooze
from taskmux.model.transition import Changes, Place, Transition
from taskmux.policy.lifecycle import Run, decide, last_chance
from taskmux.policy.outcome import (
    Cancelled,
    Completed,
    Crashed,
    Failed,
    Outcome,
    Released,
    Snoozed,
    describe,
    outcome_of,
    timed_out,
    undecodable,
    unknown_task,
    unstorable,
)

LIMITS = Limits()
ERROR = ErrorInfo("ValueError", "no such user")
RUN = Run(worker="w1", started_at=100, finished_at=200, backoff=Steps("1s", "2s", jitter=0))
SEEDED = Random(1)


def job(**fields: Any) -> JobRecord:
    policy = {
        name: fields.pop(name)
        for name in ("max_attempts", "max_crashes", "backoff", "dead", "timeout_ms")
        if name in fields
    }
    base = {
        "queue": "q",
        "id": "j",
        "task": "t",
        "state": State.ACTIVE,
        "fence": 7,
        "worker": "w0",
        "started": True,
        "policy": Policy(**policy),
    }
    return JobRecord(**base | fields)


def after(one: JobRecord, outcome: Outcome, run: Run = RUN) -> Transition:
    return decide(one, outcome, run, Random(1))


class TestCompleted:
    def test_it_spends_the_attempt_and_keeps_the_result(self):
        one = after(job(attempts=1), Completed(b'"ok"'))
        assert one.to is State.COMPLETED
        assert one.changes == Changes(attempts=2, result=b'"ok"')

    def test_it_wins_over_a_cancel_request(self):
        assert after(job(cancel_requested=True), Completed(None)).to is State.COMPLETED


class TestFailed:
    @pytest.mark.parametrize(
        ("attempts", "max_attempts", "to", "delay"),
        [
            (0, 1, State.DEAD, 0),
            (0, 2, State.DELAYED, 1000),
            (1, 2, State.DEAD, 0),
            (1, 3, State.DELAYED, 2000),
            (2, 3, State.DEAD, 0),
            (5, 3, State.DEAD, 0),  # the limit was lowered meanwhile
        ],
    )
    def test_retried_until_the_attempts_are_spent(self, attempts, max_attempts, to, delay):
        one = after(job(attempts=attempts, max_attempts=max_attempts), Failed(ERROR))
        assert (one.to, one.delay) == (to, delay)
        assert one.changes.attempts == attempts + 1
        assert one.changes.error == ERROR
        assert one.changes.crashes is UNSET

    def test_a_dead_one_says_why_and_has_its_retention(self):
        one = after(job(attempts=2, dead=Keep(9)), Failed(ERROR))
        assert one.changes.reason == "failed 3 of 3 attempts"
        assert one.retention == Keep(9)

    def test_a_retried_one_says_why(self):
        one = after(job(), Failed(ERROR, word="timed out"))
        assert one.changes.reason == "attempt 1 of 3 timed out"

    @pytest.mark.parametrize("message", ["no such user", ""])
    def test_a_final_one_is_dead_with_attempts_left(self, message):
        one = after(job(), Failed(ErrorInfo("ValueError", message), final=True))
        assert one.to is State.DEAD
        assert one.changes.reason == f"failed for good: {message or 'ValueError'}"

    def test_a_long_reason_is_cut(self):
        one = after(job(), Failed(ErrorInfo("E", "x" * 10_000), final=True))
        assert len(one.changes.reason) == 500

    def test_its_history_says_what_happened(self):
        one = after(job(attempts=1, history=(earlier := attempt(1),)), Failed(ERROR))
        assert one.changes.history == (
            earlier,
            Attempt(2, 7, "w1", "failed", started_at=100, finished_at=200, error=ERROR),
        )

    def test_the_handlers_own_wait_wins(self):
        assert after(job(), Failed(ERROR, after_ms=77)).delay == 77
        at_once = after(job(), Failed(ERROR, after_ms=0))
        assert (at_once.to, at_once.place) == (State.WAITING, Place.BACK)

    def test_the_stored_backoff_wins_over_the_workers(self):
        assert after(job(backoff=Fixed("5s", jitter=0)), Failed(ERROR)).delay == 5000

    def test_a_backoff_function_is_asked_with_attempt_and_error(self):
        asked = []

        def backoff(number: int, error: BaseException) -> str:
            asked.append((number, error))
            return "3s"

        error = ValueError("x")
        run = Run(worker="w1", backoff=backoff)
        assert after(job(attempts=1), Failed(ERROR, exception=error), run).delay == 3000
        assert asked == [(2, error)]

    def test_a_backoff_function_is_not_asked_when_the_job_dies(self):
        def backoff(number: int, error: BaseException) -> str:
            raise AssertionError

        run = Run(worker="w1", backoff=backoff)
        assert after(job(max_attempts=1), Failed(ERROR), run).to is State.DEAD

    @pytest.mark.parametrize("answer", [ZeroDivisionError(), "soon", -1, None])
    def test_a_broken_backoff_function_costs_the_default_wait(self, answer):
        def backoff(number: int, error: BaseException) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        one = after(job(), Failed(ERROR), Run(worker="w1", backoff=backoff))
        assert one.delay == DEFAULT_BACKOFF.delay_ms(1, Random(1))

    def test_a_request_to_cancel_is_left_to_the_store(self):
        one = after(job(cancel_requested=True), Failed(ERROR))
        assert one.to is State.DELAYED
        assert one.retention == Policy().cancelled


def attempt(number: int) -> Attempt:
    return Attempt(number, number, "w", "failed")


class Drawn(Random):
    """Draws what the test says."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self._number = number

    def random(self) -> float:
        return self._number


class TestCrashBackoff:
    def test_it_doubles_up_to_a_minute(self):
        delays = [
            decide(job(crashes=crashes, max_crashes=99), Crashed(), RUN, Drawn(0.0)).delay
            for crashes in range(9)
        ]
        assert delays == [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]

    @pytest.mark.parametrize("crashes", range(4))
    def test_it_is_never_nothing(self, crashes):
        one = decide(job(crashes=crashes, max_crashes=99), Crashed(), RUN, Drawn(1 - 1e-9))
        assert (one.to, one.delay) == (State.DELAYED, 1)

    def test_it_is_spread(self):
        rng = Random(3)
        delays = {decide(job(max_crashes=99), Crashed(), RUN, rng).delay for _ in range(50)}
        assert len(delays) > 30
        assert max(delays) <= 1000


class TestHistory:
    @pytest.mark.parametrize(
        ("limit", "kept"), [(20, [1, 2, 3, 4]), (2, [3, 4]), (1, [4]), (0, [])]
    )
    def test_only_the_last_ones_are_kept(self, limit, kept):
        one = job(attempts=3, max_attempts=9, history=tuple(map(attempt, (1, 2, 3))))
        run = Run(worker="w1", history_limit=limit)
        history = after(one, Failed(ERROR), run).changes.history
        assert [entry.number for entry in history] == kept


class TestSnoozed:
    def test_it_spends_nothing(self):
        one = after(job(attempts=2, crashes=1), Snoozed(5000, "not yet"))
        assert (one.to, one.delay) == (State.DELAYED, 5000)
        assert (one.changes.attempts, one.changes.crashes, one.changes.error) == (UNSET,) * 3
        assert one.changes.reason == "not yet"
        assert one.changes.history[-1].outcome == "snoozed"
        assert one.changes.history[-1].number == 3

    def test_for_no_time_at_all_it_still_lets_others_run_first(self):
        assert after(job(), Snoozed(0, "x")).to is State.DELAYED

    def test_undecodable_arguments_wait_as_for_an_unknown_task_and_spend_an_attempt(self):
        one = after(job(max_attempts=3), undecodable(ERROR))
        assert (one.to, one.delay) == (State.DELAYED, unknown_task(job(), "w1").after_ms)
        assert (one.changes.attempts, one.changes.error) == (1, ERROR)
        assert one.changes.reason == "attempt 1 of 3 undecodable"
        assert one.changes.history[-1].outcome == "undecodable"

    def test_undecodable_arguments_are_dead_when_attempts_are_used_up(self):
        one = after(job(max_attempts=3, attempts=2), undecodable(ERROR))
        assert (one.to, one.changes.attempts) == (State.DEAD, 3)
        assert one.changes.reason == "failed 3 of 3 attempts"
        assert one.changes.error == ERROR

    def test_an_outcome_that_cannot_be_stored_is_dead_without_its_result(self):
        one = after(job(max_attempts=3), unstorable(ERROR))
        assert (one.to, one.changes.attempts, one.changes.error) == (State.DEAD, 1, ERROR)
        assert one.changes.result is UNSET
        assert one.changes.history[-1].outcome == "unstorable"

    def test_an_unknown_task_leaves_no_history(self):
        one = after(job(), unknown_task(job(), "w1"))
        assert one.changes.history is UNSET
        assert one.changes.reason == "worker w1 has no task 't': start a worker that imports it"


class TestCrashed:
    @pytest.mark.parametrize(
        ("crashes", "max_crashes", "to"),
        [
            (0, 0, State.DEAD),
            (0, 1, State.DEAD),
            (0, 2, State.DELAYED),
            (1, 2, State.DEAD),
            (1, 3, State.DELAYED),
            (2, 3, State.DEAD),
        ],
    )
    def test_redelivered_until_the_crashes_are_spent(self, crashes, max_crashes, to):
        one = after(job(crashes=crashes, max_crashes=max_crashes), Crashed())
        assert one.to is to or (to is State.DELAYED and one.to is State.WAITING)
        assert one.changes.crashes == crashes + 1
        assert one.changes.attempts is UNSET
        assert one.changes.error.type == "Crashed"
        assert "w0" in one.changes.error.message

    def test_the_history_has_the_fence_that_was_lost(self):
        entry = after(job(), Crashed()).changes.history[-1]
        assert (entry.fence, entry.outcome) == (6, "crashed")

    @given(st.integers(1, 50), st.integers())
    def test_redelivery_waits_at_most_a_minute(self, crashes, seed):
        one = decide(job(crashes=crashes, max_crashes=99), Crashed(), RUN, Random(seed))
        assert 0 <= one.delay <= 60_000

    def test_a_prefetched_one_goes_back_to_its_place_at_no_cost(self):
        one = after(job(started=False, max_crashes=0), Crashed())
        assert (one.to, one.place, one.changes) == (State.WAITING, Place.KEEP, Changes())

    @pytest.mark.parametrize("started", [True, False])
    def test_one_that_was_asked_to_cancel_is_cancelled(self, started):
        one = after(job(cancel_requested=True, started=started, max_crashes=0), Crashed())
        assert one.to is State.CANCELLED
        assert one.changes.reason == "cancelled; its worker was lost"


class TestCancelledAndReleased:
    def test_cancelled_says_so(self):
        one = after(job(attempts=1), Cancelled())
        assert one.to is State.CANCELLED
        assert one.changes.attempts is UNSET
        assert one.changes.reason is UNSET, "the reason is that of whoever asked"
        assert one.changes.history[-1].outcome == "cancelled"

    def test_released_spends_nothing_and_keeps_its_place(self):
        one = after(job(attempts=1), Released())
        assert (one.to, one.place, one.changes) == (State.WAITING, Place.KEEP, Changes())


OUTCOMES = [
    Completed(None),
    Failed(ERROR),
    Failed(ERROR, final=True),
    Snoozed(5, "x"),
    Released(),
    Crashed(),
    Cancelled(),
]


def jobs() -> st.SearchStrategy[JobRecord]:
    return st.builds(
        job,
        attempts=st.integers(0, 10),
        crashes=st.integers(0, 10),
        max_attempts=st.integers(1, 5),
        max_crashes=st.integers(0, 5),
        started=st.booleans(),
        cancel_requested=st.booleans(),
    )


class TestEveryOutcome:
    @given(st.sampled_from(OUTCOMES), jobs(), st.integers())
    def test_it_is_guarded_by_the_fence_and_deterministic(self, outcome, one, seed):
        first = decide(one, outcome, RUN, Random(seed))
        assert first == decide(one, outcome, RUN, Random(seed))
        assert (first.guard.fence, first.guard.states) == (one.fence, None)
        spent = isinstance(outcome, Completed | Failed)
        assert first.changes.attempts == (one.attempts + 1 if spent else UNSET)
        if isinstance(outcome, Failed) and one.attempts + 1 >= one.policy.max_attempts:
            assert first.to is State.DEAD


class TestLastChance:
    @pytest.mark.parametrize(
        ("crashes", "max_crashes", "alone"),
        [(0, 0, False), (0, 1, False), (0, 2, False), (1, 2, True), (1, 3, False), (2, 3, True)],
    )
    def test_only_a_job_that_crashed_before(self, crashes, max_crashes, alone):
        assert last_chance(job(crashes=crashes, max_crashes=max_crashes)) is alone


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


class TestWhatAnExceptionMeans:
    def test_any_exception_fails(self):
        error = raised(ValueError("no such user"))
        outcome = outcome_of(error, LIMITS)
        assert outcome == Failed(describe(error, LIMITS), exception=error)

    def test_retry_carries_its_wait(self):
        outcome = outcome_of(Retry("busy", after="5s"), LIMITS)
        assert (outcome.after_ms, outcome.word, outcome.error.message) == (5000, "retried", "busy")
        assert outcome_of(Retry(), LIMITS).after_ms is None

    def test_fail_is_final(self):
        assert outcome_of(Fail("bad address"), LIMITS).final

    def test_snooze_is_no_failure(self):
        assert outcome_of(Snooze("5s", "later"), LIMITS) == Snoozed(5000, "later")
        assert outcome_of(Snooze(1), LIMITS) == Snoozed(1000, "snoozed by its handler")

    def test_a_subclass_means_the_same(self):
        class Busy(Retry):
            pass

        assert outcome_of(Busy(after=1), LIMITS).after_ms == 1000

    def test_a_timeout_is_told_in_words(self):
        outcome = timed_out(1500, cancelled=True)
        assert outcome.error.type == "TimeoutError"
        assert "its timeout of 1.5s" in outcome.error.message
        assert isinstance(outcome.exception, TimeoutError)
        assert not outcome.final


class TestDescribing:
    def test_type_message_and_traceback(self):
        info = describe(raised(ValueError("no such user")), LIMITS)
        assert (info.type, info.message) == ("ValueError", "no such user")
        assert "in raised" in info.traceback
        assert describe(Fail("x"), LIMITS).type == "taskmux.Fail"

    def test_limits_keep_the_start_of_the_message_and_the_end_of_the_traceback(self):
        info = describe(raised(ValueError("a" * 100 + "b" * 100)), Limits(message=50, traceback=60))
        assert info.message == "a" * 49 + "…"
        assert len(info.traceback) == 60
        assert info.traceback == "…" + "b" * 58 + "\n"

    def test_an_exception_that_cannot_be_shown(self):
        assert describe(Unprintable(), LIMITS).message == "(its message cannot be shown)"

    @pytest.mark.parametrize("make", [ValueError, Fail, Retry, lambda text: Snooze(1, text)])
    def test_every_text_can_be_stored(self, make):
        hostile = "\udcff\x00" * 100_000
        outcome = outcome_of(raised(make(hostile)), LIMITS)
        one = after(job(), outcome)
        texts = [one.changes.reason]
        for info in (one.changes.error, one.changes.history[-1].error):
            if info not in (UNSET, None):
                texts += [info.message, info.traceback or ""]
        assert all(len(text.encode()) < 100_000 for text in texts)


class TestRateLimited:
    @pytest.mark.parametrize(
        ("after", "ms"),
        [
            ("30s", 30_000),
            (5, 5000),
            ("120", 120_000),
            ("120.5", 120_500),
            (None, 30_000),
            ("", 30_000),
            ("soon", 30_000),
            ("9" * 5000, 30_000),
            (float("nan"), 30_000),
            ([], 30_000),
            ("0", 1),
            ("Wed, 21 Oct 2099 07:28:00 GMT", 86_400_000),
            ("Sun Nov  6 08:49:37 2094", 86_400_000),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 1),
        ],
    )
    def test_what_it_makes_of_a_header(self, after, ms):
        assert RateLimited(after).after_ms == ms

    def test_a_date_is_from_now(self):
        until = datetime.now(UTC) + timedelta(seconds=90)
        assert 80_000 <= RateLimited(format_datetime(until, usegmt=True)).after_ms <= 90_000

    def test_it_spends_nothing_and_keeps_the_place(self):
        error = RateLimited("5s", "429 Too Many Requests", group=True)
        one = after(job(attempts=1), outcome_of(error, Limits()))
        assert (one.to, one.place, one.hold, one.hold_line) == (
            State.WAITING,
            Place.KEEP,
            5000,
            True,
        )
        assert one.changes == Changes(reason="429 Too Many Requests")
