"""Why a job does not run, and the live workers. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from taskmux import State, Taskmux
from taskmux.driver import ClaimAsk, Op, ReclaimAsk
from taskmux.model.errors import (
    DeclarationError,
    JobConflict,
    JobNotFound,
    ResultTimeout,
    StoreUnavailable,
)
from taskmux.model.job import TERMINAL
from taskmux.model.workers import Command
from taskmux.policy.explain import Cause

PATIENCE = 20.0


async def causes(job) -> tuple[Cause, ...]:
    found = await job.explain()
    assert all(reason.text.endswith(".") for reason in found.reasons)
    assert str(found).startswith(f"{job.ref} is {found.state}. ")
    return found.causes


async def claim(driver, number: int = 1, lease: int = 60_000):
    return (await driver.claim(Op("test", number), ClaimAsk("default", "w", 1, lease))).jobs


class TestExplain:
    async def test_a_timeout_names_the_reasons(self, mux):
        await mux.queue("default").pause()
        job = await mux.enqueue("t", delay="1h")
        with pytest.raises(ResultTimeout, match=r"or cancel.. it. It is not due before ") as error:
            await job.result(timeout=0.01)
        assert "Queue default is paused." in str(error.value)
        assert "No live worker serves queue default" in str(error.value)

    async def test_a_timeout_is_one_also_where_nobody_can_say_why(self, mux, monkeypatch):
        job = await mux.enqueue("t")

        async def explain() -> None:
            raise StoreUnavailable("away")

        monkeypatch.setattr(job, "explain", explain)
        with pytest.raises(ResultTimeout, match=r"or cancel\(\) it\.$"):
            await job.result(timeout=0.01)

    async def test_no_worker(self, mux):
        job = await mux.enqueue("t")
        assert await causes(job) == (Cause.NO_WORKER,)

    async def test_a_worker_without_the_task(self, mux):
        await mux.queue("default").pause()  # or it would be snoozed at once
        async with mux.worker():
            job = await mux.enqueue("nobody.has.it")
            await workers(mux, 1)
            assert await causes(job) == (Cause.PAUSED, Cause.UNKNOWN_TASK)

    async def test_one_that_a_worker_put_off_for_that(self, mux, witness):
        job = await mux.enqueue("nobody.has.it")
        async with mux.worker():
            await witness.settled(job)
            found = await job.explain()
        assert found.causes == (Cause.DELAYED, Cause.UNKNOWN_TASK)
        assert "has no task 'nobody.has.it'" in str(found)

    async def test_paused_delayed_and_moved(self, mux, driver):
        await mux.queue("default").pause()
        job = await mux.enqueue("t", delay="1h")
        assert await causes(job) == (Cause.DELAYED, Cause.PAUSED, Cause.NO_WORKER)
        found = await job.explain()
        due = datetime.fromtimestamp((found.reasons[0].until or 0) / 1000, UTC)
        assert timedelta(minutes=50) < due - datetime.now(UTC) < timedelta(minutes=70)

    async def test_blocked(self, mux):
        job = await mux.enqueue("t")
        await job.hold()
        assert (await causes(job))[0] is Cause.BLOCKED
        await job.unhold()
        assert await job.status() is State.WAITING

    async def test_running_and_lapsed(self, mux, driver):
        job = await mux.enqueue("t")
        (held,) = await claim(driver, lease=50)
        while (await causes(job)) == (Cause.RUNNING,):
            await asyncio.sleep(0.02)  # a lease lapses by itself
        assert await causes(job) == (Cause.LAPSED,)
        await driver.reclaim(Op("test", 2), ReclaimAsk("default", "w", 1, 60_000))
        assert await causes(job) == (Cause.RUNNING,)
        assert held.id == job.id

    async def test_finished(self, mux):
        job = await mux.enqueue("t")
        await job.cancel()
        assert await causes(job) == (Cause.FINISHED,)

    async def test_its_turn(self, mux):
        await mux.enqueue("t")
        job = await mux.enqueue("t")
        assert await causes(job) == (Cause.NO_WORKER, Cause.TURN)
        await mux.enqueue("t", group="other")
        common = "in the queue's common line, which takes turns with 1 other line."
        assert f"1 job is before it {common}" in str(await job.explain())
        await mux.enqueue("t", group="third")
        alone = await mux.enqueue("t", group="fourth")
        words = "It is the first in group fourth, which takes turns with 3 other lines."
        assert words in str(await alone.explain())

    async def test_limits_of_the_queue(self, mux, driver):
        await mux.queue("default").limit(concurrency=1, rate="1/h+0")
        for _ in range(2):
            job = await mux.enqueue("t")
        await claim(driver)
        assert await causes(job) == (Cause.CONCURRENCY, Cause.RATE, Cause.NO_WORKER)

    async def test_limits_of_the_group(self, mux, driver):
        await mux.queue("default").limit(group="*", concurrency=1, rate="1/h+0")
        for _ in range(2):
            job = await mux.enqueue("t", group="g")
        await claim(driver)
        assert await causes(job) == (Cause.LINE_CONCURRENCY, Cause.LINE_RATE, Cause.NO_WORKER)

    async def test_workers_paused_and_busy(self, mux):
        started, go_on = asyncio.Event(), asyncio.Event()

        @mux.task(name="t")
        async def task() -> None:
            started.set()
            await go_on.wait()

        async with mux.worker(concurrency=1) as worker:
            await mux.enqueue("t")
            await asyncio.wait_for(started.wait(), PATIENCE)
            job = await mux.enqueue("t")
            await workers(mux, 1, running=1)
            assert await causes(job) == (Cause.WORKERS_BUSY,)
            worker.pause()
            await workers(mux, 1, paused=True)
            assert await causes(job) == (Cause.WORKERS_PAUSED,)
            go_on.set()
            worker.resume()
            await job.result(timeout=PATIENCE)

    async def test_only_workers_that_have_the_task_count(self, app):
        able, other = app(), app()

        @able.task(name="t")
        async def task() -> None: ...

        async with able.worker() as paused, other.worker():
            paused.pause()
            await able.queue("default").pause()  # or the other would put it off
            async with asyncio.timeout(PATIENCE):
                while sum(worker.paused for worker in await able.workers()) != 1:
                    await asyncio.sleep(0.05)
            job = await able.enqueue("t")
            assert await causes(job) == (Cause.PAUSED, Cause.WORKERS_PAUSED)

    async def test_nothing_at_all(self, mux, driver):
        @mux.task(name="t")
        async def task() -> None: ...

        async with mux.worker(["other"]) as worker, asyncio.timeout(PATIENCE):
            worker.pause()
            await workers(mux, 1, paused=True)
            job = await mux.enqueue("t", queue="other")
            assert await causes(job) == (Cause.WORKERS_PAUSED,)
            worker.resume()
            while Cause.FINISHED not in await causes(job):
                await asyncio.sleep(0.01)

    async def test_no_such_job(self, mux):
        with pytest.raises(JobNotFound):
            await mux.job("default", "nope").explain()


async def workers(mux: Taskmux, count: int, **told: object):
    """Wait until so many workers are listed, with these fields."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await mux.workers()
            if len(found) == count and all(
                getattr(worker, name) == value for worker in found for name, value in told.items()
            ):
                return found
            await asyncio.sleep(0.05)  # a heartbeat comes each second


class TestWorkers:
    async def test_they_are_listed(self, app):
        mux = app()

        @mux.task(name="t")
        async def task() -> None: ...

        async with mux.worker(["a", "b"], concurrency=3) as one, mux.worker():
            found = await workers(app(), 2)
            (listed,) = (worker for worker in found if worker.id == one.name)
            assert (listed.queues, listed.tasks, listed.concurrency) == (("a", "b"), ("t",), 3)
        assert await app().workers() == []

    async def test_one_is_paused_and_resumed_from_elsewhere(self, app):
        mux = app()

        @mux.task(name="t")
        async def task() -> str:
            return "done"

        async with mux.worker() as worker:
            await workers(mux, 1)
            assert await app().tell(worker.name, Command("pause"))
            await workers(mux, 1, paused=True)
            job = await mux.enqueue("t")
            assert await app().tell(worker.name, Command("resume"))
            assert await job.result(timeout=PATIENCE) == "done"

    async def test_its_concurrency_is_changed_while_it_runs(self, app):
        mux = app()
        inside, go_on = asyncio.Semaphore(0), asyncio.Event()

        @mux.task(name="t")
        async def task() -> None:
            inside.release()
            await go_on.wait()

        async with mux.worker(concurrency=1) as worker:
            for _ in range(6):
                await mux.enqueue("t")
            await workers(mux, 1, running=1)
            assert await app().tell(worker.name, Command("concurrency", 4))
            await workers(mux, 1, running=4, concurrency=4)
            worker.resize(2)
            go_on.set()
            async with asyncio.timeout(PATIENCE):
                for _ in range(6):
                    await inside.acquire()
            await workers(mux, 1, running=0, concurrency=2)

    async def test_it_is_stopped_from_elsewhere(self, app):
        mux = app()
        async with mux.worker() as worker:
            await workers(mux, 1)
            assert await app().tell(worker.name, Command("stop"))
            await asyncio.wait_for(worker.stopping_began(), PATIENCE)
            await workers(mux, 0)
        assert not await app().tell(worker.name, Command("stop"))

    async def test_wrong_commands_are_refused(self, mux):
        with pytest.raises(DeclarationError):
            await mux.tell("w", Command("concurrency", 0))
        assert not await mux.tell("nobody", Command("pause"))


class TestWeights:
    async def test_no_queue_starves(self, mux):
        order: list[str] = []

        @mux.task(name="t")
        async def task(queue: str) -> None:
            order.append(queue)

        jobs = [
            await mux.enqueue("t", {"queue": name}, queue=name)
            for name in ("often", "seldom")
            for _ in range(60)
        ]
        async with mux.worker({"often": 3, "seldom": 1}, concurrency=1):
            await asyncio.gather(*(job.result(timeout=PATIENCE) for job in jobs))
        assert "seldom" in order[:60], "the first queue was emptied first"

    @pytest.mark.parametrize("weights", [{"a": 0}, {"a": 1.5}, {"a": True}, {"a": 10**6}, {}])
    def test_wrong_weights_are_refused(self, weights):
        with pytest.raises(DeclarationError):
            Taskmux("memory://").worker(weights)


class TestRescheduling:
    async def test_a_waiting_job_is_put_off_and_brought_forward(self, mux):
        job = await mux.enqueue("t")
        await job.reschedule(delay="1h")
        assert await job.status() is State.DELAYED
        await job.reschedule(run_at=datetime(2090, 1, 1, tzinfo=UTC))
        assert (await job.record()).run_at == 3_786_912_000_000
        await job.promote()
        assert await job.status() is State.WAITING

    async def test_another_priority(self, mux, driver):
        await mux.enqueue("t")
        job = await mux.enqueue("t")
        await job.set_priority("high")
        assert (await job.record()).priority == 50
        (first,) = await claim(driver)
        assert first.id == job.id

    @pytest.mark.parametrize(
        "wrong", [{}, {"delay": 1, "run_at": datetime(2090, 1, 1, tzinfo=UTC)}]
    )
    async def test_wrong_times_are_refused(self, mux, wrong):
        with pytest.raises(DeclarationError):
            await (await mux.enqueue("t")).reschedule(**wrong)

    async def test_a_finished_job_is_not_moved(self, mux):
        job = await mux.enqueue("t")
        await job.cancel()
        for move in (job.hold(), job.reschedule(delay=1), job.set_priority(1), job.unhold()):
            with pytest.raises(JobConflict):
                await move
        assert (await job.status()) in TERMINAL
