"""Prune: which finished records go, and when."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from taskmux.conformance.bench import LONG, Bench
from taskmux.driver import Keep, Policy, State, transition

SOON = 40
"""A retention, in milliseconds, that passes within a test."""


def _keep(age_ms: int, count: int | None = None) -> Policy:
    keep = Keep(age_ms, count)
    return Policy(completed=keep, cancelled=keep, dead=keep)


async def _finished(bench: Bench, count: int, policy: Policy) -> list[str]:
    """Complete jobs one after the other; return their ids in that order."""
    names = [f"job-{n:02}" for n in range(count)]
    await bench.created(*(bench.job(name, policy=policy) for name in names))
    await bench.finish(*(await bench.claim(count)).jobs)
    return names


async def _kept(bench: Bench) -> list[str]:
    return [job.id for job in await bench.walk(State.COMPLETED)]


class PruneCases:
    """T1 to T3."""

    @pytest.mark.parametrize("state", ["completed", "dead", "cancelled"])
    async def test_t1_a_record_goes_when_its_age_has_passed(self, bench: Bench, state: str) -> None:
        job = await bench.arrange(state, policy=_keep(SOON))
        assert job.finished_at is not None
        due = job.finished_at + SOON
        if await bench.prune():
            assert await bench.now() >= due, "pruned too early"
        else:
            assert await bench.record(job) == job
            await bench.reach(due)
            assert await bench.prune() == 1
        assert await bench.get(job) is None

    @pytest.mark.parametrize("state", ["completed", "dead", "cancelled"])
    async def test_t1_a_record_stays_until_then(self, bench: Bench, state: str) -> None:
        job = await bench.arrange(state)
        assert await bench.prune() == 0
        assert await bench.record(job) == job

    @pytest.mark.parametrize("state", ["waiting", "delayed", "blocked", "active"])
    async def test_t1_an_unfinished_record_stays(self, bench: Bench, state: str) -> None:
        job = await bench.arrange(state, policy=_keep(0))
        assert await bench.prune() == 0
        assert await bench.record(job) == job

    @pytest.mark.parametrize("state", ["completed", "dead", "cancelled"])
    async def test_t1_a_redriven_job_has_no_retention(self, bench: Bench, state: str) -> None:
        job = await bench.arrange(state, policy=_keep(SOON))
        await bench.applied(transition.redrive(job.ref, {job.state}))
        await bench.reach((job.finished_at or 0) + SOON + 1)
        assert await bench.prune() == 0
        held = await bench.claim_one()
        assert held.finished_at is None
        assert await bench.prune() == 0
        assert await bench.record(job) == held

    @pytest.mark.parametrize("state", ["completed", "dead", "cancelled"])
    async def test_t1_retention_counts_from_the_last_end(self, bench: Bench, state: str) -> None:
        job = await bench.arrange(state, policy=_keep(SOON))
        await bench.applied(transition.redrive(job.ref, {job.state}))
        await bench.reach((job.finished_at or 0) + SOON + 1)
        held = await bench.claim_one()
        await bench.applied(replace(transition.complete(held, None), retention=Keep(LONG)))
        done = await bench.record(job)
        assert (done.finished_at or 0) > (job.finished_at or 0)
        assert await bench.prune() == 0
        assert await bench.record(job) == done

    async def test_t1_the_last_retention_counts(self, bench: Bench) -> None:
        job = await bench.arrange("dead")
        await bench.applied(transition.redrive(job.ref))
        held = await bench.claim_one()
        await bench.applied(replace(transition.complete(held, None), retention=Keep(0)))
        assert await bench.prune() == 1
        assert await bench.get(job) is None

    async def test_t2_a_redriven_job_is_not_counted(self, bench: Bench) -> None:
        names = await _finished(bench, 2, _keep(86_400_000, count=1))
        newest = bench.job(names[1]).ref
        await bench.applied(transition.redrive(newest, {State.COMPLETED}))
        assert await bench.prune() == 0
        assert await _kept(bench) == names[:1]

    async def test_t1_pruning_keeps_to_its_queue(self, bench: Bench) -> None:
        job = await bench.arrange("completed", policy=_keep(0))
        here, bench.queue = bench.queue, bench.another_queue()
        assert await bench.prune() == 0
        bench.queue = here
        assert await bench.record(job) == job

    async def test_t2_a_count_keeps_the_newest(self, bench: Bench) -> None:
        names = await _finished(bench, 5, _keep(86_400_000, count=2))
        assert await bench.prune() == 3
        assert await _kept(bench) == names[3:]

    async def test_t2_a_count_is_of_one_state(self, bench: Bench) -> None:
        dead = await bench.arrange("dead", policy=_keep(86_400_000, count=1))
        names = await _finished(bench, 2, _keep(86_400_000, count=1))
        assert await bench.prune() == 1
        assert await _kept(bench) == names[1:]
        assert await bench.record(dead) == dead

    async def test_t2_a_large_count_does_not_hide_a_small_one(self, bench: Bench) -> None:
        """Those that a large count keeps are older and more than a call removes."""
        await _finished(bench, 30, _keep(86_400_000, count=1_000))
        many = await _kept(bench)
        few = [bench.job(f"few-{n}", policy=_keep(86_400_000, count=2)) for n in range(5)]
        await bench.created(*few)
        await bench.finish(*(await bench.claim(5)).jobs)
        assert sum([await bench.prune(limit=5) for _ in range(10)]) == 3
        assert await _kept(bench) == [*many, "few-3", "few-4"]

    async def test_t2_a_count_spares_what_is_fresh(self, bench: Bench) -> None:
        names = await _finished(bench, 3, _keep(86_400_000, count=0))
        assert await bench.prune(spare=60_000) == 0
        assert await _kept(bench) == names

    async def test_t2_age_goes_before_count(self, bench: Bench) -> None:
        await _finished(bench, 2, _keep(0, count=10))
        assert await bench.prune() == 2

    async def test_t3_a_call_removes_a_bounded_number(self, bench: Bench) -> None:
        await bench.created(*(bench.job(f"job-{n}", policy=_keep(0)) for n in range(60)))
        jobs = (await bench.claim(60)).jobs
        await bench.applied(*(transition.complete(job, None) for job in jobs))
        left = 60
        while left:
            went = await bench.prune(limit=10)
            assert 0 < went <= 20, "a call removes about `limit` records"
            left -= went
            assert (await bench.driver.counts(bench.queue))[State.COMPLETED] == left
