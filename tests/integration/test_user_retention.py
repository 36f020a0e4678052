"""How long ended jobs stay, as users say it. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from functools import partial

import pytest
from taskmux import Fail, JobCancelled, JobFailed, JobNotFound, Keep
from taskmux.api import retention
from taskmux.driver import PruneAsk
from taskmux.worker import prune

WAITER = """
import asyncio, sys
from taskmux import Taskmux

async def main():
    async with Taskmux(sys.argv[1]) as mux:
        job = mux.job("default", "once")
        print("waits", flush=True)
        print(await job.result(timeout="30s"), flush=True)

asyncio.run(main())
"""


@pytest.fixture
def often(monkeypatch):
    """Prune all the time, and let no store keep a record for its own sake."""
    monkeypatch.setattr("taskmux.worker.station.PRUNE_EVERY", 0.02)
    monkeypatch.setattr(prune, "PruneAsk", partial(PruneAsk, memory=0))


async def gone(job) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await job.record()
            except JobNotFound:
                return
            await asyncio.sleep(0.01)


class TestAtOnce:
    async def test_whoever_waits_has_the_result_though_nothing_is_kept(self, mux, often):
        @mux.task(retention={"completed": 0, "cancelled": 0, "dead": 0})
        async def work(how: str) -> str:
            if how == "fails":
                raise Fail("no such order")
            return how

        late = work.options(deadline=datetime(2001, 1, 1, tzinfo=UTC))
        async with mux.worker():
            jobs = [await work.enqueue("works"), await work.enqueue("fails")]
            waiters = [asyncio.ensure_future(job.result(timeout="20s")) for job in jobs]
            waiters.append(asyncio.ensure_future((await late.enqueue("never")).result("20s")))
            done, failed, cancelled = await asyncio.gather(*waiters, return_exceptions=True)
        assert done == "works"
        assert isinstance(failed, JobFailed)
        assert isinstance(cancelled, JobCancelled)

    async def test_and_a_waiter_in_another_process(self, mux, often, stored):
        if stored.url.startswith("memory") or not stored.url:
            pytest.skip("this store is in one process")
        go = asyncio.Event()

        @mux.task(name="work", retention={"completed": 0})
        async def work() -> str:
            await go.wait()
            return "done"

        async with mux.worker():
            await work.options(id="once").enqueue()
            waiter = await asyncio.create_subprocess_exec(
                sys.executable, "-c", WAITER, stored.url, stdout=asyncio.subprocess.PIPE
            )
            assert waiter.stdout is not None
            assert await asyncio.wait_for(waiter.stdout.readline(), 30) == b"waits\n"
            go.set()
            assert await asyncio.wait_for(waiter.stdout.readline(), 30) == b"done\n"
            assert await waiter.wait() == 0


class TestTrimmed:
    @pytest.fixture
    def short(self, monkeypatch, often):
        monkeypatch.setattr(retention, "READABLE_MS", 50)

    async def test_though_no_job_finishes_and_none_comes(self, mux, short):
        @mux.task(retention={"completed": 0})
        async def work() -> None: ...

        async with mux.worker():
            job = await work.enqueue()
            await gone(job)
        assert (await mux.queue("default").counts()).total == 0

    async def test_a_queues_default_and_an_apps_hold_too(self, app, short):
        mux = app(defaults={"retention": Keep(0)})
        await mux.queue("brief").set_defaults(retention={"completed": 0, "dead": "1h"})

        @mux.task(queue="brief", max_attempts=1)
        async def work(*, fails: bool) -> None:
            if fails:
                raise ValueError

        async with mux.worker(["brief", "default"]):
            dead, done = await work.enqueue(fails=True), await work.enqueue(fails=False)
            by_app = await work.options(queue="default").enqueue(fails=True)
            await gone(done)
            await gone(by_app)
            assert (await dead.record()).state == "dead"
