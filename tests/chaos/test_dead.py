"""Many dead letters: read in little memory, and redriven by a process that is killed meanwhile."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskmux import Context, Taskmux
from taskmux.driver import ClaimAsk, Driver, ErrorInfo, JobRecord, NewJob, Op
from taskmux.model import transition
from taskmux.model.transition import Changes
from taskmux.plugins.loading import driver_for, plugin_manager
from tests import mongo_servers, servers
from tests.scale import scaled

QUEUE = "dead"
DEAD = scaled(100_000, 4_000)
REDRIVEN = DEAD // 2
BATCH = 1_000
MORE_MEMORY = 40_000_000
"""Bytes that statistics may take, whatever there is to count; the jobs themselves take more."""

TRACEBACK = "at work.py\n" * 20

REDRIVE = f"""
import asyncio, sys
from taskmux import Taskmux

def told(done, total):
    print(done, flush=True)

async def main():
    async with Taskmux(sys.argv[1]) as mux:
        await mux.queue({QUEUE!r}).dead.redrive(all=True, limit={REDRIVEN}, on_progress=told)

asyncio.run(main())
"""

STATS = f"""
import asyncio, resource, sys
from taskmux import Taskmux

async def main():
    async with Taskmux(sys.argv[1]) as mux:
        await mux.queue({QUEUE!r}).dead.stats(task="other")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stats = await mux.queue({QUEUE!r}).dead.stats()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(stats.total, len(stats.groups), (after - before) * 1024)

asyncio.run(main())
"""


async def bury(driver: Driver, numbers: range) -> None:
    """Make dead jobs, of seven ways of failing."""
    op = Op("test", numbers.start + 1)
    jobs = [JobRecord(queue=QUEUE, id=f"{number:06}", task="work") for number in numbers]
    await driver.push(op, [NewJob(job) for job in jobs])
    claimed = await driver.claim(op, ClaimAsk(QUEUE, "w", len(jobs), 60_000))
    transitions = [
        transition.bury(
            job,
            Changes(
                attempts=3,
                reason="failed 3 of 3 attempts",
                error=ErrorInfo(f"Error{int(job.id) % 7}", f"no user {job.id}", TRACEBACK),
            ),
        )
        for job in claimed.jobs
    ]
    await driver.apply(op, transitions)


async def dead_on(url: str) -> None:
    driver = driver_for(url, plugin_manager())
    await driver.open()
    for start in range(0, DEAD, BATCH):
        await bury(driver, range(start, min(start + BATCH, DEAD)))
    await driver.close()


async def run(code: str, url: str) -> Process:
    return await create_subprocess_exec(sys.executable, "-c", code, url, stdout=PIPE)


class Suite:
    @pytest.mark.timeout(600)
    async def test_statistics_take_little_memory(self, url: str) -> None:
        await dead_on(url)
        output, _ = await (await run(STATS, url)).communicate()
        total, groups, memory = map(int, output.split())
        assert (total, groups) == (DEAD, 7)
        assert memory < MORE_MEMORY

    @pytest.mark.timeout(600)
    async def test_a_redrive_that_is_killed_goes_on(self, url: str) -> None:
        await dead_on(url)
        process = await run(REDRIVE, url)
        assert process.stdout is not None
        while int(await process.stdout.readline()) < REDRIVEN // 3:
            pass
        process.send_signal(signal.SIGKILL)
        await process.wait()
        ran: Counter[str] = Counter()
        mux = Taskmux(url)

        @mux.task(name="work", queue=QUEUE)
        async def work(ctx: Context) -> None:
            ran[ctx.id] += 1

        async with mux:
            queue = mux.queue(QUEUE)
            left = REDRIVEN - (DEAD - await queue.dead.count())
            assert 0 < left < REDRIVEN
            assert (await queue.dead.redrive(all=True, limit=left)).done == left
            async with mux.worker(concurrency=100):
                while (await queue.counts()).unfinished:
                    await asyncio.sleep(0.05)
            counts = await queue.counts()
        assert (counts.completed, counts.dead) == (REDRIVEN, DEAD - REDRIVEN)
        assert set(ran.values()) == {1}
        assert len(ran) == REDRIVEN


@pytest.mark.chaos
class TestSQLite(Suite):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/dead.db"


@pytest.mark.chaos
@pytest.mark.skipif(servers.redis_program() is None, reason="no redis-server")
class TestRedis(Suite):
    @pytest.fixture
    def url(self) -> Iterator[str]:
        with servers.running() as server:
            yield server.url


@pytest.mark.chaos
@pytest.mark.skipif(mongo_servers.mongod_program() is None, reason="no mongod")
class TestMongoDB(Suite):
    @pytest.fixture
    def url(self) -> Iterator[str]:
        with mongo_servers.running() as server:
            yield server.url
