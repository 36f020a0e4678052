"""Extend and reclaim: how leases are kept, lapse, and pass to somebody else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from msgspec.structs import replace

from taskmux.conformance.bench import LONG, Bench
from taskmux.driver import (
    Applied,
    ApplyStatus,
    Extended,
    HeldLease,
    JobRecord,
    Keep,
    LeaseStatus,
    Note,
    State,
    transition,
)

SHORT = 20
"""A lease, in milliseconds, that lapses within a test."""


def _held(job: JobRecord) -> HeldLease:
    return HeldLease(job.ref, job.fence)


def _renewed(job: JobRecord, lease: int, now: int) -> JobRecord:
    return replace(job, lease_until=now + lease)


async def _lapsed(bench: Bench, *leases: int, worker: str = "worker") -> list[JobRecord]:
    """Claim a job for each lease, let them all lapse, and return them as claimed."""
    jobs: list[JobRecord] = []
    for number, lease in enumerate(leases):
        await bench.created(bench.job(f"job-{number}"))
        jobs += (await bench.claim(lease=lease, worker=worker)).jobs
    await bench.reach(max(job.lease_until or 0 for job in jobs))
    return jobs


class LeaseCases:
    """L1 to L3, R1 to R3."""

    # -- extend -----------------------------------------------------------------------------

    async def test_l1_a_lease_is_lost_with_its_fence(self, bench: Bench) -> None:
        zombie = await bench.running()
        await bench.applied(transition.release(zombie))
        holder = await bench.claim_one()
        lost = [_held(zombie), HeldLease(zombie.ref, holder.fence + 1)]
        answers = await bench.driver.extend(lost, 2 * LONG)
        assert list(answers) == [Extended(LeaseStatus.LOST)] * 2
        assert await bench.record(holder) == holder

    @pytest.mark.parametrize("state", ["waiting", "completed", "dead", "cancelled"])
    async def test_l1_a_job_that_is_not_active_has_no_lease(self, bench: Bench, state: str) -> None:
        job = await bench.arrange(state)
        assert list(await bench.driver.extend([_held(job)], LONG)) == [Extended(LeaseStatus.LOST)]
        assert await bench.record(job) == job

    async def test_l1_a_job_that_is_gone_has_no_lease(self, bench: Bench) -> None:
        (answer,) = await bench.driver.extend([_held(bench.job(fence=1))], LONG)
        assert answer.status is LeaseStatus.LOST

    async def test_l1_a_reclaimed_lease_is_lost(self, bench: Bench) -> None:
        (zombie,) = await _lapsed(bench, SHORT)
        rescued = await bench.reclaim_one()
        answers = await bench.driver.extend([_held(zombie), _held(rescued)], LONG)
        assert [answer.status for answer in answers] == [LeaseStatus.LOST, LeaseStatus.HELD]

    async def test_l2_a_lapsed_lease_is_still_held(self, bench: Bench) -> None:
        (job,) = await _lapsed(bench, SHORT)
        since = await bench.now()
        assert list(await bench.driver.extend([_held(job)], LONG)) == [Extended(LeaseStatus.HELD)]
        await bench.stored_as(job, partial(_renewed, job, LONG), since)
        assert list(await bench.reclaim()) == []

    async def test_l2_an_extended_lease_outlives_its_first_deadline(self, bench: Bench) -> None:
        await bench.created(bench.job())
        job = await bench.claim_one(lease=LONG)
        await bench.driver.extend([_held(job)], 2 * LONG)
        await bench.driver.extend([_held(job)], SHORT)
        assert job.lease_until is not None
        renewed = (await bench.record(job)).lease_until
        assert renewed is not None
        assert renewed < job.lease_until
        await bench.reach(renewed)
        assert [one.id for one in await bench.reclaim()] == ["job"]

    async def test_l3_a_job_asked_to_cancel_says_so_and_is_renewed(self, bench: Bench) -> None:
        await bench.created(bench.job("a"), bench.job("b"))
        kept, asked = (await bench.claim(2)).jobs
        await bench.apply(transition.cancel(asked.ref, Keep()))
        since = await bench.now()
        answers = await bench.driver.extend([_held(asked), _held(kept)], 3 * LONG)
        assert [answer.status for answer in answers] == [LeaseStatus.CANCEL, LeaseStatus.HELD]
        flagged = replace(asked, cancel_requested=True, reason="on request")
        for job in (flagged, kept):
            expected = partial(_renewed, job, 3 * LONG)
            await bench.stored_as(job, expected, since)

    # -- reclaim ----------------------------------------------------------------------------

    async def test_r1_only_lapsed_leases_are_reclaimed(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abc"))
        a = await bench.claim_one(lease=SHORT)
        await bench.claim(lease=LONG)
        assert a.lease_until is not None
        await bench.reach(a.lease_until)
        since = await bench.now()
        rescued = await bench.reclaim_one(lease=LONG)
        assert rescued.id == "a"
        assert rescued.fence > a.fence
        leased = replace(a, worker="rescuer", fence=rescued.fence)
        await bench.stored_as(a, partial(_renewed, leased, LONG), since)
        assert list(await bench.reclaim()) == []

    async def test_r1_no_lease_is_reclaimed_early(self, bench: Bench) -> None:
        for name in "abcde":
            await bench.created(bench.job(name))
            job = await bench.claim_one(lease=SHORT)
            for _ in range(10 * SHORT):
                rescued = await bench.reclaim(lease=LONG)
                if rescued:
                    break
                await bench.hooks.advance(1)
            assert _ids(rescued) == [name]
            # Its new lease says when that was by the store's clock, however long the reply took.
            instant = (rescued[0].lease_until or 0) - LONG + bench.hooks.clock_error_ms
            assert instant >= (job.lease_until or 0), "taken over before it lapsed"

    async def test_r1_the_oldest_lapse_comes_first(self, bench: Bench) -> None:
        jobs = await _lapsed(bench, 3 * SHORT, SHORT, 5 * SHORT)
        lapses = {job.id: job.lease_until or 0 for job in jobs}
        reclaimed = [*await bench.reclaim(2), *await bench.reclaim(2)]
        assert [lapses[job.id] for job in reclaimed] == sorted(lapses.values())

    async def test_r1_the_former_holder_is_refused(self, bench: Bench) -> None:
        (zombie,) = await _lapsed(bench, SHORT)
        rescued = await bench.reclaim_one()
        stale = Applied(ApplyStatus.STALE, State.ACTIVE)
        note = Note(ref=zombie.ref, fence=zombie.fence, progress=b"99")
        assert list(await bench.apply(transition.complete(zombie, b"1"))) == [stale]
        assert list(await bench.driver.annotate([note])) == [stale]
        assert await bench.record(zombie) == replace(rescued, worker="rescuer")

    async def test_r1_a_lapsed_job_may_still_finish(self, bench: Bench) -> None:
        (job,) = await _lapsed(bench, SHORT)
        await bench.applied(transition.complete(job, b"1"))
        assert list(await bench.reclaim()) == []

    async def test_r1_a_rescuers_lease_lapses_too(self, bench: Bench) -> None:
        await _lapsed(bench, SHORT)
        first = await bench.reclaim_one(worker="first", lease=SHORT)
        assert first.lease_until is not None
        await bench.reach(first.lease_until)
        second = await bench.reclaim_one(worker="second")
        assert second.worker == "first"
        assert second.fence > first.fence

    @pytest.mark.parametrize("started", [False, True])
    async def test_r2_the_answer_names_the_worker_that_lapsed(
        self, bench: Bench, *, started: bool
    ) -> None:
        await bench.created(bench.job())
        job = await bench.claim_one(worker="lapsed", lease=SHORT)
        if started:
            await bench.applied(transition.start(job))
        assert job.lease_until is not None
        await bench.reach(job.lease_until)
        rescued = await bench.reclaim_one()
        assert rescued.worker == "lapsed"
        assert rescued.started is started
        assert (rescued.attempts, rescued.crashes) == (job.attempts, job.crashes)
        assert await bench.record(job) == replace(rescued, worker="rescuer")

    async def test_r3_a_repeat_returns_the_same_jobs(self, bench: Bench) -> None:
        await _lapsed(bench, SHORT, SHORT, SHORT)
        op = bench.op("rescuer")
        first = await bench.reclaim(2, op=op)
        before = await bench.snapshot()
        assert len(first) == 2
        assert list(await bench.reclaim(2, op=op)) == list(first)
        assert await bench.snapshot() == before

    async def test_r3_a_repeat_names_the_worker_that_lapsed(self, bench: Bench) -> None:
        await _lapsed(bench, SHORT, worker="lapsed")
        op = bench.op("rescuer")
        first = await bench.reclaim(op=op)
        assert list(await bench.reclaim(op=op)) == list(first)
        assert first[0].worker == "lapsed"

    async def test_r3_a_repeat_returns_only_what_is_still_held(self, bench: Bench) -> None:
        await _lapsed(bench, SHORT, SHORT)
        op = bench.op("rescuer")
        first, second = await bench.reclaim(op=op)
        await bench.applied(transition.again(first, transition.Changes(crashes=1), LONG))
        assert _ids(await bench.reclaim(op=op)) == [second.id]

    async def test_r3_reclaiming_nothing_answers_nothing(self, bench: Bench) -> None:
        assert list(await bench.reclaim()) == []
        await bench.running()
        assert list(await bench.reclaim()) == []


def _ids(jobs: Sequence[JobRecord]) -> list[str]:
    return [job.id for job in jobs]
