"""Push: what is created, what is not, and how it is stored."""

from __future__ import annotations

from functools import partial

import pytest

from taskmux.conformance.bench import LONG, Bench
from taskmux.conformance.cases.moves import SPENT
from taskmux.conformance.model import pushed
from taskmux.driver import (
    ApplyStatus,
    BlockedCause,
    Dedup,
    Keep,
    NewJob,
    Policy,
    PruneAsk,
    PushStatus,
    QueueSettings,
    Ref,
    State,
    transition,
)

PASTS = ("waiting", "delayed", "blocked", "active", "completed", "dead", "cancelled")


async def _stored(bench: Bench, new: NewJob, since: int) -> None:
    """Check the whole record of a job that was just created."""
    fence = (await bench.record(new.job)).fence
    stored = await bench.stored_as(new.job, partial(pushed, new, fence=fence), since)
    assert fence >= stored.created_at, "a fence starts at the time of creation, or above it"


class PushCases:
    """P1 to P7."""

    @pytest.mark.parametrize("state", [State.WAITING, State.DELAYED, State.BLOCKED])
    async def test_p1_a_created_job_is_stored_as_given(self, bench: Bench, state: State) -> None:
        cause = BlockedCause.CHILDREN if state is State.BLOCKED else None
        new = NewJob(bench.job(state=state, cause=cause, children=2), delay=LONG)
        since = await bench.now()
        assert [one.status for one in await bench.push(new)] == [PushStatus.CREATED]
        await _stored(bench, new, since)

    async def test_p1_an_absolute_instant_is_kept(self, bench: Bench) -> None:
        new = NewJob(bench.job(state=State.DELAYED, run_at=4_102_444_800_000), delay=7)
        since = await bench.now()
        await bench.push(new)
        await _stored(bench, new, since)

    async def test_p1_the_same_id_may_exist_in_two_queues(self, bench: Bench) -> None:
        other = bench.job(queue=bench.another_queue())
        await bench.created(bench.job(), other)
        assert await bench.claimed_ids() == ["job"]
        assert (await bench.record(other)).state is State.WAITING

    @pytest.mark.parametrize("way", ["remove", "prune"])
    async def test_p1_a_fence_starts_above_those_of_a_removed_job(
        self, bench: Bench, way: str
    ) -> None:
        for _ in range(5):
            zombie = await bench.running(policy=Policy(completed=Keep(age_ms=0)))
            for _ in range(8):  # each raises the fence, faster than the time if the store is fast
                await bench.applied(transition.release(zombie))
                zombie = await bench.claim_one()
            await bench.applied(transition.complete(zombie, None))
            if way == "remove":
                await bench.applied(transition.remove(zombie.ref))
            else:
                assert await bench.prune() == 1
            (fresh,) = await bench.created(bench.job())
            assert fresh.fence > zombie.fence, "a zombie of the removed job could match"
            holder = await bench.claim_one()
            (answer,) = await bench.apply(transition.complete(zombie, None))
            assert answer.status is ApplyStatus.STALE
            await bench.applied(transition.bury(holder, SPENT), transition.remove(holder.ref))

    @pytest.mark.parametrize("state", PASTS)
    async def test_p2_an_existing_id_is_a_duplicate(self, bench: Bench, state: str) -> None:
        before = await bench.arrange(state)
        (answer,) = await bench.push(bench.job(task="another", payload=b'{"n":2}', priority=1))
        assert (answer.status, answer.id) == (PushStatus.DUPLICATE, "job")
        assert await bench.record(before) == before

    @pytest.mark.parametrize("state", ["waiting", "delayed", "blocked", "active"])
    async def test_p3_an_owned_key_is_deduplicated(self, bench: Bench, state: str) -> None:
        owner = await bench.arrange(state, dedup=Dedup("key"))
        (answer,) = await bench.push(bench.job("other", dedup=Dedup("key")))
        assert (answer.status, answer.id) == (PushStatus.DEDUPLICATED, "job")
        assert await bench.get(Ref(bench.queue, "other")) is None
        assert await bench.record(owner) == owner

    @pytest.mark.parametrize("state", ["completed", "dead", "cancelled"])
    async def test_p3_a_finished_job_owns_no_key(self, bench: Bench, state: str) -> None:
        await bench.arrange(state, dedup=Dedup("key"))
        await bench.created(bench.job("other", dedup=Dedup("key")))

    async def test_p3_a_key_belongs_to_one_queue(self, bench: Bench) -> None:
        await bench.created(
            bench.job(dedup=Dedup("key")),
            bench.job(queue=bench.another_queue(), dedup=Dedup("key")),
            bench.job("other", dedup=Dedup("another key")),
        )

    async def test_p3_the_id_is_checked_before_the_key(self, bench: Bench) -> None:
        await bench.created(bench.job("owner", dedup=Dedup("key")), bench.job("other"))
        (answer,) = await bench.push(bench.job("other", dedup=Dedup("key")))
        assert (answer.status, answer.id) == (PushStatus.DUPLICATE, "other")

    async def test_p4_a_repeat_creates_nothing(self, bench: Bench) -> None:
        await bench.created(bench.job("old"), bench.job("owner", dedup=Dedup("key")))
        jobs = (bench.job("a"), bench.job("old"), bench.job("b", dedup=Dedup("key")))
        op = bench.op()
        first = await bench.push(*jobs, op=op)
        before = await bench.snapshot()
        assert list(await bench.push(*jobs, op=op)) == list(first)
        assert await bench.snapshot() == before

    async def test_p4_a_repeat_is_known_after_the_job_ran(self, bench: Bench) -> None:
        op = bench.op()
        first = await bench.push(bench.job(), op=op)
        job = await bench.claim_one()
        await bench.driver.apply(bench.op("worker"), [transition.complete(job, None)])
        done = await bench.record(job)
        assert list(await bench.push(bench.job(), op=op)) == list(first)
        assert await bench.record(job) == done

    async def test_p4_a_repeat_is_known_after_prune(self, bench: Bench) -> None:
        new = bench.job(policy=Policy(completed=Keep(age_ms=0)))
        op = bench.op()
        first = await bench.push(new, op=op)
        job = await bench.claim_one()
        await bench.driver.apply(bench.op("worker"), [transition.complete(job, None)])
        await bench.driver.prune(PruneAsk(bench.queue))
        assert list(await bench.push(new, op=op)) == list(first)
        assert await bench.claimed_ids() == []

    async def test_p5_a_moved_queue_takes_nothing(self, bench: Bench) -> None:
        there = "redis://elsewhere"
        assert await bench.driver.put_settings(bench.queue, QueueSettings(moved_to=there))
        stays = bench.job(queue=bench.another_queue())
        moved, created = await bench.push(bench.job(), stays)
        assert (moved.status, moved.id) == (PushStatus.MOVED, there)
        assert (created.status, created.id) == (PushStatus.CREATED, "job")
        assert await bench.get(bench.job()) is None

    async def test_p6_a_batch_stands_in_its_order(self, bench: Bench) -> None:
        ids = [f"job-{n}" for n in (3, 1, 2, 9, 5, 4)]
        await bench.created(*map(bench.job, ids))
        assert await bench.claimed_ids(10) == ids

    async def test_p6_of_equals_in_one_batch_the_first_is_created(self, bench: Bench) -> None:
        answers = await bench.push(
            bench.job("a", task="first", dedup=Dedup("key")),
            bench.job("a", task="second"),
            bench.job("b", dedup=Dedup("key")),
        )
        assert [(one.status, one.id) for one in answers] == [
            (PushStatus.CREATED, "a"),
            (PushStatus.DUPLICATE, "a"),
            (PushStatus.DEDUPLICATED, "a"),
        ]
        assert (await bench.record(bench.job("a"))).task == "first"

    async def test_p7_new_jobs_go_to_the_back(self, bench: Bench) -> None:
        for name in ("a", "b", "c"):
            await bench.created(bench.job(name))
        assert await bench.claimed_ids(10) == ["a", "b", "c"]

    async def test_p7_lifo_goes_to_the_front_of_its_priority(self, bench: Bench) -> None:
        await bench.created(bench.job("urgent", priority=1), bench.job("a"), bench.job("b"))
        await bench.created(bench.job("c", lifo=True), bench.job("d", lifo=True))
        assert await bench.claimed_ids(10) == ["urgent", "d", "c", "a", "b"]

    async def test_push_of_nothing_answers_nothing(self, bench: Bench) -> None:
        assert list(await bench.push()) == []
