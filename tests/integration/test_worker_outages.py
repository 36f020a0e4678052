"""A worker on a store that fails: nothing is lost, nothing runs twice.

Runs unchanged on every backend.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from taskmux import Context, Fixed, State
from taskmux.conformance import Fault, FaultyDriver, chance, lost, refused, script
from taskmux.driver import ClaimAsk, Op, transition
from taskmux.model.errors import StoreUnavailable
from taskmux.plugins.loading import driver_for, plugin_manager


class Outage:
    """A plan that refuses every verb while it lasts."""

    def __init__(self) -> None:
        self.lasts = False
        self.met = asyncio.Event()

    def __call__(self, verb: str) -> Fault | None:
        if not self.lasts:
            return None
        self.met.set()
        return refused


@pytest.fixture
def faulty(url):
    """Return a maker of drivers on the store that fail as a plan says."""
    return lambda plan: FaultyDriver(driver_for(url, plugin_manager()), plan)


class TestUnreliableStore:
    @pytest.mark.parametrize("fault", [refused, lost], ids=["refused", "reply lost"])
    async def test_each_job_is_done_exactly_once(self, app, app_on, faulty, fault):
        plan = chance(7, {fault: 0.3})
        driver = faulty(lambda verb: None if verb == "open" else plan(verb))
        mux = app_on(driver)
        runs: Counter[int] = Counter()

        @mux.task(max_attempts=1, max_crashes=0)
        async def work(number: int) -> int:
            runs[number] += 1
            await asyncio.sleep(0)
            return number

        healthy = app()
        calls = [work.bind(number) for number in range(60)]
        jobs = await healthy.enqueue_many(calls)
        async with mux.worker(concurrency=10):
            results = await asyncio.gather(
                *(healthy.job("default", job.id).result(timeout="60s") for job in jobs)
            )
        assert results == list(range(60))
        assert runs == Counter(range(60))
        records = [await healthy.job("default", job.id).record() for job in jobs]
        assert {(job.state, job.attempts, job.crashes, job.history) for job in records} == {
            (State.COMPLETED, 1, 0, ())
        }
        assert (await healthy.queue("default").counts()).total == 60
        for verb in ("claim", "apply"):
            assert driver.struck[verb], f"no {verb} met a fault: this proves nothing"

    async def test_a_producer_sends_again_and_makes_one_job(self, app_on, faulty):
        mux = app_on(faulty(script({"push": [lost, lost, None] * 5})))

        @mux.task(name="t")
        async def work(number: int) -> None:
            raise NotImplementedError

        jobs = [await work.enqueue(number) for number in range(4)]
        jobs += await mux.enqueue_many([work.bind(number) for number in range(50)])
        assert len({job.id for job in jobs}) == 54
        assert not any(job.duplicate for job in jobs)
        assert (await mux.queue("default").counts()).waiting == 54

    async def test_a_producer_is_told_when_the_store_does_not_answer(self, app_on, faulty):
        mux = app_on(faulty(script({"push": [refused] * 3})))
        with pytest.raises(StoreUnavailable):
            await mux.enqueue("t")
        await mux.enqueue("t")
        assert (await mux.queue("default").counts()).waiting == 1

    async def test_retries_are_counted_once_though_replies_are_lost(self, app, app_on, faulty):
        mux = app_on(faulty(chance(5, {lost: 0.4}, ["apply"])))

        @mux.task(max_attempts=4, backoff=Fixed(0))
        async def flaky(ctx: Context) -> int:
            if ctx.attempt < 4:
                raise ValueError("again")
            return ctx.attempt

        jobs = await app().enqueue_many([flaky.bind() for _ in range(10)])
        async with mux.worker():
            for job in jobs:
                record = await _finished(app().job("default", job.id))
                assert (record.attempts, len(record.history)) == (4, 3)


class TestBuriedUnheard:
    async def test_who_buries_a_job_tells_of_it_though_the_store_was_away_for_the_reply(
        self, app_on, faulty, driver, witness
    ):
        away = faulty(script({"apply": [lost] * 3}))  # as often as one sweep asks
        mux = app_on(away)

        @mux.task(name="work", max_crashes=1)
        async def work() -> None:
            raise NotImplementedError

        job = await work.enqueue()
        claimed = await driver.claim(Op("vanished", 1), ClaimAsk("default", "vanished", 1, 50))
        await driver.apply(Op("vanished", 2), [transition.start(claimed.jobs[0])])
        async with mux.worker(lease="1s"):
            record = await witness.settled(job)
        assert (record.state, record.crashes) == (State.DEAD, 1)
        assert away.struck["apply"] == 3


class LosesWhatItFound:
    """Loses the reply of the first recovery that found a job."""

    def __init__(self) -> None:
        self.done = False

    def __call__(self, verb: str) -> Fault | None:
        return self.fault if verb == "reclaim" and not self.done else None

    async def fault(self, send: Any) -> Any:
        reply = await send()
        if reply:
            self.done = True
            raise StoreUnavailable("The reply was lost on purpose.")
        return reply


class TestRecovery:
    async def test_a_lost_reply_strands_no_job(self, app, app_on, faulty, driver):
        plan = LosesWhatItFound()
        mux = app_on(faulty(plan))

        @mux.task()
        async def work() -> int:
            return 1

        job = await app().enqueue(work.name)
        handle = app().job("default", job.id)
        claimed = await driver.claim(Op("vanished", 1), ClaimAsk("default", "vanished", 1, 50))
        await driver.apply(Op("vanished", 2), [transition.start(claimed.jobs[0])])
        async with mux.worker(lease="1s"):
            assert await handle.result(timeout="20s") == 1
        assert plan.done
        (entry,) = (await handle.record()).history
        # Recovered under a new operation, it would have been leased, and lapsed, once more.
        assert entry.fence == claimed.jobs[0].fence


async def _finished(handle):
    await handle.result(timeout="60s")
    return await handle.record()


class TestOutage:
    async def test_outcomes_wait_for_the_store(self, app, app_on, faulty):
        outage = Outage()
        mux = app_on(faulty(outage))
        started, let_go = asyncio.Event(), asyncio.Event()

        @mux.task(max_attempts=1, max_crashes=0)
        async def work() -> str:
            started.set()
            await let_go.wait()
            return "kept"

        job = await app().enqueue(work.name)
        handle = app().job("default", job.id)
        async with mux.worker():
            await started.wait()
            outage.lasts = True
            let_go.set()
            await outage.met.wait()
            assert await handle.status() is State.ACTIVE
            outage.lasts = False
            assert await handle.result(timeout="60s") == "kept"

    async def test_a_worker_fetches_again_after_it(self, app, app_on, faulty):
        outage = Outage()
        mux = app_on(faulty(outage))

        @mux.task()
        async def work() -> int:
            return 1

        async with mux.worker():
            outage.lasts = True
            job = await app().enqueue(work.name)
            await outage.met.wait()
            outage.lasts = False
            assert await app().job("default", job.id).result(timeout="60s") == 1

    async def test_a_worker_stops_while_the_store_is_away(self, app_on, faulty, monkeypatch):
        monkeypatch.setattr("taskmux.worker.drain.GRACE", 0.2)
        outage = Outage()
        mux = app_on(faulty(outage))
        async with mux.worker():
            outage.lasts = True
            await outage.met.wait()
