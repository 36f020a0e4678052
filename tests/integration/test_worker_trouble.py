"""A store in trouble: frozen, full or closed to its worker.

Nothing runs twice that a worker still holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from typing import Any

import pytest
from taskmux import (
    JobHandle,
    StoreDenied,
    StoreError,
    StoreFull,
    Taskmux,
)
from taskmux.conformance import FaultyDriver
from taskmux.plugins.loading import driver_for, plugin_manager
from tests import servers

from taskmux_redis import RedisDriver

FROZEN = 3.0
"""Seconds: three times the lease, so that every lease lapses meanwhile."""


class TestAFrozenStore:
    @pytest.fixture
    def server(self):
        with servers.running() as server:
            yield server

    @pytest.mark.parametrize("workers", [1, 2])
    async def test_jobs_that_are_held_are_renewed_and_not_stolen(self, server, workers):
        runs: Counter[int] = Counter()
        begun, let_go = asyncio.Event(), asyncio.Event()
        apps = [Taskmux(server.url) for _ in range(workers)]
        for mux in apps:

            @mux.task(name="work", max_crashes=9)
            async def work(number: int) -> int:
                runs[number] += 1
                if len(runs) == 30:
                    begun.set()
                await let_go.wait()
                return number

        async with contextlib.AsyncExitStack() as stack:
            for mux in apps:
                await stack.enter_async_context(mux)
                lanes = 30 // workers
                await stack.enter_async_context(mux.worker(concurrency=lanes, lease="1s"))
            jobs = [await mux.enqueue("work", {"number": number}) for number in range(30)]
            await asyncio.wait_for(begun.wait(), 20)
            server.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(FROZEN)  # what passes is the time of leases
            server.process.send_signal(signal.SIGCONT)
            await self.renewed(server.url, jobs)
            let_go.set()
            results = [await job.result(timeout="30s") for job in jobs]
            records = [await job.record() for job in jobs]
        assert results == list(range(30))
        assert set(runs.values()) == {1}, runs
        assert {record.crashes for record in records} == {0}

    async def renewed(self, url, jobs):
        """Wait until every lease has been renewed since the store went on."""
        driver = RedisDriver(url)
        await driver.open()
        async with asyncio.timeout(20):
            first = await driver.get([job.ref for job in jobs])
            while True:
                now = await driver.get([job.ref for job in jobs])
                pairs = zip(first, now, strict=True)
                if all(b.lease_until > a.lease_until for a, b in pairs):
                    break
                await asyncio.sleep(0.05)
        await driver.close()


class Refusing:
    """A plan by which the store answers everything with an error while it lasts."""

    def __init__(self, kind: type[StoreError]) -> None:
        self.kind = kind
        self.lasts = False
        self.tries = 0
        self.tried = asyncio.Event()

    def __call__(self, verb: str):
        return self.fault if self.lasts and verb != "open" else None

    async def fault(self, _send):
        self.tries += 1
        if self.tries >= 10:
            self.tried.set()
        raise self.kind("as the test wants it")


class Held:
    """Twenty jobs that all run, until they are let go."""

    def __init__(self, mux: Taskmux) -> None:
        self.runs: Counter[int] = Counter()
        self.begun, self.let_go = asyncio.Event(), asyncio.Event()

        @mux.task(name="work", max_crashes=9)
        async def work(number: int) -> int:
            self.runs[number] += 1
            if len(self.runs) == 20:
                self.begun.set()
            await self.let_go.wait()
            return number

    async def enqueue(self, mux: Taskmux) -> list[JobHandle[Any]]:
        return [await mux.enqueue("work", {"number": number}) for number in range(20)]

    async def ran_once(self, jobs: list[JobHandle[Any]]) -> None:
        assert [await job.result(timeout="30s") for job in jobs] == list(range(20))
        assert set(self.runs.values()) == {1}, self.runs
        assert {(await job.record()).crashes for job in jobs} == {0}


class TestAStoreThatRefuses:
    @pytest.mark.parametrize("kind", [StoreFull, StoreDenied])
    async def test_outcomes_are_kept_until_it_takes_them(self, app, app_on, url, kind, caplog):
        plan = Refusing(kind)
        mux = app_on(FaultyDriver(driver_for(url, plugin_manager()), plan))
        held, healthy = Held(mux), app()
        async with mux.worker(concurrency=20, lease="20s"):
            jobs = await held.enqueue(healthy)
            await asyncio.wait_for(held.begun.wait(), 20)
            plan.lasts = True
            held.let_go.set()
            await asyncio.wait_for(plan.tried.wait(), 20)
            plan.lasts = False
            await held.ran_once(jobs)
        warned = [one for one in caplog.messages if "what runs goes on" in one]
        assert len(warned) == 1, warned

    @pytest.mark.parametrize("trouble", ["no rights", "read-only"])
    async def test_a_real_server_that_refuses_for_a_while(self, trouble, caplog):
        with servers.running() as server, server.client() as admin:
            admin.execute_command("ACL SETUSER worker on >pw ~* &* +@all")
            url = server.url.replace("redis://", "redis://worker:pw@")
            mux = Taskmux(url)
            held = Held(mux)
            async with mux, mux.worker(concurrency=20, lease="20s"):
                jobs = await held.enqueue(mux)
                await asyncio.wait_for(held.begun.wait(), 20)
                self.refuse(admin, trouble)
                held.let_go.set()
                async with asyncio.timeout(20):
                    while not any("what runs goes on" in one for one in caplog.messages):
                        await asyncio.sleep(0.05)
                self.mend(admin, trouble)
                await held.ran_once(jobs)

    def refuse(self, admin, trouble):
        if trouble == "no rights":
            admin.execute_command("ACL SETUSER worker -@all")
        else:
            admin.execute_command("REPLICAOF 127.0.0.1 1")

    def mend(self, admin, trouble):
        if trouble == "no rights":
            admin.execute_command("ACL SETUSER worker +@all")
        else:
            admin.execute_command("REPLICAOF NO ONE")
