"""Load for a Redis driver under test, and what must be true afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from taskmux.driver import (
    ApplyStatus,
    ClaimAsk,
    Driver,
    JobRecord,
    NewJob,
    Op,
    PushStatus,
    ReclaimAsk,
    Ref,
    State,
    transition,
)

__all__ = ["Load", "LossyLoad", "new"]


def new(queue: str, job_id: str, payload: bytes = b"{}", **fields) -> NewJob:
    return NewJob(JobRecord(queue=queue, id=job_id, task="load", payload=payload, **fields))


class Load:
    """Producers and workers on forks of one driver; every job is counted at both ends."""

    def __init__(self, driver: Driver, queue: str, jobs: int, batch: int = 10) -> None:
        self.driver, self.queue, self.jobs, self.batch = driver, queue, jobs, batch
        self.finished: Counter[str] = Counter()
        self.calm = asyncio.Event()
        self.calm.set()

    async def run(
        self, disturb: Callable[[], Awaitable[None]] | None = None, times: int = 0
    ) -> None:
        """Push and finish every job, while `disturb` happens `times` over."""
        async with asyncio.TaskGroup() as group:
            if disturb is not None:
                group.create_task(self._again(disturb, times))
            group.create_task(self._produce("producer"))
            for number in range(3):
                group.create_task(self._work(f"worker-{number}"))

    async def _again(self, disturb: Callable[[], Awaitable[None]], times: int) -> None:
        self.calm.clear()
        for _ in range(times):
            await disturb()
        self.calm.set()

    async def _produce(self, origin: str) -> None:
        for number, first in enumerate(range(0, self.jobs, self.batch)):
            if first + self.batch >= self.jobs:
                await self.calm.wait()
            news = [new(self.queue, f"j{at}") for at in range(first, first + self.batch)]
            answers = await self.driver.push(Op(origin, number), news)
            assert {answer.status for answer in answers} == {PushStatus.CREATED}

    async def _work(self, worker: str) -> None:
        number = 0
        while self.finished.total() < self.jobs:
            number += 1
            ask = ClaimAsk(self.queue, worker, self.batch, 30_000)
            claimed = await self.driver.claim(Op(worker, number), ask)
            done = [transition.complete(job, job.id.encode()) for job in claimed.jobs]
            if done:
                answers = await self.driver.apply(Op(worker, number), done)
                taken = {ApplyStatus.APPLIED, ApplyStatus.REPEATED}
                assert {answer.status for answer in answers} <= taken
                self.finished.update(one.ref.id for one in done)
            elif self.finished.total() < self.jobs:
                await self.driver.wait([self.queue], 0.2)

    async def check(self) -> None:
        """Nothing is lost, nothing ran twice, counts are exact, no lease is left."""
        assert self.finished == Counter(f"j{at}" for at in range(self.jobs))
        counts = await self.driver.counts(self.queue)
        assert counts == dict.fromkeys(State, 0) | {State.COMPLETED: self.jobs}
        late = await self.driver.reclaim(Op("check", 1), ReclaimAsk(self.queue, "check", 10, 1000))
        assert not late


class LossyLoad:
    """Load on servers whose failovers may lose what they acknowledged last.

    Producers go on until every disturbance is over, workers until nothing is left to do. A job
    whose completion was lost lapses and runs again; one whose creation was lost is found by
    `lost`.
    """

    def __init__(self, driver: Driver, queue: str, lease: int = 2000) -> None:
        self.driver, self.queue, self.lease = driver, queue, lease
        self.acknowledged: list[str] = []
        self._calm = asyncio.Event()
        self._produced = asyncio.Event()

    async def run(self, disturb: Callable[[], Awaitable[None]], times: int) -> None:
        """Push and finish jobs while `disturb` happens `times` over, and until all are done."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again(disturb, times))
            group.create_task(self._produce())
            for number in range(3):
                group.create_task(self._work(f"worker-{number}"))

    async def _again(self, disturb: Callable[[], Awaitable[None]], times: int) -> None:
        for _ in range(times):
            await disturb()
        self._calm.set()

    async def _produce(self) -> None:
        number = 0
        while not self._calm.is_set():
            number += 1
            ids = [f"j{number}-{at}" for at in range(5)]
            await self.driver.push(Op("producer", number), [new(self.queue, one) for one in ids])
            self.acknowledged += ids
            await asyncio.sleep(0.01)
        self._produced.set()

    async def _work(self, worker: str) -> None:
        number = 0
        while not (self._produced.is_set() and await self._drained()):
            number += 1
            op = Op(worker, number)
            jobs = (
                *(await self.driver.claim(op, ClaimAsk(self.queue, worker, 10, self.lease))).jobs,
                *await self.driver.reclaim(op, ReclaimAsk(self.queue, worker, 10, self.lease)),
            )
            if jobs:
                await self.driver.apply(op, [transition.complete(job, b"1") for job in jobs])
            else:
                await self.driver.wait([self.queue], 0.2)

    async def _drained(self) -> bool:
        counts = await self.driver.counts(self.queue)
        return counts[State.WAITING] + counts[State.ACTIVE] == 0

    async def lost(self) -> list[str]:
        """Return the jobs that were acknowledged and are not there; the others are completed."""
        found = await self.driver.get([Ref(self.queue, one) for one in self.acknowledged])
        assert {job.state for job in found if job is not None} == {State.COMPLETED}
        pairs = zip(self.acknowledged, found, strict=True)
        return [one for one, job in pairs if job is None]
