"""Claim: who gets which jobs, and how they are leased. Order has a file of its own."""

from __future__ import annotations

from functools import partial

import pytest

from taskmux.conformance.bench import LONG, Bench
from taskmux.conformance.cases.moves import SPENT
from taskmux.conformance.model import leased
from taskmux.driver import (
    PROMOTE_LIMIT,
    ClaimAsk,
    NewJob,
    PushStatus,
    QueueSettings,
    State,
    transition,
)


class ClaimCases:
    """C2 to C7."""

    async def test_c2_no_job_is_claimed_before_its_time(self, bench: Bench) -> None:
        (job,) = await bench.created(NewJob(bench.job(state=State.DELAYED), delay=50))
        assert job.run_at is not None
        claimed = await bench.claim()
        if not claimed.jobs:
            await bench.reach(job.run_at)
            claimed = await bench.claim()
        assert [one.run_at for one in claimed.jobs] == [job.run_at]
        assert claimed.now >= job.run_at, "claimed too early"

    async def test_c2_no_claim_is_early_by_any_margin(self, bench: Bench) -> None:
        delays = (45, 60, 61, 75)
        new = [
            NewJob(bench.job(f"job-{delay}", state=State.DELAYED), delay=delay) for delay in delays
        ]
        left = {job.id: job.run_at or 0 for job in await bench.created(*new)}
        while left:
            claimed = await bench.claim(10)
            for job in claimed.jobs:
                early = left.pop(job.id) - claimed.now
                assert early <= 0, f"{job.id} was claimed {early} ms early"
            await bench.hooks.advance(1)

    async def test_c2_a_delayed_job_waits_for_its_time(self, bench: Bench) -> None:
        await bench.created(NewJob(bench.job(state=State.DELAYED), delay=LONG))
        assert await bench.claimed_ids() == []
        assert (await bench.record(bench.job())).state is State.DELAYED

    async def test_c2_due_jobs_come_in_due_order(self, bench: Bench) -> None:
        # Neither the names nor the order of creation are in due order.
        due = {"b": 4_000, "e": 1_000, "d": 2_000, "c": 2_000, "a": 3_000}
        await bench.created(
            *(bench.job(name, state=State.DELAYED, run_at=at) for name, at in due.items())
        )
        found: list[str] = []
        while ids := await bench.claimed_ids():  # one claim promotes them all, the others take on
            found += ids
        assert found == ["e", "d", "c", "a", "b"]

    async def test_c2_a_job_made_again_is_the_younger_one(self, bench: Bench) -> None:
        jobs = [bench.job(name, state=State.DELAYED, run_at=1_000) for name in "ab"]
        for job in jobs:
            await bench.created(job)
        await bench.applied(transition.remove(jobs[0].ref))
        await bench.reach(await bench.now() + 1)
        await bench.created(jobs[0])
        assert await bench.claimed_ids(10) == ["b", "a"]

    async def test_c2_a_due_job_stands_behind_those_that_wait(self, bench: Bench) -> None:
        await bench.created(bench.job("waiting"))
        await bench.created(bench.job("due", state=State.DELAYED, run_at=1_000))
        assert await bench.claimed_ids(10) == ["waiting", "due"]

    async def test_c2_a_claim_promotes_a_bounded_number(self, bench: Bench) -> None:
        count = 2 * PROMOTE_LIMIT + 30
        names = [f"job-{n:03}" for n in range(count)]
        await bench.created(
            *(
                bench.job(name, state=State.DELAYED, run_at=1_000 + n)
                for n, name in enumerate(names)
            )
        )
        first = await bench.claim(count)
        assert 0 < len(first.jobs) <= PROMOTE_LIMIT
        assert first.next_in == 0, "jobs are due and were not promoted: next_in must be 0"
        ids = [job.id for job in first.jobs]
        while more := await bench.claimed_ids(count):
            ids += more
        assert ids == names

    async def test_c3_a_claimed_job_is_leased(self, bench: Bench) -> None:
        jobs = await bench.created(*map(bench.job, ("a", "b", "c")))
        since = await bench.now()
        ask = ClaimAsk(bench.queue, "worker", limit=3, lease=1234)
        claimed = await bench.driver.claim(bench.op(), ask)
        for before, after in zip(jobs, claimed.jobs, strict=True):
            assert after.fence > before.fence
            expected = partial(leased, before, ask, fence=after.fence)
            await bench.stored_as(before, expected, since)
            assert await bench.record(after) == after

    async def test_c3_the_fence_rises_at_every_claim(self, bench: Bench) -> None:
        fences = [(await bench.running()).fence]
        for _ in range(3):
            await bench.applied(transition.release(await bench.record(bench.job())))
            fences.append((await bench.claim_one()).fence)
        assert fences == sorted(set(fences)), "the fence must rise at every claim"

    async def test_c3_no_more_than_asked(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abcde"))
        assert await bench.claimed_ids(2) == ["a", "b"]
        assert await bench.claimed_ids(2) == ["c", "d"]
        assert await bench.claimed_ids(2) == ["e"]

    @pytest.mark.parametrize("state", ["blocked", "active", "completed", "dead", "cancelled"])
    async def test_c3_only_waiting_jobs_are_claimed(self, bench: Bench, state: str) -> None:
        job = await bench.arrange(state)
        assert await bench.claimed_ids(10) == []
        assert await bench.record(job) == job

    async def test_c4_a_leased_job_is_not_claimed_again(self, bench: Bench) -> None:
        await bench.running()
        again = await bench.claim(10, worker="another", by=await bench.fork())
        assert list(again.jobs) == []

    async def test_c4_a_lapsed_job_is_for_reclaim(self, bench: Bench) -> None:
        await bench.created(bench.job())
        job = await bench.claim_one(lease=20)
        assert job.lease_until is not None
        await bench.reach(job.lease_until)
        assert await bench.claimed_ids(10) == []

    async def test_c5_a_repeat_returns_the_same_jobs(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abcd"))
        op = bench.op("worker")
        first = await bench.claim(2, op=op)
        before = await bench.snapshot()
        assert list((await bench.claim(2, op=op)).jobs) == list(first.jobs)
        assert await bench.snapshot() == before

    async def test_c5_a_repeat_of_an_empty_claim_is_one_claim(self, bench: Bench) -> None:
        op = bench.op("worker")
        assert list((await bench.claim(op=op)).jobs) == []
        await bench.created(*map(bench.job, "ab"))
        given = [job.id for job in (await bench.claim(op=op)).jobs]
        assert given in ([], ["a"])
        assert [job.id for job in (await bench.claim(op=op)).jobs] == given
        assert given + await bench.claimed_ids(10) == ["a", "b"]

    async def test_c5_a_repeat_returns_only_what_is_still_held(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abcd"))
        op = bench.op("worker")
        done, released, kept = (await bench.claim(3, op=op)).jobs
        await bench.applied(transition.complete(done, None), transition.release(released))
        assert (await bench.claim_one(worker="another")).id == released.id
        assert [job.id for job in (await bench.claim(3, op=op)).jobs] == [kept.id]

    async def test_c5_a_repeat_is_known_in_each_queue(self, bench: Bench) -> None:
        other = bench.another_queue()
        await bench.created(bench.job("a"), bench.job("b"), bench.job("c", queue=other))
        here, there = bench.op("worker"), bench.op("worker")
        job = await bench.claim_one(op=here)
        await bench.claim(queue=other, op=there)
        assert [one.id for one in (await bench.claim(op=here)).jobs] == [job.id]

    async def test_c5_a_repeat_is_known_beside_other_verbs(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abc"))
        first = bench.op("worker")
        done, kept = (await bench.claim(2, op=first)).jobs
        await bench.apply(transition.complete(done, None), op=bench.op("worker"))
        assert [job.id for job in (await bench.claim(2, op=first)).jobs] == [kept.id]

    async def test_c6_a_paused_queue_gives_nothing(self, bench: Bench) -> None:
        await bench.created(bench.job(), bench.job("due", state=State.DELAYED, run_at=1_000))
        assert await bench.driver.put_settings(bench.queue, QueueSettings(paused=True))
        claimed = await bench.claim(10)
        assert (list(claimed.jobs), claimed.blocked_by) == ([], "paused")
        assert await bench.driver.put_settings(bench.queue, QueueSettings(rev=1))
        resumed = await bench.claim(10)
        assert [job.id for job in resumed.jobs] == ["job", "due"]
        assert resumed.blocked_by is None

    async def test_c6_a_moved_queue_gives_what_is_left_in_it(self, bench: Bench) -> None:
        await bench.created(
            bench.job("claimed before"),
            bench.job("waiting"),
            bench.job("due", state=State.DELAYED, run_at=4_102_444_800_000),
        )
        before = await bench.claim_one()
        await bench.set(moved_to="redis://elsewhere")
        await bench.applied(transition.promote(bench.job("due").ref))
        claimed = await bench.claim()
        assert [job.id for job in claimed.jobs] == ["waiting"]
        assert claimed.blocked_by is None
        await bench.applied(
            transition.again(before, SPENT, 0), transition.complete(claimed.jobs[0], None)
        )
        assert await bench.claimed_ids(10) == ["due", "claimed before"]
        assert (await bench.push(bench.job("new")))[0].status is PushStatus.MOVED

    async def test_c6_pausing_one_queue_leaves_another(self, bench: Bench) -> None:
        assert await bench.driver.put_settings(bench.another_queue(), QueueSettings(paused=True))
        await bench.created(bench.job())
        assert await bench.claimed_ids() == ["job"]

    async def test_c6_a_paused_queue_still_settles(self, bench: Bench) -> None:
        job = await bench.running()
        assert await bench.driver.put_settings(bench.queue, QueueSettings(paused=True))
        await bench.applied(transition.complete(job, None))
        await bench.created(bench.job("new"))

    async def test_c7_next_in_is_the_time_to_the_next_delayed(self, bench: Bench) -> None:
        await bench.created(bench.job())
        assert (await bench.claim()).next_in is None
        for name, delay in {"late": 2 * LONG, "next": LONG}.items():
            await bench.created(NewJob(bench.job(name, state=State.DELAYED), delay=delay))
        run_at = (await bench.record(bench.job("next"))).run_at
        claimed = await bench.claim()
        assert run_at is not None
        assert claimed.next_in is not None
        off = claimed.next_in - (run_at - claimed.now)
        assert abs(off) <= bench.hooks.clock_error_ms, f"next_in is {off} ms off"

    async def test_c7_an_unknown_queue_has_the_time_too(self, bench: Bench) -> None:
        first = await bench.claim()
        assert (list(first.jobs), first.next_in, first.blocked_by) == ([], None, None)
        await bench.reach(first.now + 5)
        assert (await bench.claim()).now >= first.now + 5
