"""The interpreter of transitions against the kit's model, written apart from it: every way to
build a transition, from every state, with whatever may matter to the rules."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from taskmux.conformance import model
from taskmux.model import transition
from taskmux.model.job import (
    PENDING,
    TERMINAL,
    BlockedCause,
    ErrorInfo,
    JobRecord,
    Keep,
    Ref,
    State,
)
from taskmux.model.judge import Move, given, holds, judge
from taskmux.model.transition import Applied, ApplyStatus, Changes, Guard, Place, Transition

NOW = 1_700_000_000_000
REF = Ref("q", "j")
SPENT = Changes(attempts=2, crashes=1, reason="it broke", error=ErrorInfo("E", "m"))

MADE: dict[str, Callable[[JobRecord], Transition]] = {
    "start": transition.start,
    "complete": lambda one: transition.complete(one, b"1"),
    "complete without a result": lambda one: transition.complete(one, None),
    "again later": lambda one: transition.again(one, SPENT, 5),
    "again now": lambda one: transition.again(one, SPENT, 0),
    "release": transition.release,
    "limited": lambda one: transition.limited(one, SPENT, 5),
    "limited line": lambda one: transition.limited(one, SPENT, 5, line=True),
    "bury": lambda one: transition.bury(one, SPENT),
    "cancelled": lambda one: transition.cancelled(one, SPENT),
    "set_aside": lambda one: transition.set_aside(one, "strike x: task t"),
    "cancel": lambda one: transition.cancel(one.ref, Keep(7)),
    "redrive": lambda one: transition.redrive(one.ref),
    "redrive all": lambda one: transition.redrive(one.ref, TERMINAL),
    "promote": lambda one: transition.promote(one.ref),
    "postpone": lambda one: transition.postpone(one.ref, 5),
    "postpone until": lambda one: transition.postpone(one.ref, run_at=NOW + 9),
    "erase": lambda one: transition.erase(one.ref),
    "reprioritise": lambda one: transition.reprioritise(one.ref, 3),
    "edit": lambda one: transition.edit(one.ref, b"[3]"),
    "hold": lambda one: transition.hold(one.ref),
    **{
        f"unblock {cause}": lambda one, cause=cause: transition.unblock(one.ref, cause)
        for cause in BlockedCause
    },
    "remove": lambda one: transition.remove(one.ref),
    "remove any": lambda one: transition.remove(one.ref, frozenset(State)),
}

ANYWHERE = Guard(states=frozenset(State))
"""A guard that lets everything through shows what the rules below the guard do."""


def job(state: State, **fields: Any) -> JobRecord:
    """Return a job as a store may have it in a state, with everything that a move may clear."""
    active, done = state is State.ACTIVE, state in TERMINAL
    made: dict[str, Any] = {
        "state": state,
        "cause": BlockedCause.HOLD if state is State.BLOCKED else None,
        "fence": 7,
        "worker": "w" if active else None,
        "lease_until": NOW + 100 if active else None,
        "started": active,
        "finished_at": NOW - 100 if done else None,
        "run_at": NOW - 200,
        "reason": "before",
        "error": ErrorInfo("Old", "error"),
        "result": b"0" if done else None,
        "attempts": 1,
    }
    return JobRecord(queue="q", id="j", task="t", **made | fields)


JOBS = {
    **{str(state): job(state) for state in State},
    "asked to cancel": job(State.ACTIVE, cancel_requested=True),
    "not begun": job(State.ACTIVE, started=False),
    "of another fence": job(State.ACTIVE, fence=8),
    **{f"blocked for {cause}": job(State.BLOCKED, cause=cause) for cause in BlockedCause},
    "blocked for nothing": job(State.BLOCKED, cause=None),
}

EVERY = list(itertools.product(MADE, JOBS))


def agrees(one: Transition, stored: JobRecord) -> None:
    """Check a verdict and its record against the model."""
    verdict, expected = judge(one, stored), model.answer(stored, one)
    after = model.moved(stored, one, NOW)
    if isinstance(verdict, Applied):
        assert (verdict, after) == (expected, stored)
        return
    assert verdict.answer == expected
    assert verdict.removes == (after is None)
    if after is None:
        assert verdict.left_active == (stored.state is State.ACTIVE)
        return
    assert verdict.record(stored, NOW) == after
    assert verdict.state is after.state
    was, now = stored.state, after.state
    assert verdict.left_active == (was is State.ACTIVE and now is not State.ACTIVE)
    assert verdict.ended == (now in TERMINAL and was is not now)
    assert verdict.revived == (was in TERMINAL and now not in TERMINAL)
    became_waiting = one.to is State.WAITING and now is State.WAITING
    assert verdict.place is (one.place if became_waiting else None)


class TestAgainstTheModel:
    @pytest.mark.parametrize(("made", "stored"), EVERY)
    def test_every_constructor_from_every_state(self, made, stored):
        agrees(MADE[made](replace(JOBS[stored], fence=7)), JOBS[stored])

    @pytest.mark.parametrize(("made", "stored"), EVERY)
    def test_the_rules_below_the_guard(self, made, stored):
        agrees(replace(MADE[made](JOBS[stored]), guard=ANYWHERE), JOBS[stored])

    @pytest.mark.parametrize("stored", JOBS)
    @pytest.mark.parametrize("to", [None, *State])
    @pytest.mark.parametrize("place", Place)
    def test_every_target(self, stored, to, place):
        one = Transition(ref=REF, guard=ANYWHERE, to=to, place=place, delay=3, changes=SPENT)
        agrees(one, JOBS[stored])
        agrees(replace(one, run_at=NOW + 1), JOBS[stored])
        agrees(replace(one, flag=True), JOBS[stored])

    @pytest.mark.parametrize("cause", [None, *BlockedCause])
    @pytest.mark.parametrize("stored", JOBS)
    def test_every_guard(self, stored, cause):
        for size in (1, 2):
            for states in itertools.combinations(State, size):
                guard = Guard(states=frozenset(states), cause=cause)
                agrees(Transition(ref=REF, guard=guard, to=State.WAITING), JOBS[stored])
        for fence in (6, 7, 8):
            agrees(Transition(ref=REF, guard=Guard(fence=fence)), JOBS[stored])

    def test_every_constructor_is_here(self):
        public = {
            name
            for name, it in vars(transition).items()
            if inspect.isfunction(it) and not name.startswith("_")
        }
        assert public == {made.split()[0] for made in MADE}


class TestInWords:
    """A few rules as plain sentences, so that one error in both interpreters shows."""

    def test_no_record_is_gone(self):
        assert judge(transition.promote(REF), None) == Applied(ApplyStatus.GONE)

    def test_another_fence_is_stale(self):
        stale = Applied(ApplyStatus.STALE, State.ACTIVE)
        assert judge(transition.complete(job(State.ACTIVE, fence=6), None), JOBS["active"]) == stale

    @pytest.mark.parametrize("state", [state for state in State if state is not State.ACTIVE])
    def test_a_fence_is_no_right_to_a_job_that_is_not_active(self, state):
        assert not holds(Guard(fence=7), job(state))

    def test_a_guard_without_anything_lets_nothing_through(self):
        assert not any(holds(Guard(), one) for one in JOBS.values())

    def test_a_cause_is_asked_of_blocked_jobs_only(self):
        guard = Guard(states=frozenset(PENDING), cause=BlockedCause.CHILDREN)
        passed = {name for name, one in JOBS.items() if holds(guard, one)}
        assert passed == {"waiting", "delayed", "blocked for children"}

    def test_a_running_job_is_asked_and_not_cancelled(self):
        move = judge(transition.cancel(REF, Keep()), job(State.ACTIVE))
        assert isinstance(move, Move)
        assert move.answer == Applied(ApplyStatus.REQUESTED, State.ACTIVE)
        assert move.record(job(State.ACTIVE), NOW) == job(
            State.ACTIVE, cancel_requested=True, reason="on request"
        )

    def test_who_was_asked_to_cancel_goes_nowhere_else_but_to_an_end(self):
        asked = JOBS["asked to cancel"]
        ends = {}
        for name in ("complete", "bury", "cancelled", "again later", "again now", "release"):
            move = judge(MADE[name](asked), asked)
            assert isinstance(move, Move)
            ends[name] = move.state
        assert ends == {
            "complete": State.COMPLETED,
            "bury": State.DEAD,
            "cancelled": State.CANCELLED,
            "again later": State.CANCELLED,
            "again now": State.CANCELLED,
            "release": State.CANCELLED,
        }

    def test_start_keeps_the_lease(self):
        move = judge(transition.start(JOBS["not begun"]), JOBS["not begun"])
        assert isinstance(move, Move)
        after = move.record(JOBS["not begun"], NOW)
        assert (after.worker, after.lease_until, after.started) == ("w", NOW + 100, True)

    def test_the_end_of_a_run_clears_the_lease_and_keeps_the_fence(self):
        move = judge(transition.release(JOBS["active"]), JOBS["active"])
        assert isinstance(move, Move)
        after = move.record(JOBS["active"], NOW)
        assert (after.worker, after.lease_until, after.started) == (None, None, False)
        assert (after.fence, after.finished_at) == (7, None)

    def test_only_what_is_set_is_given(self):
        assert given(Changes()) == {}
        assert given(Changes(reason=None, attempts=0)) == {"reason": None, "attempts": 0}
