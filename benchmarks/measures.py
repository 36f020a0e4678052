"""What is measured of taskmux, through its public API only, in one process with its worker."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from taskmux import Taskmux

__all__ = ["Bench"]

CONCURRENCY = 100
LOOK = 0.005
PATIENCE = 600.0


class Bench:
    """One app on one URL; each measure works in a queue of its own.

    Handlers do nothing; results, history and fences are kept as for any user.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.mux = Taskmux(url)
        self._arrivals: list[float] = []
        self._arrived = asyncio.Event()
        self.noop = self.mux.task(name="bench.noop")(_noop)
        self.echo = self.mux.task(name="bench.echo")(_echo)
        self.stamp = self.mux.task(name="bench.stamp")(self._stamp)

    async def _stamp(self) -> None:
        self._arrivals.append(time.time())
        self._arrived.set()

    # -- throughput, in jobs per second -------------------------------------------------------

    async def drain(self, jobs: int, priorities: int = 1) -> float:
        """Claim, run and complete `jobs` jobs that wait already, spread over priorities."""
        queue = _queue("drain")
        await self._fill(queue, jobs, priorities)
        return await self._drain(queue, jobs)

    async def drain_with_results(self, jobs: int) -> float:
        """Claim, run and complete `jobs` jobs, each of which stores a small result."""
        queue = _queue("results")
        task = self.echo.options(queue=queue)
        for start in range(0, jobs, 1000):
            count = min(1000, jobs - start)
            await self.mux.enqueue_many([task.bind(number) for number in range(count)])
        return await self._drain(queue, jobs)

    async def drain_at_backlog(self, jobs: int, backlog: int) -> float:
        """Claim, run and complete the first `jobs` of a backlog."""
        queue = _queue("backlog")
        await self._fill(queue, backlog, 1)
        return await self._drain(queue, jobs)

    async def drain_in_groups(self, jobs: int, backlog: int, groups: int) -> float:
        """Claim, run and complete the first `jobs` of a backlog in groups that take turns."""
        queue = _queue("groups")
        tasks = [self.noop.options(queue=queue, group=f"g{number}") for number in range(groups)]
        for start in range(0, backlog, 1000):
            numbers = range(start, min(start + 1000, backlog))
            await self.mux.enqueue_many([tasks[one % groups].bind(one) for one in numbers])
        return await self._drain(queue, jobs)

    async def bulk(self, jobs: int) -> float:
        """Enqueue with `enqueue_many`, a thousand calls at a time."""
        queue = _queue("bulk")
        began = time.perf_counter()
        await self._fill(queue, jobs, 1)
        return jobs / (time.perf_counter() - began)

    async def one_by_one(self, jobs: int) -> float:
        """Enqueue with one `await task.enqueue()` after the other."""
        task = self.noop.options(queue=_queue("single"))
        await task.enqueue(0)
        began = time.perf_counter()
        for number in range(jobs):
            await task.enqueue(number)
        return jobs / (time.perf_counter() - began)

    async def in_flight(self, jobs: int, producers: int = 100) -> float:
        """Enqueue one by one from `producers` coroutines at once."""
        task = self.noop.options(queue=_queue("flight"))
        await task.enqueue(0)

        async def produce() -> None:
            for number in range(jobs // producers):
                await task.enqueue(number)

        began = time.perf_counter()
        await asyncio.gather(*(produce() for _ in range(producers)))
        return jobs / (time.perf_counter() - began)

    # -- latency, in milliseconds --------------------------------------------------------------

    async def pick_up(self, samples: int) -> list[float]:
        """From the call of `enqueue` to the start of the handler, the worker being idle."""
        queue = _queue("pickup")
        task = self.stamp.options(queue=queue)
        latencies: list[float] = []
        async with self.mux.worker([queue], concurrency=10):
            for number in range(samples + 20):
                self._arrivals.clear()
                began = time.time()
                job = await task.enqueue()
                while not self._arrivals:  # asking for the result meanwhile would get in the way
                    self._arrived.clear()
                    await self._arrived.wait()
                await job.result()
                if number >= 20:  # noqa: PLR2004 - the first ones warm up
                    latencies.append((self._arrivals[0] - began) * 1000)
                await asyncio.sleep(0.01)
        return sorted(latencies)

    async def burst(self, jobs: int) -> list[float]:
        """How late each of `jobs` jobs, all due at one instant, begins."""
        queue = _queue("burst")
        due = datetime.now(UTC) + timedelta(seconds=2 + jobs / 5000)
        task = self.stamp.options(queue=queue, run_at=due)
        self._arrivals.clear()
        async with self.mux.worker([queue], concurrency=CONCURRENCY):
            for start in range(0, jobs, 1000):
                await self.mux.enqueue_many([task.bind() for _ in range(min(1000, jobs - start))])
            await self._until(lambda: _all_here(self._arrivals, jobs))
        return sorted((arrival - due.timestamp()) * 1000 for arrival in self._arrivals)

    # -- size ------------------------------------------------------------------------------------

    async def memory(self, jobs: int, used: Callable[[str], Awaitable[int]]) -> tuple[float, float]:
        """Bytes per waiting job, and per completed one, with a payload of 100 bytes."""
        queue = _queue("memory")
        task = self.mux.task(name="bench.payload")(_payload).options(queue=queue)
        before = await used(self.url)
        for _ in range(0, jobs, 1000):
            await self.mux.enqueue_many([task.bind("x" * 91) for _ in range(1000)])
        waiting = await used(self.url)
        await self._drain(queue, jobs)
        completed = await used(self.url)
        return (waiting - before) / jobs, (completed - before) / jobs

    # -- helpers ---------------------------------------------------------------------------------

    async def _fill(self, queue: str, jobs: int, priorities: int) -> None:
        tasks = [
            self.noop.options(queue=queue, priority=100 + number) for number in range(priorities)
        ]
        for start in range(0, jobs, 1000):
            count = min(1000, jobs - start)
            await self.mux.enqueue_many(
                [tasks[number % priorities].bind(number) for number in range(count)]
            )

    async def _drain(self, queue: str, jobs: int) -> float:
        """Time from the worker's start until the store says that `jobs` are completed."""
        before = await self._completed(queue)
        began = time.perf_counter()
        async with self.mux.worker([queue], concurrency=CONCURRENCY):

            async def enough() -> bool:
                return await self._completed(queue) - before >= jobs

            await self._until(enough)
            done = await self._completed(queue) - before
            return done / (time.perf_counter() - began)

    async def _completed(self, queue: str) -> int:
        return (await self.mux.queue(queue).counts()).completed

    async def _until(self, enough: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not await enough():  # noqa: ASYNC110 - the store is asked, there is no event
                await asyncio.sleep(LOOK)


async def _noop(number: int) -> None:
    """Do nothing."""


async def _echo(number: int) -> int:
    """Return the number."""
    return number


async def _payload(text: str) -> None:
    """Do nothing with a text."""


async def _all_here(arrivals: list[float], jobs: int) -> bool:
    return len(arrivals) >= jobs


def _queue(name: str) -> str:
    return f"bench-{name}-{os.urandom(4).hex()}"


@asynccontextmanager
async def bench(url: str) -> AsyncIterator[Bench]:
    """Open a bench."""
    one = Bench(url)
    async with one.mux:
        yield one
