"""A store in trouble: frozen, full or closed to its worker.

Nothing runs twice that a worker still holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
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
from tests import mongo_servers, servers

Freezing = tuple[str, Callable[[], AbstractContextManager[None]]]
"""A store's URL, and what freezes it for the length of a block."""

COUNT = 20
FROZEN = 3.0
"""Seconds: three times the lease, so that every lease lapses meanwhile."""


@contextlib.contextmanager
def redis_that_freezes(_folder: Path) -> Iterator[Freezing]:
    with servers.running() as server:
        yield server.url, lambda: stopped(server.process)


@contextlib.contextmanager
def mongodb_that_freezes(_folder: Path) -> Iterator[Freezing]:
    with mongo_servers.running() as server:
        yield server.url, lambda: stopped(server.process)


@contextlib.contextmanager
def sqlite_that_freezes(folder: Path) -> Iterator[Freezing]:
    """A file that another program keeps locked."""
    yield f"sqlite:///{folder}/jobs.db?busy_timeout=500", lambda: locked(folder / "jobs.db")


@contextlib.contextmanager
def stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    other = sqlite3.connect(file, isolation_level=None, timeout=20)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.close()


class TestAFrozenStore:
    """For longer than the lease, while handlers run: async ones, and sync ones in threads."""

    @pytest.fixture(params=[redis_that_freezes, mongodb_that_freezes, sqlite_that_freezes])
    def store(self, request, tmp_path):
        with request.param(tmp_path) as store:
            yield store

    @pytest.mark.parametrize("workers", [1, 2])
    async def test_jobs_that_are_held_are_renewed_and_not_stolen(self, store, workers):
        url, frozen = store
        runs: Counter[int] = Counter()
        begun, let_go, let_threads_go = asyncio.Event(), asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()
        apps = [Taskmux(url) for _ in range(workers)]

        def begin(number: int) -> None:
            runs[number] += 1
            if len(runs) == COUNT:
                loop.call_soon_threadsafe(begun.set)

        for mux in apps:

            @mux.task(name="work", max_crashes=9)
            async def work(number: int) -> int:
                begin(number)
                await let_go.wait()
                return number

            @mux.task(name="block", max_crashes=9)
            def block(number: int) -> int:
                begin(number)
                let_threads_go.wait(60)
                return number

        async with contextlib.AsyncExitStack() as stack:
            for mux in apps:
                await stack.enter_async_context(mux)
                lanes = COUNT // workers + 2  # some are free, and would take what is given out
                await stack.enter_async_context(mux.worker(concurrency=lanes, lease="1s"))
            stack.callback(let_threads_go.set)  # whatever happens, the workers can stop
            stack.callback(let_go.set)
            names = ["work", "block"] * (COUNT // 2)
            jobs = [await mux.enqueue(name, {"number": at}) for at, name in enumerate(names)]
            await asyncio.wait_for(begun.wait(), 20)
            with frozen():
                await asyncio.sleep(FROZEN)  # what passes is the time of leases
            await self.renewed(url, jobs)
            let_go.set()
            let_threads_go.set()
            results = [await job.result(timeout="30s") for job in jobs]
            records = [await job.record() for job in jobs]
        assert results == list(range(COUNT))
        assert set(runs.values()) == {1}, runs
        assert {record.crashes for record in records} == {0}

    async def renewed(self, url, jobs):
        """Wait until every lease has been renewed since the store went on."""
        driver = driver_for(url, plugin_manager())
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
