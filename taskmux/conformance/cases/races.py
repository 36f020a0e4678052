"""Races: several instances doing the same thing at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial

from taskmux.conformance.bench import LONG, Bench
from taskmux.conformance.faults import resend
from taskmux.driver import (
    ApplyStatus,
    ClaimAsk,
    Dedup,
    Driver,
    JobRecord,
    NewJob,
    PushStatus,
    QueueSettings,
    ReclaimAsk,
    State,
    Transition,
    transition,
)

FORKS = 4
ROUNDS = 5


async def _forks(bench: Bench) -> list[Driver]:
    return [await bench.fork() for _ in range(FORKS)]


class RaceCases:
    """C4 to C6, P2 to P4, A1, A4, R3, R4 and S3 under concurrency.

    A busy store may ask to send again.
    """

    async def test_p4_copies_at_once_create_once(self, bench: Bench) -> None:
        forks = await _forks(bench)
        for number in range(ROUNDS):
            op, new = bench.op(), [NewJob(bench.job(f"job-{number}-{n}")) for n in range(3)]
            answers = await asyncio.gather(*(resend(partial(fork.push, op, new)) for fork in forks))
            for answer in answers:
                assert [one.status for one in answer] == [PushStatus.CREATED] * 3
        assert (await bench.driver.counts(bench.queue))[State.WAITING] == 3 * ROUNDS

    async def test_c5_copies_at_once_claim_once(self, bench: Bench) -> None:
        forks = await _forks(bench)
        names = [f"job-{n:02}" for n in range(3 * ROUNDS)]
        await bench.created(*map(bench.job, names))
        found: list[str] = []
        for _ in range(ROUNDS):
            op, ask = bench.op(), ClaimAsk(bench.queue, "worker", 3, LONG)
            first, *others = await asyncio.gather(
                *(resend(partial(fork.claim, op, ask)) for fork in forks)
            )
            assert [list(one.jobs) for one in others] == [list(first.jobs)] * len(others)
            found += [job.id for job in first.jobs]
        assert found == names

    async def test_a4_copies_at_once_apply_once(self, bench: Bench) -> None:
        forks = await _forks(bench)
        for number in range(ROUNDS):
            job = await bench.running(f"job-{number}")
            await bench.applied(transition.bury(job, transition.Changes(attempts=1)))
            op, batch = bench.op(), [transition.redrive(job.ref)]
            answers = await asyncio.gather(
                *(resend(partial(fork.apply, op, batch)) for fork in forks)
            )
            outcomes = Counter(answer.status for (answer,) in answers)
            assert outcomes == Counter({ApplyStatus.APPLIED: 1, ApplyStatus.REPEATED: FORKS - 1})
            assert (await bench.claim_one()).id == job.id

    async def test_r3_copies_at_once_reclaim_once(self, bench: Bench) -> None:
        forks = await _forks(bench)
        names = [f"job-{n:02}" for n in range(3 * ROUNDS)]
        await bench.created(*map(bench.job, names))
        jobs = (await bench.claim(3 * ROUNDS, lease=20)).jobs
        await bench.reach(max(job.lease_until or 0 for job in jobs))
        found: list[str] = []
        for _ in range(ROUNDS):
            op, ask = bench.op(), ReclaimAsk(bench.queue, "rescuer", 3, LONG)
            first, *others = await asyncio.gather(
                *(resend(partial(fork.reclaim, op, ask)) for fork in forks)
            )
            assert [list(one) for one in others] == [list(first)] * len(others)
            found += [job.id for job in first]
        assert sorted(found) == names

    async def test_c6_a_queue_that_moves_loses_no_claim(self, bench: Bench) -> None:
        await bench.created(*(bench.job(f"job-{n:02}") for n in range(40)))

        async def drain(worker: str, driver: Driver) -> list[str]:
            ids: list[str] = []
            while True:
                op, ask = bench.op(worker), ClaimAsk(bench.queue, worker, 3, LONG)
                claimed = await resend(partial(driver.claim, op, ask))
                if not claimed.jobs:
                    return ids
                batch = [transition.complete(job, None) for job in claimed.jobs]
                answers = await resend(partial(driver.apply, bench.op(worker), batch))
                assert {one.status for one in answers} == {ApplyStatus.APPLIED}
                ids += [job.id for job in claimed.jobs]

        forks = await _forks(bench)
        drains = [asyncio.create_task(drain(f"w{n}", fork)) for n, fork in enumerate(forks)]
        await asyncio.sleep(0)
        await bench.set(moved_to="redis://elsewhere")
        drained = [job_id for ids in await asyncio.gather(*drains) for job_id in ids]
        assert sorted(drained) == [f"job-{n:02}" for n in range(40)]

    async def test_c4_each_job_is_handed_out_once(self, bench: Bench) -> None:
        await bench.created(*(bench.job(f"job-{n:03}") for n in range(120)))

        async def drain(worker: str, driver: Driver) -> list[str]:
            ids: list[str] = []
            while True:
                op = bench.op(worker)
                ask = ClaimAsk(bench.queue, worker, 7, LONG)
                claimed = await resend(partial(driver.claim, op, ask))
                if not claimed.jobs:
                    return ids
                ids += [job.id for job in claimed.jobs]

        forks = await _forks(bench)
        drained = await asyncio.gather(*(drain(f"w{n}", fork) for n, fork in enumerate(forks)))
        handed = Counter(job_id for ids in drained for job_id in ids)
        assert handed == Counter(f"job-{n:03}" for n in range(120))

    async def test_c4_claims_of_one_instance_at_once_share_nothing(self, bench: Bench) -> None:
        await bench.created(*(bench.job(f"job-{n:02}") for n in range(40)))
        asks = [(bench.op(f"w{n}"), ClaimAsk(bench.queue, f"w{n}", 5, LONG)) for n in range(8)]
        claims = await asyncio.gather(*(bench.driver.claim(op, ask) for op, ask in asks))
        ids = [job.id for claimed in claims for job in claimed.jobs]
        assert sorted(ids) == [f"job-{n:02}" for n in range(40)]

    async def test_p2_one_of_many_creates_an_id(self, bench: Bench) -> None:
        statuses = await _push_at_once(bench, [bench.job(task=f"t{n}") for n in range(FORKS)])
        assert statuses == Counter({PushStatus.CREATED: 1, PushStatus.DUPLICATE: FORKS - 1})
        assert (await bench.driver.counts(bench.queue))[State.WAITING] == 1

    async def test_p3_one_of_many_takes_a_key(self, bench: Bench) -> None:
        jobs = [bench.job(f"job-{n}", dedup=Dedup("key")) for n in range(FORKS)]
        statuses = await _push_at_once(bench, jobs)
        assert statuses == Counter({PushStatus.CREATED: 1, PushStatus.DEDUPLICATED: FORKS - 1})
        assert (await bench.driver.counts(bench.queue))[State.WAITING] == 1

    async def test_p7_concurrent_pushes_all_arrive(self, bench: Bench) -> None:
        async def produce(name: str, driver: Driver) -> None:
            for number in range(15):
                op = bench.op(name)
                new = NewJob(bench.job(f"{name}-{number:02}"))
                await resend(partial(driver.push, op, [new]))

        forks = await _forks(bench)
        await asyncio.gather(*(produce(f"p{n}", fork) for n, fork in enumerate(forks)))
        ids = [job.id for job in (await bench.claim(100)).jobs]
        for name in (f"p{n}" for n in range(FORKS)):
            own = [job_id for job_id in ids if job_id.startswith(name)]
            assert own == [f"{name}-{number:02}" for number in range(15)]
        assert len(ids) == 15 * FORKS

    async def test_a1_one_of_many_settles_a_job(self, bench: Bench) -> None:
        job = await bench.running()
        outcomes = await _apply_at_once(
            bench,
            [
                transition.complete(job, b"1"),
                transition.release(job),
                transition.bury(job, transition.Changes(attempts=1)),
                transition.again(job, transition.Changes(attempts=1), LONG),
            ],
        )
        assert outcomes == Counter({ApplyStatus.APPLIED: 1, ApplyStatus.STALE: 3})

    async def test_a1_one_of_many_redrives_a_job(self, bench: Bench) -> None:
        job = await bench.arrange("dead")
        outcomes = await _apply_at_once(bench, [transition.redrive(job.ref)] * FORKS)
        assert outcomes == Counter({ApplyStatus.APPLIED: 1, ApplyStatus.STALE: FORKS - 1})

    async def test_a6_one_of_many_takes_the_key_again(self, bench: Bench) -> None:
        jobs: list[JobRecord] = []
        for number in range(FORKS):
            job = await bench.running(f"job-{number}", dedup=Dedup("key"))
            await bench.applied(transition.bury(job, transition.Changes(attempts=1)))
            jobs.append(job)
        outcomes = await _apply_at_once(bench, [transition.redrive(job.ref) for job in jobs])
        assert outcomes == Counter({ApplyStatus.APPLIED: 1, ApplyStatus.CONFLICT: FORKS - 1})

    async def test_r4_each_lapsed_job_is_reclaimed_once(self, bench: Bench) -> None:
        await bench.created(*(bench.job(f"job-{n:02}") for n in range(40)))
        jobs = (await bench.claim(40, lease=20)).jobs
        await bench.reach(max(job.lease_until or 0 for job in jobs))

        async def rescue(worker: str, driver: Driver) -> Sequence[JobRecord]:
            op, ask = bench.op(worker), ReclaimAsk(bench.queue, worker, 20, LONG)
            return await resend(partial(driver.reclaim, op, ask))

        forks = await _forks(bench)
        rescued = await asyncio.gather(*(rescue(f"w{n}", fork) for n, fork in enumerate(forks)))
        ids = [job.id for jobs in rescued for job in jobs]
        ids += [job.id for job in await bench.reclaim(40)]
        assert sorted(ids) == [f"job-{n:02}" for n in range(40)]

    async def test_s3_one_of_many_changes_the_settings(self, bench: Bench) -> None:
        forks = await _forks(bench)
        for rev in range(3):
            given = [QueueSettings(rev=rev, moved_to=f"redis://{n}") for n in range(FORKS)]
            won = await asyncio.gather(
                *(
                    driver.put_settings(bench.queue, one)
                    for driver, one in zip(forks, given, strict=True)
                )
            )
            assert won.count(True) == 1
            stored = await bench.driver.settings(bench.queue)
            assert (stored.rev, stored.moved_to) == (rev + 1, given[won.index(True)].moved_to)


async def _push_at_once(bench: Bench, jobs: Sequence[JobRecord]) -> Counter[PushStatus]:
    async def push(name: str, driver: Driver, job: JobRecord) -> PushStatus:
        op = bench.op(name)
        (answer,) = await resend(partial(driver.push, op, [NewJob(job)]))
        return answer.status

    forks = await _forks(bench)
    pairs = enumerate(zip(forks, jobs, strict=True))
    return Counter(await asyncio.gather(*(push(f"p{n}", fork, job) for n, (fork, job) in pairs)))


async def _apply_at_once(bench: Bench, transitions: Sequence[Transition]) -> Counter[ApplyStatus]:
    async def apply(name: str, driver: Driver, one: Transition) -> ApplyStatus:
        op = bench.op(name)
        (answer,) = await resend(partial(driver.apply, op, [one]))
        return answer.status

    forks = await _forks(bench)
    pairs = enumerate(zip(forks, transitions, strict=True))
    return Counter(await asyncio.gather(*(apply(f"w{n}", fork, one) for n, (fork, one) in pairs)))
