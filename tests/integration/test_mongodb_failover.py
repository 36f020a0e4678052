"""Three members, stepdowns and killed primaries under load: nothing acknowledged is undone."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest
from taskmux.conformance import resend
from taskmux.driver import (
    ApplyStatus,
    ClaimAsk,
    JobRecord,
    NewJob,
    Op,
    State,
    Transition,
    transition,
)
from tests.mongo_servers import ReplicaSet, mongod_program
from tests.scale import scaled

from taskmux_mongodb import MongoDriver

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(300),
    pytest.mark.skipif(mongod_program() is None, reason="no mongod"),
]

FOR_EVER = 1_000_000
LONG = 3_600_000
FIRST = "-0"
"""How the id of the first job of each push ends."""


@pytest.fixture
def replica_set() -> Iterator[ReplicaSet]:
    replica_set = ReplicaSet()
    try:
        yield replica_set.start()
    finally:
        replica_set.stop()


class Load:
    """A producer and workers that never give up; what was acknowledged, run and accepted.

    The first job of each push is given back once, so that it is leased anew.
    """

    def __init__(self, url: str) -> None:
        self.url = f"{url}&serverSelectionTimeoutMS=2000"
        self.acknowledged: list[str] = []
        self.ran: Counter[tuple[str, int]] = Counter()
        self.fences: defaultdict[str, list[int]] = defaultdict(list)
        self.accepted: Counter[str] = Counter()
        self.enough = asyncio.Event()

    async def produce(self) -> None:
        driver = MongoDriver(self.url)
        await driver.open()
        number = 0
        while not self.enough.is_set():
            number += 1
            op = Op("producer", number)
            new = [
                NewJob(JobRecord(queue="q", id=f"{number}-{n}", task="t", payload=b"1"))
                for n in range(5)
            ]
            await self._push(driver, op, new)
            self.acknowledged += [one.job.id for one in new]
        await driver.close()

    async def _push(self, driver: MongoDriver, op: Op, new: list[NewJob]) -> None:
        await resend(lambda: driver.push(op, new), FOR_EVER)

    async def work(self, name: str) -> None:
        driver = MongoDriver(self.url)
        await driver.open()
        number, idle = 0, False
        while not (idle and self.enough.is_set()):
            number += 1
            idle = not await self._turn(driver, Op(name, number))
        await driver.close()

    async def _turn(self, driver: MongoDriver, op: Op) -> bool:
        ask = ClaimAsk("q", op.origin, 10, LONG)
        claimed = await resend(lambda: driver.claim(op, ask), FOR_EVER)
        self.ran.update((job.id, job.fence) for job in claimed.jobs)
        outcomes = [self._outcome(job) for job in claimed.jobs]
        answers = await resend(lambda: driver.apply(op, outcomes), FOR_EVER)
        for outcome, answer in zip(outcomes, answers, strict=True):
            kept = answer.status in {ApplyStatus.APPLIED, ApplyStatus.REPEATED}
            if kept and outcome.to is State.COMPLETED:
                self.accepted[outcome.ref.id] += 1
        return bool(claimed.jobs)

    def _outcome(self, job: JobRecord) -> Transition:
        fences = self.fences[job.id]
        fences.append(job.fence)
        if job.id.endswith(FIRST) and len(fences) == 1:
            return transition.release(job)
        return transition.complete(job, job.id.encode())

    async def progress(self, jobs: int, tasks: list[asyncio.Task[None]]) -> None:
        """Return when so many more jobs were accepted; fail with the tasks."""
        goal = len(self.accepted) + jobs
        while len(self.accepted) < goal:
            await asyncio.sleep(0.02)
            for task in tasks:
                if task.done():
                    task.result()


@pytest.mark.parametrize(
    ("fault", "times"), [("step_down", scaled(10, 3)), ("kill_primary", scaled(5, 2))]
)
async def test_acknowledged_work_outlives_failovers(
    replica_set: ReplicaSet, fault: str, times: int
) -> None:
    load = Load(replica_set.url)
    tasks = [asyncio.create_task(load.produce())]
    tasks += [asyncio.create_task(load.work(f"worker-{n}")) for n in range(2)]
    for _ in range(times):
        await load.progress(30, tasks)
        await asyncio.to_thread(getattr(replica_set, fault))
    await load.progress(50, tasks)
    load.enough.set()
    await asyncio.gather(*tasks)
    assert set(load.accepted) >= set(load.acknowledged), "an acknowledged job is lost"
    assert set(load.accepted.values()) == {1}, "a job was completed twice"
    assert set(load.ran.values()) == {1}, "two runs had one fence"
    assert all(fences == sorted(fences) for fences in load.fences.values()), "a fence fell"
    again = [fences for job_id, fences in load.fences.items() if job_id.endswith(FIRST)]
    assert again
    assert all(len(fences) > 1 for fences in again), "a job given back was not leased anew"
    reader = MongoDriver(load.url)
    await reader.open()
    counts = await reader.counts("q")
    await reader.close()
    assert counts[State.COMPLETED] == sum(counts.values())
    assert counts[State.COMPLETED] == len({job_id for job_id, _ in load.ran}), "a ghost ran"
