"""A damaged queue, or record, keeps nobody else waiting, and what was finished is not lost."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest
from taskmux import CorruptRecord, State, StoreIncompatible, Taskmux
from taskmux.conformance import FaultyDriver
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
