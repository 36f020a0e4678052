"""The checker bites: a good run passes, and each thing that can go wrong is found and named."""

from __future__ import annotations

import pytest
from harness.checker import Evidence, Report, check
from harness.journal import (
    Acked,
    Ended,
    Entry,
    Fault,
    Intent,
    Journal,
    LeaseLost,
    Settled,
    Started,
    Tail,
)
from msgspec.structs import replace
from taskmux.driver import JobRecord, Ref, State
from taskmux.model.job import Attempt

LEASE = 2.0
ONE, TWO = Ref("q", "one"), Ref("q", "two")
A, B = 101, 102
"""Two worker processes."""


def stored(ref: Ref, fence: int, state: State = State.COMPLETED, **fields) -> JobRecord:
    result = str(fence).encode() if state is State.COMPLETED else None
    record = JobRecord(queue=ref.queue, id=ref.id, task="t", state=state, fence=fence)
    return replace(record, **({"result": result} | fields))


def pushed(ref: Ref) -> list[Entry]:
    return [Intent(ref=ref), Acked(ref=ref)]


def begun(ref: Ref, fence: int, pid: int) -> Entry:
    return Started(ref=ref, fence=fence, pid=pid)


def run(ref: Ref, fence: int, pid: int, to: State = State.COMPLETED) -> list[Entry]:
    """A run from its start to its outcome."""
    return [
        begun(ref, fence, pid),
        Ended(ref=ref, fence=fence, pid=pid),
        Settled(ref=ref, fence=fence, pid=pid, to=to),
    ]


def fault(name: str, pid: int, at: float = 0.0) -> Entry:
    return Fault(name=name, pid=pid, at=at)


def found(entries: list[Entry], *records: JobRecord, **rest) -> Report:
    fields = {"total": len(records), "lease": LEASE} | rest
    by_ref = {record.ref: record for record in records}
    return check(Evidence(entries=entries, records=by_ref, **fields))


def names(report: Report) -> set[str]:
    return {violation.split(":", maxsplit=1)[0] for violation in report.violations}


class TestGoodRuns:
    def test_every_job_once(self):
        entries = [*pushed(ONE), *pushed(TWO), *run(ONE, 1, A), *run(TWO, 1, B)]
        report = found(entries, stored(ONE, 1), stored(TWO, 1))
        assert report.violations == []
        assert (report.jobs, report.starts, report.duplicates) == (2, 2, {})

    def test_a_push_without_an_answer_may_or_may_not_have_happened(self):
        assert found([Intent(ref=ONE)]).violations == []
        assert found([Intent(ref=ONE), *run(ONE, 1, A)], stored(ONE, 1)).violations == []

    def test_a_killed_workers_job_runs_again(self):
        entries = [*pushed(ONE), begun(ONE, 1, A), fault("SIGKILL", A), *run(ONE, 3, B)]
        report = found(entries, stored(ONE, 3))
        assert report.violations == []
        assert report.duplicates == {"holder killed": 1}

    def test_a_stopped_workers_job_runs_again_and_the_zombie_is_refused(self):
        entries = [
            *pushed(ONE),
            begun(ONE, 1, A),
            fault("SIGSTOP", A, 10),
            *run(ONE, 3, B),
            fault("SIGCONT", A, 10 + 2 * LEASE),
            Ended(ref=ONE, fence=1, pid=A),
            LeaseLost(ref=ONE, fence=1, pid=A),
        ]
        report = found(entries, stored(ONE, 3))
        assert report.violations == []
        assert report.duplicates == {"holder stopped": 1}
        assert report.zombies == 1

    def test_a_job_that_is_given_back_or_retried_runs_again(self):
        entries = [*pushed(ONE), *run(ONE, 1, A, State.WAITING), *run(ONE, 2, B)]
        report = found(entries, stored(ONE, 2))
        assert report.violations == []
        assert report.duplicates == {"given back": 1}

    def test_a_lapse_that_the_history_tells_of(self):
        lapse = Attempt(number=1, fence=1, worker="a", outcome="crashed")
        entries = [*pushed(ONE), begun(ONE, 1, A), *run(ONE, 3, B)]
        report = found(entries, stored(ONE, 3, history=(lapse,)))
        assert report.violations == []
        assert report.duplicates == {"lapse recorded": 1}

    def test_a_process_that_is_stopped_within_a_transaction_holds_up_all(self):
        entries = [
            *pushed(ONE),
            begun(ONE, 1, A),
            fault("SIGSTOP", B, 10),
            fault("SIGCONT", B, 10 + 2 * LEASE),
            *run(ONE, 3, B),
        ]
        assert found(entries, stored(ONE, 3)).duplicates == {"store stood still": 1}

    def test_a_start_that_a_stop_came_in_between(self):
        # Stopped after the last look at the lease: what it goes on with is the start itself.
        entries = [
            *pushed(ONE),
            fault("SIGSTOP", A, 10),
            *run(ONE, 3, B),
            fault("SIGCONT", A, 10 + 2 * LEASE),
            begun(ONE, 1, A),
        ]
        assert found(entries, stored(ONE, 3)).violations == []

    def test_poison_is_dead(self):
        entries = [*pushed(ONE), begun(ONE, 1, A), fault("exit", A)]
        dead = stored(ONE, 2, State.DEAD)
        assert found(entries, dead, poison=frozenset({ONE})).violations == []


class TestLost:
    def test_an_acknowledged_job_is_not_stored(self):
        assert names(found([*pushed(ONE), *run(ONE, 1, A)])) == {"lost"}

    @pytest.mark.parametrize("state", [State.WAITING, State.ACTIVE, State.DEAD, State.CANCELLED])
    def test_an_acknowledged_job_never_completes(self, state):
        assert names(found(pushed(ONE), stored(ONE, 1, state))) == {"lost"}

    def test_poison_that_completes(self):
        report = found(pushed(ONE), stored(ONE, 1), poison=frozenset({ONE}))
        assert names(report) == {"lost"}


class TestUnexpected:
    def test_a_stored_job_that_nobody_pushed(self):
        assert names(found([], stored(ONE, 1))) == {"unexpected"}

    def test_a_run_of_a_job_that_nobody_pushed(self):
        assert names(found([begun(ONE, 1, A)])) == {"unexpected"}


def test_counts_that_do_not_add_up():
    entries = [*pushed(ONE), *run(ONE, 1, A)]
    assert names(found(entries, stored(ONE, 1), total=2)) == {"counts"}


class TestFences:
    @pytest.mark.parametrize("second", [1, 2])
    def test_a_fence_that_does_not_rise(self, second):
        entries = [*pushed(ONE), begun(ONE, 2, A), fault("SIGKILL", A), begun(ONE, second, B)]
        assert "fences" in names(found(entries, stored(ONE, 2)))

    def test_only_the_first_line_of_a_woken_process_is_forgiven(self):
        entries = [
            *pushed(ONE),
            *pushed(TWO),
            fault("SIGSTOP", A, 10),
            *run(ONE, 3, B),
            *run(TWO, 3, B),
            fault("SIGCONT", A, 10 + 2 * LEASE),
            begun(ONE, 1, A),
            begun(TWO, 1, A),
        ]
        report = found(entries, stored(ONE, 3), stored(TWO, 3))
        assert report.violations == ["fences: q/two was started under 1 after 3"]


class TestTwice:
    def test_nothing_happened_to_the_first_run(self):
        entries = [*pushed(ONE), begun(ONE, 1, A), *run(ONE, 3, B)]
        assert names(found(entries, stored(ONE, 3))) == {"twice"}

    def test_somebody_else_was_killed(self):
        entries = [*pushed(ONE), begun(ONE, 1, A), fault("SIGKILL", 999), *run(ONE, 3, B)]
        assert names(found(entries, stored(ONE, 3))) == {"twice"}

    def test_the_first_runs_process_was_killed_afterwards(self):
        entries = [*pushed(ONE), begun(ONE, 1, A), *run(ONE, 3, B), fault("SIGKILL", A)]
        assert names(found(entries, stored(ONE, 3))) == {"twice"}

    def test_a_stop_shorter_than_the_lease(self):
        entries = [
            *pushed(ONE),
            begun(ONE, 1, A),
            fault("SIGSTOP", A, 10),
            fault("SIGCONT", A, 10 + LEASE / 2),
            *run(ONE, 3, B),
        ]
        assert names(found(entries, stored(ONE, 3))) == {"twice"}

    def test_a_termination_is_no_excuse(self):
        entries = [*pushed(ONE), begun(ONE, 1, A), fault("SIGTERM", A), *run(ONE, 3, B)]
        assert names(found(entries, stored(ONE, 3))) == {"twice"}

    def test_a_store_that_stood_still_took_no_lease(self):
        # Without a lease taken in between, the claim itself gave the job to two workers.
        entries = [
            *pushed(ONE),
            begun(ONE, 1, A),
            fault("SIGSTOP", B, 10),
            fault("SIGCONT", B, 10 + 2 * LEASE),
            *run(ONE, 2, B),
        ]
        assert names(found(entries, stored(ONE, 2))) == {"twice"}


STOPPED_AND_WOKEN = [
    *pushed(ONE),
    begun(ONE, 1, A),
    fault("SIGSTOP", A, 10),
    begun(ONE, 3, B),
    fault("SIGCONT", A, 10 + 2 * LEASE),
]


class TestEnds:
    def test_two_ends_are_taken(self):
        entries = [*pushed(ONE), *run(ONE, 1, A), Settled(ref=ONE, fence=1, pid=A, to=State.DEAD)]
        assert "ends" in names(found(entries, stored(ONE, 1)))

    def test_the_same_end_is_taken_twice(self):
        entries = [*pushed(ONE), *run(ONE, 1, A), run(ONE, 1, A)[-1]]
        assert names(found(entries, stored(ONE, 1))) == {"ends"}

    def test_another_end_is_stored(self):
        entries = [*pushed(ONE), *run(ONE, 1, A, State.DEAD)]
        assert names(found(entries, stored(ONE, 1))) == {"ends"}


class TestZombies:
    def test_its_outcome_is_taken_and_told(self):
        zombie = Settled(ref=ONE, fence=1, pid=A, to=State.COMPLETED)
        report = found([*STOPPED_AND_WOKEN, zombie], stored(ONE, 3, result=b"1"))
        assert names(report) == {"ends", "zombies"}

    def test_its_outcome_is_taken_and_nobody_was_told(self):
        assert names(found(STOPPED_AND_WOKEN, stored(ONE, 3, result=b"1"))) == {"zombies"}

    def test_it_takes_the_job_from_the_run_after_it(self):
        assert names(found(STOPPED_AND_WOKEN, stored(ONE, 1))) == {"zombies"}

    def test_it_overwrites_the_rightful_outcome(self):
        rightful = Settled(ref=ONE, fence=3, pid=B, to=State.COMPLETED)
        zombie = Settled(ref=ONE, fence=1, pid=A, to=State.COMPLETED)
        report = found([*STOPPED_AND_WOKEN, rightful, zombie], stored(ONE, 3, result=b"1"))
        assert names(report) == {"ends", "zombies"}


class TestJournal:
    def test_what_is_written_is_read_back_in_order(self, tmp_path):
        entries = [*pushed(ONE), *run(ONE, 1, A), fault("SIGKILL", A)]
        with Journal(tmp_path / "journal") as first, Journal(tmp_path / "journal") as second:
            for number, entry in enumerate(entries):
                (first, second)[number % 2].write(entry)
            assert Tail(first.path).new() == entries

    def test_a_reader_goes_on_where_it_was(self, tmp_path):
        with Journal(tmp_path / "journal") as journal:
            tail = Tail(journal.path)
            assert tail.new() == []
            for entry in pushed(ONE):
                journal.write(entry)
                assert tail.new() == [entry]

    def test_half_a_line_is_left_for_later(self, tmp_path):
        with Journal(tmp_path / "journal") as journal:
            journal.write(Intent(ref=ONE))
        whole = journal.path.read_bytes()
        journal.path.write_bytes(whole + whole[:20])
        tail = Tail(journal.path)
        assert len(tail.new()) == 1
        journal.path.write_bytes(whole + whole)
        assert len(tail.new()) == 1
        assert tail.torn == 0

    def test_a_line_cut_short_by_a_kill_spoils_no_other(self, tmp_path):
        with Journal(tmp_path / "journal") as journal:
            journal.write(Intent(ref=ONE))
            with journal.path.open("ab") as file:
                file.write(journal.path.read_bytes()[:20])
            journal.write(Acked(ref=ONE))
            tail = Tail(journal.path)
            assert [type(entry) for entry in tail.new()] == [Intent, Acked]
            assert tail.torn == 1
