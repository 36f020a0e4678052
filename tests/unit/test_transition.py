from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from taskmux.model import transition
from taskmux.model.job import (
    PENDING,
    TERMINAL,
    BlockedCause,
    ErrorInfo,
    JobRecord,
    Keep,
    Policy,
    Ref,
    State,
)
from taskmux.model.transition import Changes, Place, Transition

REF = Ref("q", "j")
KEEP = Keep(5)
ACTIVE = frozenset({State.ACTIVE})


def job(**fields: Any) -> JobRecord:
    kept = Policy(completed=Keep(1), cancelled=Keep(2), dead=Keep(3))
    return JobRecord(
        **{"queue": "q", "id": "j", "task": "t", "state": State.ACTIVE, "fence": 7, "policy": kept}
        | fields
    )


HELD: dict[str, Callable[[JobRecord], Transition]] = {
    "start": transition.start,
    "complete": lambda one: transition.complete(one, b"1"),
    "again at once": lambda one: transition.again(one, Changes(), 0),
    "again later": lambda one: transition.again(one, Changes(), 5),
    "release": transition.release,
    "limited": lambda one: transition.limited(one, Changes(), 5),
    "bury": lambda one: transition.bury(one, Changes()),
    "cancelled": lambda one: transition.cancelled(one, Changes()),
    "set_aside": lambda one: transition.set_aside(one, "strike x: task t"),
}
OUTSIDE: dict[str, tuple[Transition, frozenset[State], State | None]] = {
    "cancel": (transition.cancel(REF, KEEP), PENDING, State.CANCELLED),
    "redrive": (transition.redrive(REF), frozenset({State.DEAD}), State.WAITING),
    "promote": (transition.promote(REF), frozenset({State.DELAYED}), State.WAITING),
    "postpone": (
        transition.postpone(REF, 5),
        frozenset({State.DELAYED, State.WAITING}),
        State.DELAYED,
    ),
    "reprioritise": (transition.reprioritise(REF, 5), PENDING, None),
    "edit": (transition.edit(REF, b"{}"), PENDING | {State.DEAD, State.CANCELLED}, None),
    "hold": (transition.hold(REF), frozenset({State.DELAYED, State.WAITING}), State.BLOCKED),
    "unblock": (
        transition.unblock(REF, BlockedCause.HOLD),
        frozenset({State.BLOCKED}),
        State.WAITING,
    ),
    "remove": (transition.remove(REF), PENDING | TERMINAL, None),
    "erase": (transition.erase(REF), frozenset(State), None),
}
STATES = st.frozensets(st.sampled_from(State))


class TestOfARunningJob:
    @pytest.mark.parametrize(
        ("name", "to", "keep"),
        [
            ("start", State.ACTIVE, None),
            ("complete", State.COMPLETED, Keep(1)),
            ("again at once", State.WAITING, Keep(2)),
            ("again later", State.DELAYED, Keep(2)),
            ("release", State.WAITING, Keep(2)),
            ("limited", State.WAITING, Keep(2)),
            ("bury", State.DEAD, Keep(3)),
            ("set_aside", State.BLOCKED, Keep(2)),
            ("cancelled", State.CANCELLED, Keep(2)),
        ],
    )
    def test_each_edge_is_guarded_by_the_fence(self, name, to, keep):
        one = HELD[name](job())
        assert one.ref == REF
        assert (one.guard.fence, one.guard.states) == (7, None)
        assert one.to is to
        assert keep is None or one.retention == keep
        assert not one.flag
        assert not one.remove

    def test_complete_spends_the_attempt_and_forgets_earlier_errors(self):
        clean = transition.complete(job(attempts=1), b"1")
        assert clean.changes == Changes(attempts=2, result=b"1")
        after = transition.complete(job(error=ErrorInfo("E", "m"), reason="r"), None)
        assert (after.changes.error, after.changes.reason) == (None, None)

    def test_counters_are_absolute(self):
        one = transition.complete(job(attempts=1), None)
        assert one == transition.complete(job(attempts=1), None)

    def test_release_keeps_its_place_and_spends_nothing(self):
        one = transition.release(job(attempts=2, crashes=1))
        assert one.place is Place.KEEP
        assert one.changes == Changes()

    def test_limited_keeps_its_place_spends_nothing_and_holds(self):
        one = transition.limited(job(attempts=2), Changes(reason="r"), 5, line=True)
        assert (one.place, one.changes) == (Place.KEEP, Changes(reason="r"))
        assert (one.hold, one.hold_line) == (5, True)

    def test_again_goes_to_the_back(self):
        assert HELD["again at once"](job()).place is Place.BACK

    def test_start_marks_only(self):
        assert transition.start(job()).changes == Changes(started=True)


class TestFromOutside:
    @pytest.mark.parametrize("name", OUTSIDE)
    def test_each_edge_is_guarded_by_states(self, name):
        one, states, to = OUTSIDE[name]
        assert (one.guard.fence, one.guard.states) == (None, states)
        assert one.to is to

    def test_only_a_cancel_is_a_request_to_a_running_job(self):
        assert [name for name, (one, _, _) in OUTSIDE.items() if one.flag] == ["cancel"]

    def test_only_a_removal_removes(self):
        assert [name for name, (one, _, _) in OUTSIDE.items() if one.remove] == ["remove", "erase"]

    def test_redrive_gives_fresh_attempts_and_keeps_the_history(self):
        changes = transition.redrive(REF, TERMINAL).changes
        assert (changes.attempts, changes.crashes, changes.cancel_requested) == (0, 0, False)
        assert (changes.error, changes.reason, changes.result) == (None, None, None)
        assert changes.history is UNSET

    def test_a_waiting_job_keeps_its_sequence_at_another_priority(self):
        one = transition.reprioritise(REF, 3)
        assert (one.place, one.changes) == (Place.KEEP, Changes(priority=3))

    def test_hold_says_why_and_unblock_forgets(self):
        assert transition.hold(REF).changes.cause is BlockedCause.HOLD
        assert transition.unblock(REF, BlockedCause.HOLD).changes.cause is None

    def test_postpone_takes_a_delay_or_an_instant(self):
        assert transition.postpone(REF, 5).delay == 5
        assert transition.postpone(REF, run_at=9).run_at == 9

    @given(STATES)
    def test_no_states_let_a_running_or_moved_job_be_redriven(self, states):
        guard = transition.redrive(REF, states).guard
        assert not guard.states & {State.ACTIVE, State.MOVED}
        assert guard.states <= states & TERMINAL

    @given(STATES)
    def test_no_states_let_a_running_job_be_removed(self, states):
        assert transition.remove(REF, states).guard.states == states - {State.ACTIVE}


class TestEveryConstructor:
    def all(self, one: JobRecord) -> list[Transition]:
        return [make(one) for make in HELD.values()] + [out for out, _, _ in OUTSIDE.values()]

    def test_none_is_missing_here(self):
        public = {
            name
            for name, value in vars(transition).items()
            if inspect.isfunction(value)
            and value.__module__ == transition.__name__
            and not name.startswith("_")
        }
        tried = {name.split()[0] for name in chain(HELD, OUTSIDE)}
        assert tried == public

    @given(
        st.integers(0, 2**53),
        st.integers(0, 2**53),
        st.integers(0, 100),
        st.booleans(),
        STATES,
    )
    def test_a_guard_is_a_fence_or_states_never_both_or_neither(
        self, fence, created, attempts, asked, states
    ):
        one = job(fence=fence, created_at=created, attempts=attempts, cancel_requested=asked)
        made = [*self.all(one), transition.redrive(REF, states), transition.remove(REF, states)]
        for each in made:
            assert (each.guard.fence is None) != (each.guard.states is None)
            assert (each.to is None) or not each.remove
