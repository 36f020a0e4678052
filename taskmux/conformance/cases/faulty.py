"""Faults: replies that are lost, and the same operation sent again."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from functools import partial

import pytest

from taskmux.conformance.bench import LONG, Bench
from taskmux.conformance.faults import (
    Fault,
    FaultyDriver,
    chance,
    held,
    lost,
    refused,
    resend,
    script,
)
from taskmux.driver import (
    ApplyStatus,
    BlockedCause,
    ClaimAsk,
    HeldLease,
    LeaseStatus,
    NewJob,
    Note,
    PushStatus,
    ReclaimAsk,
    State,
    StoreError,
    transition,
)

BROKEN = {"lost": [lost], "refused": [refused], "both": [lost, refused, lost]}


broken = pytest.mark.parametrize("faults", BROKEN.values(), ids=BROKEN)


class FaultyCases:
    """P4, C5, A4, R3, N2 and L2 through a connection that breaks."""

    @broken
    async def test_p4_a_push_is_sent_again(self, bench: Bench, faults: list[Fault]) -> None:
        driver = FaultyDriver(bench.driver, script({"push": faults}))
        op = bench.op()
        (answer,) = await resend(partial(driver.push, op, [NewJob(bench.job())]))
        assert answer.status is PushStatus.CREATED
        assert await bench.claimed_ids(10) == ["job"]

    @broken
    async def test_c5_a_claim_is_sent_again(self, bench: Bench, faults: list[Fault]) -> None:
        await bench.created(*map(bench.job, "abcd"))
        driver = FaultyDriver(bench.driver, script({"claim": faults}))
        op, ask = bench.op(), ClaimAsk(bench.queue, "worker", 2, LONG)
        claimed = await resend(partial(driver.claim, op, ask))
        assert [job.id for job in claimed.jobs] == ["a", "b"]
        assert await bench.claimed_ids(10) == ["c", "d"]

    @broken
    async def test_a4_an_apply_is_sent_again(self, bench: Bench, faults: list[Fault]) -> None:
        job = await bench.running()
        driver = FaultyDriver(bench.driver, script({"apply": faults}))
        op = bench.op()
        (answer,) = await resend(partial(driver.apply, op, [transition.complete(job, b"1")]))
        executed = ApplyStatus.REPEATED if lost in faults else ApplyStatus.APPLIED
        assert answer.status is executed
        assert (await bench.record(job)).attempts == 1

    @broken
    async def test_r3_a_reclaim_is_sent_again(self, bench: Bench, faults: list[Fault]) -> None:
        await bench.created(*map(bench.job, "abc"))
        jobs = (await bench.claim(3, lease=20)).jobs
        await bench.reach(jobs[0].lease_until or 0)
        driver = FaultyDriver(bench.driver, script({"reclaim": faults}))
        op, ask = bench.op(), ReclaimAsk(bench.queue, "rescuer", 2, LONG)
        first = [job.id for job in await resend(lambda: driver.reclaim(op, ask))]
        second = [job.id for job in await bench.reclaim()]
        assert (len(first), len(second)) == (2, 1)
        assert sorted(first + second) == ["a", "b", "c"]

    @broken
    async def test_n2_a_note_is_sent_again(self, bench: Bench, faults: list[Fault]) -> None:
        job = await bench.running()
        driver = FaultyDriver(bench.driver, script({"annotate": faults}))
        note = Note(ref=job.ref, fence=job.fence, steps={"a": b"1"}, log="line")
        (answer,) = await resend(partial(driver.annotate, [note]))
        assert answer.status is ApplyStatus.APPLIED
        assert (await bench.record(job)).logs == ("line",)

    @broken
    async def test_l2_a_renewal_is_sent_again(self, bench: Bench, faults: list[Fault]) -> None:
        job = await bench.running()
        driver = FaultyDriver(bench.driver, script({"extend": faults}))
        (answer,) = await resend(partial(driver.extend, [HeldLease(job.ref, job.fence)], LONG))
        assert answer.status is LeaseStatus.HELD

    async def test_p4_a_late_older_push_creates_nothing(self, bench: Bench) -> None:
        ops = [bench.op(), bench.op()]
        for op, name in zip(ops, "ab", strict=True):
            await bench.push(bench.job(name), op=op)
        await bench.applied(transition.remove(bench.job("a").ref))
        before = await bench.snapshot()
        with suppress(StoreError):
            await bench.push(bench.job("a"), bench.job("c"), op=ops[0])
        assert await bench.snapshot() == before

    async def test_c5_a_late_older_claim_takes_nothing(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abcd"))
        ops = [bench.op("worker"), bench.op("worker")]
        for op in ops:
            await bench.claim_one(op=op)
        before = await bench.snapshot()
        with suppress(StoreError):
            await bench.claim(2, op=ops[0])
        assert await bench.snapshot() == before

    async def test_a4_a_late_older_apply_changes_nothing(self, bench: Bench) -> None:
        job = await bench.arrange("waiting")
        ops = [bench.op(), bench.op()]
        await bench.apply(transition.hold(job.ref), op=ops[0])
        await bench.apply(transition.unblock(job.ref, BlockedCause.HOLD), op=ops[1])
        before = await bench.snapshot()
        with suppress(StoreError):
            await bench.apply(transition.hold(job.ref), op=ops[0])
        assert await bench.snapshot() == before

    async def test_r3_a_late_older_reclaim_takes_nothing(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abc"))
        jobs = (await bench.claim(3, lease=20)).jobs
        await bench.reach(max(job.lease_until or 0 for job in jobs))
        ops = [bench.op("rescuer"), bench.op("rescuer")]
        for op in ops:
            assert len(await bench.reclaim(1, op=op)) == 1
        before = await bench.snapshot()
        with suppress(StoreError):
            await bench.reclaim(2, op=ops[0])
        assert await bench.snapshot() == before

    async def test_a4_lost_replies_change_no_count(self, bench: Bench) -> None:
        driver = FaultyDriver(bench.driver, chance(7, {lost: 0.3, refused: 0.1}))
        for number in range(20):
            op, new = bench.op("producer"), NewJob(bench.job(f"job-{number:02}"))
            (answer,) = await resend(partial(driver.push, op, [new]))
            assert answer.status is PushStatus.CREATED
        completed: Counter[str] = Counter()
        while True:
            op, ask = bench.op("worker"), ClaimAsk(bench.queue, "worker", 3, LONG)
            claimed = await resend(partial(driver.claim, op, ask))
            if not claimed.jobs:
                break
            op, batch = bench.op("worker"), [transition.complete(job, b"1") for job in claimed.jobs]
            answers = await resend(partial(driver.apply, op, batch))
            assert {answer.status for answer in answers} <= {
                ApplyStatus.APPLIED,
                ApplyStatus.REPEATED,
            }
            completed.update(job.id for job in claimed.jobs)
        assert all(driver.struck[verb] for verb in ("push", "claim", "apply"))
        assert completed == Counter(f"job-{number:02}" for number in range(20))
        jobs = await bench.walk(State.COMPLETED)
        assert [job.attempts for job in jobs] == [1] * 20
        assert sum((await bench.driver.counts(bench.queue)).values()) == 20

    async def test_a1_a_late_write_is_refused(self, bench: Bench) -> None:
        zombie = await bench.running()
        gate = asyncio.Event()
        driver = FaultyDriver(bench.driver, script({"apply": [held(gate)]}))
        one = transition.complete(zombie, b"late")
        late = asyncio.create_task(bench.apply(one, op=bench.op("late"), by=driver))
        await bench.applied(transition.release(zombie))
        holder = await bench.claim_one(worker="another")
        gate.set()
        assert [answer.status for answer in await late] == [ApplyStatus.STALE]
        assert await bench.record(holder) == holder
