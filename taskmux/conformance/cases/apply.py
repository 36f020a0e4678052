"""Apply: guards, repeats, deduplication keys, cancel requests and batches."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from taskmux.conformance.bench import LONG, Bench
from taskmux.conformance.cases.moves import FENCED, LEGAL, MOVES, SPENT
from taskmux.driver import (
    Applied,
    ApplyStatus,
    BlockedCause,
    Dedup,
    Keep,
    Policy,
    PushStatus,
    State,
    transition,
)

KEY = Dedup("key")

LEAVES = ("again later", "again now", "release")


class ApplyCases:
    """A1 to A10. `MoveCases` has every transition from every state."""

    @pytest.mark.parametrize("move", FENCED)
    async def test_a1_a_zombie_is_refused(self, bench: Bench, move: str) -> None:
        zombie = await bench.running()
        await bench.applied(transition.release(zombie))
        holder = await bench.claim_one(worker="another")
        (answer,) = await bench.apply(MOVES[move](zombie))
        assert answer == Applied(ApplyStatus.STALE, State.ACTIVE)
        assert await bench.record(holder) == holder

    async def test_a1_a_zombie_of_a_removed_job_is_refused(self, bench: Bench) -> None:
        zombie = await bench.running()
        await bench.applied(transition.cancelled(zombie, SPENT), transition.remove(zombie.ref))
        await bench.reach(await bench.now() + 5)
        holder = await bench.running()
        (answer,) = await bench.apply(transition.complete(zombie, None))
        assert answer.status is ApplyStatus.STALE
        assert await bench.record(holder) == holder

    async def test_a1_a_guard_is_checked_before_anything_is_written(self, bench: Bench) -> None:
        job = await bench.running()
        stale = replace(transition.bury(job, SPENT), guard=transition.Guard(fence=1))
        (answer,) = await bench.apply(stale)
        assert answer == Applied(ApplyStatus.STALE, State.ACTIVE)
        assert await bench.record(job) == job

    async def test_a1_a_guard_may_name_the_cause(self, bench: Bench) -> None:
        await bench.created(bench.job(state=State.BLOCKED, cause=BlockedCause.CHILDREN, children=1))
        job = await bench.record(bench.job())
        for cause in set(BlockedCause) - {BlockedCause.CHILDREN}:
            (answer,) = await bench.apply(transition.unblock(job.ref, cause))
            assert answer == Applied(ApplyStatus.STALE, State.BLOCKED)
            assert await bench.record(job) == job
        await bench.applied(transition.unblock(job.ref, BlockedCause.CHILDREN))
        assert await bench.claimed_ids() == ["job"]

    @pytest.mark.parametrize("start", ["waiting", "delayed", "dead"])
    async def test_a1_a_cause_is_asked_of_blocked_jobs_only(self, bench: Bench, start: str) -> None:
        job = await bench.arrange(start)
        guard = transition.Guard(
            states=frozenset({job.state, State.BLOCKED}), cause=BlockedCause.HOLD
        )
        await bench.applied(replace(transition.remove(job.ref), guard=guard))
        blocked = bench.job("staged", state=State.BLOCKED, cause=BlockedCause.STAGED)
        await bench.created(blocked)
        (answer,) = await bench.apply(replace(transition.remove(blocked.ref), guard=guard))
        assert answer == Applied(ApplyStatus.STALE, State.BLOCKED)

    @pytest.mark.parametrize("move", MOVES)
    async def test_a2_no_record_is_gone(self, bench: Bench, move: str) -> None:
        (answer,) = await bench.apply(MOVES[move](bench.job(fence=1)))
        assert answer == Applied(ApplyStatus.GONE, None)
        assert await bench.get(bench.job()) is None

    @pytest.mark.parametrize(("move", "start"), LEGAL.items())
    async def test_a4_a_repeat_changes_nothing(self, bench: Bench, move: str, start: str) -> None:
        one = MOVES[move](await bench.arrange(start))
        op = bench.op()
        (first,) = await bench.apply(one, op=op)
        assert first.status is ApplyStatus.APPLIED
        before = await bench.snapshot()
        await bench.reach(await bench.now() + 2)
        assert list(await bench.apply(one, op=op)) == [Applied(ApplyStatus.REPEATED, first.state)]
        assert await bench.snapshot() == before

    async def test_a4_a_repeat_is_known_after_the_job_moved_on(self, bench: Bench) -> None:
        job = await bench.running()
        op = bench.op()
        await bench.apply(transition.release(job), op=op)
        holder = await bench.claim_one(worker="another")
        (answer,) = await bench.apply(transition.release(job), op=op)
        assert answer.status is ApplyStatus.REPEATED
        assert await bench.record(holder) == holder

    async def test_a4_a_repeat_is_known_after_others_moved_the_job(self, bench: Bench) -> None:
        job = await bench.arrange("waiting")
        op = bench.op()
        await bench.apply(transition.hold(job.ref), op=op)
        for number in range(6):
            back = transition.unblock(job.ref, BlockedCause.HOLD)
            one = transition.hold(job.ref) if number % 2 else back
            await bench.apply(one, op=bench.op(f"another-{number}"))
        await bench.apply(transition.unblock(job.ref, BlockedCause.HOLD), op=bench.op("last"))
        before = await bench.snapshot()
        (answer,) = await bench.apply(transition.hold(job.ref), op=op)
        assert answer.status is ApplyStatus.REPEATED
        assert await bench.snapshot() == before

    async def test_a4_a_repeated_redrive_revives_nothing(self, bench: Bench) -> None:
        job = await bench.arrange("dead")
        op = bench.op()
        await bench.apply(transition.redrive(job.ref), op=op)
        held = await bench.claim_one()
        await bench.driver.apply(bench.op("worker"), [transition.bury(held, SPENT)])
        dead = await bench.record(job)
        (answer,) = await bench.apply(transition.redrive(job.ref), op=op)
        assert answer.status is ApplyStatus.REPEATED
        assert await bench.record(job) == dead

    async def test_a4_each_item_of_a_repeated_batch_answers_for_itself(self, bench: Bench) -> None:
        job = await bench.running()
        batch = (
            transition.complete(job, b"1"),
            transition.complete(job, b"2"),
            transition.promote(bench.job("nobody").ref),
        )
        op = bench.op()
        statuses = [answer.status for answer in await bench.apply(*batch, op=op)]
        assert statuses == [ApplyStatus.APPLIED, ApplyStatus.STALE, ApplyStatus.GONE]
        before = await bench.snapshot()
        statuses = [answer.status for answer in await bench.apply(*batch, op=op)]
        assert statuses == [ApplyStatus.REPEATED, ApplyStatus.STALE, ApplyStatus.GONE]
        assert await bench.snapshot() == before

    @pytest.mark.parametrize("state", ["completed", "dead", "cancelled"])
    async def test_a6_a_terminal_job_frees_its_key(self, bench: Bench, state: str) -> None:
        await bench.arrange(state, dedup=KEY)
        await bench.created(bench.job("next", dedup=KEY))

    @pytest.mark.parametrize("state", ["waiting", "delayed", "blocked"])
    async def test_a6_a_removal_frees_the_key(self, bench: Bench, state: str) -> None:
        job = await bench.arrange(state, dedup=KEY)
        await bench.applied(transition.remove(job.ref))
        await bench.created(bench.job("next", dedup=KEY))

    async def test_a6_only_the_own_key_is_freed(self, bench: Bench) -> None:
        old = await bench.arrange("dead", dedup=KEY)
        await bench.created(bench.job("owner", dedup=KEY))
        await bench.applied(transition.remove(old.ref))
        (answer,) = await bench.push(bench.job("late", dedup=KEY))
        assert (answer.status, answer.id) == (PushStatus.DEDUPLICATED, "owner")

    async def test_a6_a_redriven_job_takes_its_key_again(self, bench: Bench) -> None:
        old = await bench.arrange("dead", dedup=KEY)
        await bench.applied(transition.redrive(old.ref))
        (answer,) = await bench.push(bench.job("late", dedup=KEY))
        assert (answer.status, answer.id) == (PushStatus.DEDUPLICATED, "job")

    async def test_a6_a_key_owned_by_another_is_a_conflict(self, bench: Bench) -> None:
        old = await bench.arrange("dead", dedup=KEY)
        (owner,) = await bench.created(bench.job("owner", dedup=KEY))
        (answer,) = await bench.apply(transition.redrive(old.ref))
        assert answer == Applied(ApplyStatus.CONFLICT, State.DEAD)
        assert await bench.record(old) == old
        assert await bench.record(owner) == owner

    @pytest.mark.parametrize("move", LEAVES)
    async def test_a7_a_job_asked_to_cancel_goes_nowhere_else(
        self, bench: Bench, move: str
    ) -> None:
        job = await bench.arrange("asked to cancel", dedup=KEY)
        (answer,) = await bench.apply(MOVES[move](job))
        assert answer == Applied(ApplyStatus.APPLIED, State.CANCELLED)
        assert (await bench.record(job)).state is State.CANCELLED
        await bench.created(bench.job("next", dedup=KEY))

    @pytest.mark.parametrize("move", LEAVES)
    async def test_a7_retention_counts_from_the_cancellation(self, bench: Bench, move: str) -> None:
        job = await bench.arrange("asked to cancel", policy=Policy(cancelled=Keep(age_ms=0)))
        await bench.applied(MOVES[move](job))
        assert await bench.prune() == 1
        assert await bench.get(job) is None

    @pytest.mark.parametrize("move", LEAVES)
    async def test_a7_the_reason_stays_that_of_the_request(self, bench: Bench, move: str) -> None:
        job = await bench.running()
        await bench.apply(transition.cancel(job.ref, Keep(), "not wanted any more"))
        one = MOVES[move](job)
        await bench.applied(replace(one, changes=replace(one.changes, reason="it failed")))
        assert (await bench.record(job)).reason == "not wanted any more"

    @pytest.mark.parametrize("move", ["complete", "bury", "cancelled"])
    async def test_a7_another_end_tells_no_reason_of_a_request(
        self, bench: Bench, move: str
    ) -> None:
        job = await bench.running()
        await bench.apply(transition.cancel(job.ref, Keep(), "not wanted any more"))
        one = MOVES[move](job)
        if move != "complete":
            one = replace(one, changes=replace(one.changes, reason="its own"))
        await bench.applied(one)
        assert (await bench.record(job)).reason == (None if move == "complete" else "its own")

    async def test_a7_completion_wins_over_a_cancel_request(self, bench: Bench) -> None:
        job = await bench.arrange("asked to cancel")
        (answer,) = await bench.apply(transition.complete(job, b"1"))
        assert answer == Applied(ApplyStatus.APPLIED, State.COMPLETED)

    async def test_a7_a_reclaimed_job_is_still_asked_to_cancel(self, bench: Bench) -> None:
        await bench.created(bench.job())
        job = await bench.claim_one(lease=20)
        await bench.apply(transition.cancel(job.ref, Keep()))
        assert job.lease_until is not None
        await bench.reach(job.lease_until)
        rescued = await bench.reclaim_one()
        assert rescued.cancel_requested
        (answer,) = await bench.apply(transition.again(rescued, SPENT, LONG))
        assert answer == Applied(ApplyStatus.APPLIED, State.CANCELLED)

    async def test_a8_an_active_job_is_asked_to_cancel(self, bench: Bench) -> None:
        job = await bench.running()
        cancel = transition.cancel(job.ref, Keep())
        for _ in range(2):
            (answer,) = await bench.apply(cancel)
            assert answer == Applied(ApplyStatus.REQUESTED, State.ACTIVE)
            expected = replace(job, cancel_requested=True, reason="on request")
            assert await bench.record(job) == expected
        await bench.apply(transition.cancel(job.ref, Keep(), "not wanted any more"))
        assert (await bench.record(job)).reason == "not wanted any more"

    async def test_a8_the_flag_goes_with_a_redrive(self, bench: Bench) -> None:
        job = await bench.arrange("asked to cancel")
        await bench.applied(transition.release(job))
        await bench.applied(transition.redrive(job.ref, {State.CANCELLED}))
        again = await bench.claim_one()
        assert not again.cancel_requested
        (answer,) = await bench.apply(transition.release(again))
        assert answer == Applied(ApplyStatus.APPLIED, State.WAITING)

    async def test_a9_a_running_job_is_removed_where_the_guard_says_so(self, bench: Bench) -> None:
        job = await bench.running()
        (answer,) = await bench.apply(transition.erase(job.ref))
        assert answer == Applied(ApplyStatus.APPLIED)
        (late,) = await bench.apply(transition.complete(job, b"1"))
        assert late == Applied(ApplyStatus.GONE)
        assert sum((await bench.driver.counts(bench.queue)).values()) == 0
        await bench.created(bench.job())
        again = await bench.claim_one()
        assert again.fence > job.fence

    async def test_a9_a_removed_job_leaves_nothing(self, bench: Bench) -> None:
        job = await bench.arrange("completed", dedup=KEY, tags=("t",))
        (answer,) = await bench.apply(transition.remove(job.ref))
        assert answer == Applied(ApplyStatus.APPLIED, None)
        assert await bench.get(job) is None
        assert await bench.snapshot() == (dict.fromkeys(State, 0), [])
        fresh = await bench.running()
        assert (fresh.result, fresh.tags, fresh.attempts) == (None, (), 0)

    async def test_a10_each_transition_sees_the_one_before(self, bench: Bench) -> None:
        await bench.created(bench.job("a"), bench.job("b"))
        job = await bench.claim_one()
        other = bench.job("b").ref
        answers = await bench.apply(
            transition.start(job),
            transition.hold(other),
            transition.complete(job, b"1"),
            transition.complete(job, b"2"),
            transition.unblock(other, BlockedCause.HOLD),
            transition.reprioritise(other, 3),
            transition.remove(job.ref),
            transition.remove(job.ref),
        )
        assert [(answer.status, answer.state) for answer in answers] == [
            (ApplyStatus.APPLIED, State.ACTIVE),
            (ApplyStatus.APPLIED, State.BLOCKED),
            (ApplyStatus.APPLIED, State.COMPLETED),
            (ApplyStatus.STALE, State.COMPLETED),
            (ApplyStatus.APPLIED, State.WAITING),
            (ApplyStatus.APPLIED, State.WAITING),
            (ApplyStatus.APPLIED, None),
            (ApplyStatus.GONE, None),
        ]

    async def test_a10_a_delay_that_ends_in_the_same_batch_leaves_no_trace(
        self, bench: Bench
    ) -> None:
        await bench.created(bench.job())
        job = await bench.claim_one()
        await bench.applied(transition.again(job, SPENT, LONG), transition.promote(job.ref))
        assert (await bench.record(job)).state is State.WAITING
        await bench.applied(transition.postpone(job.ref, LONG), transition.remove(job.ref))
        assert await bench.snapshot() == (dict.fromkeys(State, 0), [])

    async def test_a10_a_batch_may_span_queues(self, bench: Bench) -> None:
        there = bench.job(queue=bench.another_queue())
        await bench.created(bench.job(), there)
        here = await bench.claim_one()
        await bench.applied(transition.hold(there.ref), transition.complete(here, b"1"))
        assert (await bench.record(there)).state is State.BLOCKED
        assert (await bench.record(here)).state is State.COMPLETED

    async def test_apply_of_nothing_answers_nothing(self, bench: Bench) -> None:
        assert list(await bench.apply()) == []
