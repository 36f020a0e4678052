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
    State,
    transition,
)

__all__ = ["Load", "new"]


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
            ask = ClaimAsk(self.queue, worker, self.batch, 30_000, self.batch)
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
