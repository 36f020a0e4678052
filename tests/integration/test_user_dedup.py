"""Deduplication as users do it. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from taskmux import Dedup, DuplicateJob, JobCancelled, JobHandle, State, Taskmux
from taskmux.api.superseding import supersede
from taskmux.conformance import FaultyDriver, lost, refused, script
from taskmux.driver import PruneAsk
from taskmux.model import job as model

LATEST = Dedup("k", latest=True)
DEBOUNCE = Dedup("k", ttl="10m", replace=True, extend=True)


class Bench:
    """A task whose runs begin and end when a test says so."""

    def __init__(self, mux: Taskmux) -> None:
        self.mux = mux
        self.began: asyncio.Queue[str] = asyncio.Queue()
        self.goes_on = asyncio.Event()
        self.ran: list[str] = []

        @mux.task(name="work", queue="q")
        async def work(name: str) -> str:
            self.ran.append(name)
            self.began.put_nowait(name)
            await self.goes_on.wait()
            return name

        self.task = work

    async def enqueue(self, name: str, **options: Any) -> JobHandle[str]:
        return await self.task.options(**options).enqueue(name)

    async def running(self) -> str:
        return await asyncio.wait_for(self.began.get(), 20)


@pytest.fixture
def bench(mux: Taskmux) -> Bench:
    return Bench(mux)


class TestThrottle:
    async def test_a_key_is_taken_for_a_time_though_its_job_finished(self, bench):
        bench.goes_on.set()
        async with bench.mux.worker():
            first = await bench.enqueue("a", dedup=Dedup("k", ttl="10m"))
            assert await first.result(timeout="20s") == "a"
        second = await bench.enqueue("b", dedup=Dedup("k", ttl="10m"))
        assert (second.id, second.duplicate, second.replaced) == (first.id, True, False)
        assert await second.result() == "a"

    async def test_removing_the_job_frees_it(self, bench):
        first = await bench.enqueue("a", dedup=Dedup("k", ttl="10m"))
        await first.remove()
        assert not (await bench.enqueue("b", dedup=Dedup("k", ttl="10m"))).duplicate

    async def test_its_time_ends(self, bench):
        first = await bench.enqueue("a", dedup=Dedup("k", ttl=0.05))
        while (second := await bench.enqueue("b", dedup=Dedup("k", ttl="10m"))).duplicate:
            assert second.id == first.id
        assert (await second.record()).created_at - (await first.record()).created_at >= 49


class TestDebounce:
    async def test_the_newest_content_runs_once_when_it_has_been_quiet(self, bench):
        first = await bench.enqueue("a", dedup=DEBOUNCE, delay="1h")
        before = await first.record()
        for name in "bcd":
            job = await bench.enqueue(name, dedup=DEBOUNCE, delay="2h", priority="high")
            assert (job.id, job.replaced, job.duplicate) == (first.id, True, False)
        record = await first.record()
        assert (record.arguments, record.priority) == ({"name": "d"}, 50)
        assert record.run_at - before.run_at >= 3_600_000
        await first.promote()
        bench.goes_on.set()
        async with bench.mux.worker():
            assert await first.result(timeout="20s") == "d"
        assert bench.ran == ["d"]

    async def test_one_that_runs_is_left_alone(self, bench):
        async with bench.mux.worker():
            first = await bench.enqueue("a", dedup=DEBOUNCE)
            await bench.running()
            second = await bench.enqueue("b", dedup=DEBOUNCE)
            assert (second.id, second.duplicate) == (first.id, True)
            bench.goes_on.set()
            assert await second.result(timeout="20s") == "a"


class TestLatest:
    async def test_one_runs_and_the_newest_waits(self, bench):
        async with bench.mux.worker():
            first = await bench.enqueue("a", dedup=LATEST)
            await bench.running()
            second = await bench.enqueue("b", dedup=LATEST)
            third = await bench.enqueue("c", dedup=LATEST)
            assert (second.duplicate, second.replaced) == (False, False)
            assert (third.id, third.replaced) == (second.id, True)
            assert await second.status() is State.BLOCKED
            assert "same deduplication key" in str(await second.explain())
            owner = await bench.mux.queue("q").dedup_owner("k")
            assert owner is not None
            assert owner.id == first.id
            bench.goes_on.set()
            assert await first.result(timeout="20s") == "a"
            assert await second.result(timeout="20s") == "c"
        assert bench.ran == ["a", "c"]
        assert await bench.mux.queue("q").dedup_owner("k") is None

    async def test_it_goes_on_whatever_ends_the_one_before(self, bench, driver):
        async with bench.mux.worker():
            first = await bench.enqueue("a", dedup=LATEST)
            await bench.running()
            second = await bench.enqueue("b", dedup=LATEST)
            await first.cancel()
            with pytest.raises(JobCancelled):
                await first.result(timeout="20s")
            await driver.prune(PruneAsk("q"))
            bench.goes_on.set()
            assert await second.result(timeout="20s") == "b"


class TestSupersede:
    async def test_the_newest_runs_instead_of_the_running_one(self, bench):
        async with bench.mux.worker():
            first = await bench.enqueue("a", dedup="k", supersede=True)
            await bench.running()
            second = await bench.enqueue("b", dedup="k", supersede=True)
            with pytest.raises(JobCancelled, match=f"superseded by job {second.id}"):
                await first.result(timeout="20s")
            assert await bench.running() == "b"
            bench.goes_on.set()
            assert await second.result(timeout="20s") == "b"

    async def test_one_that_waits_gets_the_newest_content(self, bench):
        first = await bench.enqueue("a", dedup="k", supersede=True)
        second = await bench.enqueue("b", dedup="k", supersede=True)
        assert (second.id, second.replaced) == (first.id, True)
        assert (await first.record()).state is State.WAITING

    async def test_many_at_once(self, bench):
        async with bench.mux.worker():
            first = await bench.enqueue("a", dedup="k", supersede=True)
            await bench.running()
            newer = bench.task.options(dedup="k", supersede=True)
            second, third = await bench.mux.enqueue_many([newer.bind("b"), newer.bind("c")])
            assert (third.id, third.replaced) == (second.id, True)
            with pytest.raises(JobCancelled):
                await first.result(timeout="20s")
            bench.goes_on.set()
            assert await second.result(timeout="20s") == "c"
        assert bench.ran == ["a", "c"]

    async def test_lost_replies_change_nothing(self, bench, stored, app_on):
        verbs = ("push", "dedup_owner", "apply")
        driver = FaultyDriver(stored.driver(), script({verb: [lost, refused] for verb in verbs}))
        behind_faults = Bench(app_on(driver))
        async with bench.mux.worker():
            first = await bench.enqueue("a", dedup="k", supersede=True)
            await bench.running()
            second = await behind_faults.enqueue("b", dedup="k", supersede=True)
            with pytest.raises(JobCancelled):
                await first.result(timeout="20s")
            bench.goes_on.set()
            assert await second.result(timeout="20s") == "b"
        assert dict(driver.struck) == dict.fromkeys(verbs, 2)
        assert bench.ran == ["a", "b"]

    async def test_a_newer_job_is_never_cancelled(self, bench):
        """As when the reply to the first was so late that another one runs by now."""
        bench.goes_on.set()
        async with bench.mux.worker():
            first = await bench.enqueue("a", dedup="k", supersede=True)
            await first.result(timeout="20s")
            bench.goes_on.clear()
            await bench.running()
            second = await bench.enqueue("b", dedup="k", supersede=True)
            await bench.running()
            connection = await first._connect("q")
            await supersede(connection, first.ref, model.Dedup("k"))
            assert not (await second.record()).cancel_requested
            bench.goes_on.set()
            assert await second.result(timeout="20s") == "b"


class TestAnswers:
    async def test_a_duplicate_may_be_an_error(self, bench):
        first = await bench.enqueue("a", dedup="k", on_duplicate="raise")
        with pytest.raises(DuplicateJob, match="deduplication key") as told:
            await bench.enqueue("b", dedup="k", on_duplicate="raise")
        assert told.value.job_id == first.id
        assert first.id in str(told.value)
        await bench.enqueue("c", id="c")
        with pytest.raises(DuplicateJob, match="'c'"):
            await bench.enqueue("c", id="c", on_duplicate="raise")

    async def test_of_many_the_others_are_stored(self, bench):
        task = bench.task.options(dedup="k", on_duplicate="raise")
        with pytest.raises(DuplicateJob, match="1 of 3 jobs were not stored"):
            await bench.mux.enqueue_many([task.bind("a"), task.bind("b"), bench.task.bind("c")])
        assert (await bench.mux.queue("q").counts()).waiting == 2

    async def test_an_owner_is_found_and_its_key_released(self, bench):
        queue = bench.mux.queue("q")
        assert await queue.dedup_owner("k") is None
        assert not await queue.release_dedup("k")
        job = await bench.enqueue("a", dedup="k")
        owner = await queue.dedup_owner("k")
        assert owner is not None
        assert owner.ref == job.ref
        assert await queue.release_dedup("k")
        assert await job.status() is State.WAITING
        assert not (await bench.enqueue("b", dedup="k")).duplicate

    async def test_without_a_loop(self, bench):
        def asked() -> list[object]:
            queue = bench.mux.queue("q").blocking
            job = bench.task.options(dedup="k").blocking.enqueue("a")
            owner = queue.dedup_owner("k")
            assert owner is not None
            return [owner.id == job.id, queue.release_dedup("k"), queue.dedup_owner("k")]

        assert await asyncio.to_thread(asked) == [True, True, None]
        await asyncio.to_thread(bench.mux.close_blocking)


class TestRaces:
    async def test_many_producers_make_one_job_of_each_key(self, app):
        apps = [Bench(app()) for _ in range(4)]

        async def produce(at: int) -> list[JobHandle[str]]:
            bench = apps[at % 4]
            keys = [f"key-{(at * 7 + n) % 20}" for n in range(20)]
            calls = [bench.task.options(dedup=key).bind(key) for key in keys]
            jobs = await bench.mux.enqueue_many(calls)
            return [job for _, job in sorted(zip(keys, jobs, strict=True), key=lambda one: one[0])]

        answers = await asyncio.gather(*map(produce, range(64)))
        for of_key in zip(*answers, strict=True):
            assert len({job.id for job in of_key}) == 1
            assert Counter(job.duplicate for job in of_key) == Counter({True: 63, False: 1})
        assert (await apps[0].mux.queue("q").counts()).waiting == 20
