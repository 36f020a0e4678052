"""Stopping loses nothing and spends no attempt. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from taskmux import Context, State
from taskmux.model.errors import ConfigError


async def stopped(worker) -> None:
    await asyncio.wait_for(worker.stop(), 20)


class TestDraining:
    async def test_running_handlers_finish(self, mux):
        started, let_go = asyncio.Event(), asyncio.Event()

        @mux.task()
        async def slow() -> str:
            started.set()
            await let_go.wait()
            return "finished"

        async with mux.worker() as worker:
            job = await slow.enqueue()
            await started.wait()
            stopping = asyncio.ensure_future(stopped(worker))
            await asyncio.sleep(0)
            assert worker.running == 1
            let_go.set()
            await stopping
        assert await job.result() == "finished"

    async def test_prefetched_jobs_go_back_at_once_and_in_order(self, mux, witness):
        started, let_go = asyncio.Event(), asyncio.Event()
        ran = []

        @mux.task()
        async def slow(name: str) -> None:
            ran.append(name)
            started.set()
            await let_go.wait()

        jobs = [await slow.enqueue(name) for name in "abcd"]
        worker = mux.worker(concurrency=1)
        worker._lanes._mean_run = 0.0  # its handlers have been quick so far: it fetches ahead
        async with worker:
            await started.wait()
            stopping = asyncio.ensure_future(stopped(worker))
            await witness.settled(jobs[1])  # while the first still runs
            assert worker.running == 1
            let_go.set()
            await stopping
        assert ran == ["a"]
        page = await mux.queue("default").page("waiting")
        assert [job.id for job in page.jobs] == [job.id for job in jobs[1:]]
        assert {(job.attempts, job.crashes, job.started) for job in page.jobs} == {(0, 0, False)}

    async def test_at_the_deadline_a_handler_is_cancelled_and_its_job_released(self, mux):
        started = asyncio.Event()
        seen = []

        @mux.task(max_attempts=1, max_crashes=2)
        async def slow() -> None:
            try:
                started.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        async with mux.worker(drain="50ms"):
            job = await slow.enqueue()
            await started.wait()
        record = await job.record()
        assert seen == ["cancelled"]
        assert (record.state, record.attempts, record.crashes) == (State.WAITING, 0, 0)
        assert record.history == ()

    async def test_a_thread_that_completes_after_the_deadline_was_not_cut_off(self, mux, caplog):
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        @mux.task(max_attempts=1)
        def slow(ctx: Context, patient: bool) -> str:
            loop.call_soon_threadsafe(started.set)
            while not ctx.cancel_requested:
                time.sleep(0.001)
            if patient:
                return "finished"
            raise ValueError("told to stop")

        for patient in (True, False):
            started.clear()
            async with mux.worker(drain="50ms") as worker:
                job = await slow.enqueue(patient)
                await started.wait()
            assert "told to stop, for the drain deadline has passed" in caplog.text
            if patient:
                assert await job.result() == "finished"
            assert worker.cut_off == (() if patient else (job.ref,))

    async def test_what_was_released_runs_on_the_next_worker(self, mux):
        first = asyncio.Event()

        @mux.task(max_attempts=1)
        async def slow(ctx: Context) -> int:
            if not first.is_set():
                first.set()
                await asyncio.Event().wait()
            return ctx.attempt

        async with mux.worker(drain=0):
            job = await slow.enqueue()
            await first.wait()
        async with mux.worker():
            assert await job.result(timeout="20s") == 1

    async def test_an_abort_ends_the_drain(self, mux):
        started = asyncio.Event()

        @mux.task()
        async def slow() -> None:
            started.set()
            await asyncio.Event().wait()

        async with mux.worker(drain="1h") as worker:
            job = await slow.enqueue()
            await started.wait()
            stopping = asyncio.ensure_future(stopped(worker))
            await asyncio.sleep(0)
            worker.abort()
            await stopping
        assert (await job.record()).state is State.WAITING

    async def test_a_job_asked_to_cancel_is_cancelled_rather_than_released(self, mux):
        started, asked = asyncio.Event(), asyncio.Event()

        @mux.task()
        async def slow() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                asked.set()

        async with mux.worker(drain=0):
            job = await slow.enqueue()
            await started.wait()
            await job.cancel()
        assert asked.is_set()
        assert await job.status() is State.CANCELLED

    async def test_a_thread_that_outlives_the_drain_is_left_to_lapse(self, mux, monkeypatch):
        # Released, it would run twice at once under leases that never lapsed.
        monkeypatch.setattr("taskmux.worker.drain.GRACE", 0.2)
        started, let_go = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        @mux.task()
        def slow() -> None:
            loop.call_soon_threadsafe(started.set)
            let_go.wait(20)

        try:
            async with mux.worker(drain=0):
                job = await slow.enqueue()
                await started.wait()
            record = await job.record()
            assert (record.state, record.started) == (State.ACTIVE, True)
        finally:
            let_go.set()

    async def test_an_idle_worker_stops_and_the_next_one_works(self, mux):
        @mux.task()
        async def work() -> int:
            return 1

        for _ in range(2):
            async with mux.worker():
                job = await work.enqueue()
                assert await job.result(timeout="20s") == 1

    async def test_outcomes_are_stored_before_it_is_gone(self, mux):
        all_began = asyncio.Barrier(50)

        @mux.task()
        async def work(number: int) -> int:
            if await all_began.wait() == 0:
                last.set()
            return number

        last = asyncio.Event()
        jobs = await mux.enqueue_many([work.bind(number) for number in range(50)])
        async with mux.worker(concurrency=50):
            await last.wait()
        states = [await job.status() for job in jobs]
        assert states == [State.COMPLETED] * 50


class TestLife:
    async def test_it_starts_once(self, mux):
        worker = mux.worker()
        async with worker:
            with pytest.raises(ConfigError, match="started once"):
                await worker.__aenter__()
        with pytest.raises(ConfigError, match="started once"):
            await worker.__aenter__()

    async def test_stopping_twice_or_at_once_is_stopping_once(self, mux):
        async with mux.worker() as worker:
            await asyncio.gather(stopped(worker), stopped(worker))
            await stopped(worker)

    async def test_stopping_one_that_never_started_ends(self, mux):
        worker = mux.worker()
        await stopped(worker)
        async with worker:
            assert worker.stopping  # whoever waits for it learns so at once

    async def test_two_workers_share_a_queue(self, mux):
        seen: set[str] = set()
        both = asyncio.Event()

        @mux.task()
        async def work(ctx: Context) -> None:
            seen.add(ctx.worker)
            if len(seen) == 2:
                both.set()
            await both.wait()

        jobs = [await work.enqueue() for _ in range(3)]  # one more than a worker takes at once
        async with mux.worker(concurrency=1), mux.worker(concurrency=1):
            for job in jobs:
                await job.result(timeout="20s")
        assert len(seen) == 2
