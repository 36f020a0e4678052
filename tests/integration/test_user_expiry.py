"""Jobs that are too late to be begun, as users meet them. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from taskmux import Cause, Fixed, JobCancelled, State
from taskmux.driver import ClaimAsk, Op
from taskmux.model import transition

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


async def passed(mux, job) -> None:
    """Wait until the store says that the job is too late."""
    async with asyncio.timeout(20):
        while Cause.EXPIRED not in (await job.explain()).causes:
            await asyncio.sleep(0.01)


class TestTooLate:
    async def test_a_job_past_its_deadline_ends_cancelled_and_its_handler_is_not_called(self, mux):
        ran = []

        @mux.task()
        async def work(number: int) -> None:
            ran.append(number)

        late = await work.options(deadline=LONG_AGO).enqueue(1)
        good = await work.options(deadline=datetime.now(UTC) + timedelta(days=1)).enqueue(2)
        assert Cause.EXPIRED in (await late.explain()).causes
        async with mux.worker():
            await good.result(timeout="20s")
            with pytest.raises(JobCancelled, match="expired: no run was to begin after 2001-01-01"):
                await late.result(timeout="20s")
        assert ran == [2]
        record = await late.record()
        assert (record.state, record.attempts, record.history) == (State.CANCELLED, 0, ())
        assert "expired" in str(await late.explain())

    async def test_expires_is_the_time_until_a_run_begins(self, mux):
        ran = []

        @mux.task(expires="100ms")
        async def work(number: int) -> None:
            ran.append(number)

        late = await work.enqueue(1)
        kept = await work.options(expires="1h").enqueue(2)
        await passed(mux, late)
        async with mux.worker():
            await kept.result(timeout="20s")
            with pytest.raises(JobCancelled, match="more than 100ms after it was enqueued"):
                await late.result(timeout="20s")
        assert ran == [2]

    async def test_it_holds_for_a_retry_too(self, mux, witness):
        runs = []

        @mux.task(backoff=Fixed("2100ms", jitter=0), expires="2s")
        async def broken() -> None:
            runs.append(1)
            raise ValueError("no")

        async with mux.worker():
            job = await broken.enqueue()
            record = await witness.settled(job, runs=2)
        assert record.state is State.CANCELLED
        assert (record.reason or "").startswith("expired")
        assert (record.attempts, len(runs)) == (1, 1)
        assert record.error is not None  # what the first run met stays readable

    async def test_a_queues_default_holds(self, mux):
        @mux.task(queue="news")
        async def push() -> None:
            raise AssertionError

        await mux.queue("news").set_defaults(expires="1ms")
        job = await push.enqueue()
        await passed(mux, job)
        async with mux.worker():
            with pytest.raises(JobCancelled, match="expired"):
                await job.result(timeout="20s")

    async def test_what_runs_when_it_passes_goes_on(self, mux):
        is_late = asyncio.Event()

        @mux.task(expires="2s")
        async def slow() -> str:
            await is_late.wait()
            return "done"

        async with mux.worker():
            job = await slow.enqueue()
            await passed(mux, await mux.enqueue("t", {}, queue="nobody", expires="2s"))
            is_late.set()
            assert await job.result(timeout="20s") == "done"


class TestAfterACrash:
    async def test_a_lapsed_job_is_not_run_again(self, mux, stored, witness):
        ran = []

        @mux.task(expires="50ms")
        async def work() -> None:
            ran.append(1)

        job = await work.enqueue()
        driver = stored.driver()
        await driver.open()
        claimed = await driver.claim(Op("dead", 1), ClaimAsk("default", "dead", 1, 100))
        await driver.apply(Op("dead", 1), [transition.start(claimed.jobs[0])])
        await driver.close()
        async with mux.worker():
            record = await witness.settled(job)
        assert (record.state, record.crashes, ran) == (State.CANCELLED, 1, [])
        assert (record.reason or "").startswith("expired")
        assert record.history[-1].outcome == "crashed"
