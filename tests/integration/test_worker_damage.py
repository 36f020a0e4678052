"""A damaged queue, or record, keeps nobody else waiting, and what was finished is not lost."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest
from taskmux import CorruptRecord, State, StoreIncompatible, Taskmux
from taskmux.conformance import FaultyDriver
from taskmux.driver import ClaimAsk, Op
from taskmux.plugins.loading import driver_for, plugin_manager
from tests import servers

COUNT = 12
KEPT = "are kept and stored once it is mended"


class Work:
    """Jobs of two queues that all run, and end when the test lets them."""

    def __init__(self, mux: Taskmux) -> None:
        self.runs: Counter[tuple[str, int]] = Counter()
        self.begun, self.let_go = asyncio.Event(), asyncio.Event()

        @mux.task(name="work", max_crashes=9)
        async def work(queue: str, number: int) -> int:
            self.runs[queue, number] += 1
            if len(self.runs) == 2 * COUNT:
                self.begun.set()
            await self.let_go.wait()
            return number

    async def enqueue(self, mux, queue):
        """Return the queue's jobs."""
        arguments = [{"queue": queue, "number": number} for number in range(COUNT)]
        return [await mux.enqueue("work", given, queue=queue) for given in arguments]

    async def done_once(self, jobs):
        """Check that each job completes, in its first run."""
        assert [await job.result(timeout="30s") for job in jobs] == list(range(COUNT))
        records = [await job.record() for job in jobs]
        assert {(one.attempts, one.crashes) for one in records} == {(1, 0)}
        assert {self.runs[one.queue, number] for number, one in enumerate(records)} == {1}


async def told(caplog, text):
    """Wait until the log says so; return the lines that do."""
    async with asyncio.timeout(20):
        while not (lines := [one for one in caplog.messages if text in one]):
            await asyncio.sleep(0.02)
    return lines


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    for name in ("FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(f"taskmux.worker.mending.{name}", 0.1, raising=False)


class TestARealServer:
    @pytest.fixture
    def server(self):
        with servers.running() as server:
            yield server

    @pytest.mark.parametrize("key", ["ops", "live", "leases"])
    async def test_outcomes_wait_until_a_key_is_right_again(self, server, key, caplog):
        mux = Taskmux(server.url)
        work = Work(mux)
        damaged, aside = f"{{tm:bad}}:{key}", "{tm:bad}:aside"
        async with mux, mux.worker(["bad", "good"], concurrency=2 * COUNT, lease="2s"):
            bad, good = [await work.enqueue(mux, queue) for queue in ("bad", "good")]
            await asyncio.wait_for(work.begun.wait(), 20)
            with server.client() as admin:
                admin.rename(damaged, aside)
                admin.set(damaged, "foreign")
                work.let_go.set()
                await work.done_once(good)
                warned = await told(caplog, KEPT)
                await self.many_tries(admin)
                admin.rename(aside, damaged)
            await work.done_once(bad)
        assert len(warned) == 1
        assert "queue bad" in warned[0]
        assert damaged in warned[0]
        assert not any("queue good" in one for one in caplog.messages)

    async def many_tries(self, admin):
        """Wait until more than three tries have met the damage."""
        admin.config_resetstat()
        async with asyncio.timeout(20):
            while admin.info("errorstats").get("errorstat_WRONGTYPE", {"count": 0})["count"] < 12:
                await asyncio.sleep(0.02)


class Damaging(FaultyDriver):
    """A store that takes no transition of some jobs."""

    def __init__(self, wrapped, plan) -> None:
        super().__init__(wrapped, lambda _: None)
        self.damaging = plan

    async def apply(self, op, transitions):
        self.damaging.check(transitions)
        return await super().apply(op, transitions)

    def fork(self):
        return Damaging(self.wrapped.fork(), self.damaging)


class Plan:
    """What a damaging store does not take, and for how long."""

    def __init__(self, kind, is_bad) -> None:
        self.kind = kind
        self.is_bad = is_bad
        self.lasts = False
        self.tries = 0
        self.tried = asyncio.Event()

    def check(self, transitions):
        if self.lasts and any(self.is_bad(one) for one in transitions):
            self.tries += 1
            if self.tries > 6 * COUNT:
                self.tried.set()
            raise self.kind("damaged, as the test wants it")


class TestAnyStore:
    @pytest.mark.parametrize("kind", [CorruptRecord, StoreIncompatible])
    async def test_a_damaged_queues_outcomes_wait_and_other_queues_do_not(
        self, app, app_on, url, kind, caplog
    ):
        plan = Plan(kind, lambda one: one.ref.queue == "bad")
        mux, healthy = app_on(Damaging(driver_for(url, plugin_manager()), plan)), app()
        work = Work(mux)
        async with mux.worker(["bad", "good"], concurrency=2 * COUNT, lease="20s"):
            bad, good = [await work.enqueue(healthy, queue) for queue in ("bad", "good")]
            await asyncio.wait_for(work.begun.wait(), 20)
            plan.lasts = True
            work.let_go.set()
            await work.done_once(good)
            await asyncio.wait_for(plan.tried.wait(), 20)
            assert {await job.status() for job in bad} == {State.ACTIVE}
            plan.lasts = False
            await work.done_once(bad)
        assert len(await told(caplog, KEPT)) == 1

    async def test_one_damaged_record_waits_alone(self, app, app_on, url):
        plan = Plan(CorruptRecord, lambda one: one.ref == culprit.ref)
        mux, healthy = app_on(Damaging(driver_for(url, plugin_manager()), plan)), app()
        work = Work(mux)
        async with mux.worker(["bad", "good"], concurrency=2 * COUNT, lease="20s"):
            bad, good = [await work.enqueue(healthy, queue) for queue in ("bad", "good")]
            culprit = bad[5]
            await asyncio.wait_for(work.begun.wait(), 20)
            plan.lasts = True
            work.let_go.set()
            await work.done_once(good)
            for job in bad[:5] + bad[6:]:
                await job.result(timeout="20s")
            assert await culprit.status() is State.ACTIVE
            plan.lasts = False
            await work.done_once(bad)

    async def test_a_worker_that_stops_says_what_it_could_not_store(
        self, app, app_on, url, caplog, monkeypatch
    ):
        monkeypatch.setattr("taskmux.worker.drain.GRACE", 0.2)
        caplog.set_level(logging.ERROR, "taskmux.worker")
        plan = Plan(CorruptRecord, lambda one: one.ref.queue == "bad")
        mux, healthy = app_on(Damaging(driver_for(url, plugin_manager()), plan)), app()
        work = Work(mux)
        async with mux.worker(["bad", "good"], concurrency=2 * COUNT, lease="20s"):
            bad, good = [await work.enqueue(healthy, queue) for queue in ("bad", "good")]
            await asyncio.wait_for(work.begun.wait(), 20)
            plan.lasts = True
            work.let_go.set()
            await work.done_once(good)
        lapsing = [one for one in caplog.messages if "could not be stored" in one]
        assert len([one for one in lapsing if "job bad/" in one]) == len(bad), lapsing


class Damaged(FaultyDriver):
    """A store in which one queue cannot be served until it is mended."""

    mended = False
    pruned: asyncio.Event

    def check(self, *queues: str) -> None:
        if "bad" in queues and not type(self).mended:
            raise CorruptRecord("queue 'bad' has settings that cannot be read")

    async def claim(self, op, ask):
        self.check(ask.queue)
        return await super().claim(op, ask)

    async def reclaim(self, op, ask):
        self.check(ask.queue)
        return await super().reclaim(op, ask)

    async def prune(self, ask):
        self.check(ask.queue)
        reply = await super().prune(ask)
        type(self).pruned.set()
        return reply

    async def settings(self, queue):
        self.check(queue)
        return await super().settings(queue)

    async def get(self, refs):
        self.check(*(ref.queue for ref in refs))
        return await super().get(refs)

    async def extend(self, leases, lease):
        self.check(*(held.ref.queue for held in leases))
        return await super().extend(leases, lease)


class TestOtherQueuesGoOn:
    """The damaged queue comes first wherever queues are served in turn."""

    @pytest.fixture
    def kind(self):
        return type("DamagedForNow", (Damaged,), {"pruned": asyncio.Event()})

    @pytest.fixture
    def mux(self, app_on, url, kind):
        mux = app_on(kind(driver_for(url, plugin_manager()), lambda _: None))

        @mux.task(name="work", queue="good", own_line=True)
        async def work() -> str:
            return "done"

        return mux

    async def test_jobs_are_fetched_and_those_of_the_damaged_one_when_it_is_mended(
        self, mux, app, kind, caplog
    ):
        caplog.set_level(logging.INFO, "taskmux")
        healthy = app()
        bad = await healthy.enqueue("work", queue="bad")
        async with mux.worker(["bad", "good"], lease="1s"):
            for _ in range(3):
                good = await healthy.enqueue("work", queue="good")
                assert await good.result(timeout="20s") == "done"
            assert await bad.status() is State.WAITING
            errors = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
            assert sum("queue bad is damaged: fetching" in text for text in errors) == 1
            assert not any("queue good" in text for text in errors)
            kind.mended = True
            assert await bad.result(timeout="30s") == "done"
        assert any("queue bad: fetching goes on" in text for text in caplog.messages)

    async def test_what_lapsed_is_recovered(self, mux, app, driver):
        job = await app().enqueue("work", queue="good")
        assert (await driver.claim(Op("v", 1), ClaimAsk("good", "vanished", 1, 50))).jobs
        async with mux.worker(["bad", "good"], lease="1s"):
            assert await job.result(timeout="20s") == "done"

    async def test_what_is_past_its_retention_is_pruned(self, mux, kind):
        async with mux.worker(["bad", "good"], lease="1s"):
            await asyncio.wait_for(kind.pruned.wait(), 20)

    async def test_leases_are_renewed(self, mux, app, driver, kind, caplog):
        kind.mended = True
        begun, let_go = asyncio.Event(), asyncio.Event()
        held = set()

        @mux.task(name="hold")
        async def hold(queue: str) -> str:
            held.add(queue)
            if len(held) == 2:
                begun.set()
            await let_go.wait()
            return queue

        async with mux.worker(["bad", "good"], lease="1s"):
            jobs = [
                await app().enqueue("hold", {"queue": queue}, queue=queue)
                for queue in ("bad", "good")
            ]
            await asyncio.wait_for(begun.wait(), 20)
            kind.mended = False
            await told(caplog, "queue bad is damaged: renewing leases")
            refs = [job.ref for job in jobs]
            first = await driver.get(refs)
            async with asyncio.timeout(20):
                while (await driver.get(refs))[1].lease_until <= first[0].lease_until + 1000:
                    await asyncio.sleep(0.02)
            kind.mended = True
            let_go.set()
            assert [await job.result(timeout="20s") for job in jobs] == ["bad", "good"]
            assert {(await job.record()).crashes for job in jobs} == {0}


class TestTheStart:
    async def test_a_worker_starts_beside_a_queue_that_is_damaged(self):
        with servers.running() as server, server.client() as admin:
            mux = Taskmux(server.url)

            @mux.task(name="work", queue="good", own_line=True)
            async def work() -> str:
                return "done"

            for key in ("settings", "leases", "live", "ready", "gate", "marker", "ops"):
                admin.set(f"{{tm:bad}}:{key}", "foreign")
            async with mux, mux.worker(["bad", "good"], lease="1s"):
                good = await work.enqueue()
                assert await good.result(timeout="20s") == "done"
