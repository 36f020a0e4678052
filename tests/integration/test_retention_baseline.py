"""After many jobs and their retention a store is as small as before, on each backend.

What is measured is what grows: records, index entries, keys, rows, documents. A SQLite file keeps
its size and uses its pages again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo import MongoClient
from redis.asyncio import Redis
from taskmux.api.batch import Ops
from taskmux.driver import ClaimAsk, Driver, JobRecord, Keep, NewJob, PruneAsk, State, transition
from taskmux.memory import MemoryDriver
from taskmux.memory.store import epoch_ms
from tests.scale import scaled

from taskmux_mongodb.clock import Clock
from taskmux_sqlite import SQLiteDriver

LATER = 660_000
"""Milliseconds: longer than any store remembers operations."""
BATCH = 500

Sizes = dict[str, int]


class Cycle:
    """Brings jobs to their end, and removes what is past its retention."""

    def __init__(self, driver: Driver, *, memory: int) -> None:
        self.driver = driver
        self.memory = memory
        self.number = 0
        self.ops = {verb: Ops() for verb in ("push", "claim", "apply")}

    async def run(self, jobs: int) -> None:
        """Every other job is kept by its age, the others by a count of none."""
        kept = (Keep(0), Keep(86_400_000, 0))
        while jobs > 0:
            jobs -= BATCH
            first, self.number = self.number, self.number + BATCH
            new = [
                NewJob(
                    JobRecord(queue="q", id=f"job-{n}", task="t", payload=b'{"n":1}', tags=("a",))
                )
                for n in range(first, self.number)
            ]
            await self.driver.push(self.ops["push"].next(), new)
            ask = ClaimAsk("q", "w", BATCH, 60_000)
            claimed = (await self.driver.claim(self.ops["claim"].next(), ask)).jobs
            assert len(claimed) == BATCH
            ends = [
                transition.Transition(
                    ref=job.ref,
                    guard=transition.Guard(fence=job.fence),
                    to=State.COMPLETED if at % 3 else State.DEAD,
                    changes=transition.Changes(attempts=1, result=b'"' + b"x" * 200 + b'"'),
                    retention=kept[at % 2],
                )
                for at, job in enumerate(claimed)
            ]
            await self.driver.apply(self.ops["apply"].next(), ends)

    async def prune(self) -> int:
        """Remove what is past its retention, as a worker does, and return how many that were."""
        ask = PruneAsk("q", 1000, memory=self.memory, spare=0)
        gone, idle = 0, 0
        while idle < 3:
            went = await self.driver.prune(ask)
            gone, idle = gone + went, 0 if went else idle + 1
        return gone


Measure = Callable[[], Awaitable[Sizes]]


def of_memory(driver: MemoryDriver) -> Sizes:
    queue = driver.store.queues["q"]
    heaps = sum(map(len, queue.lines._heaps.values()))
    return {
        "jobs": len(queue.jobs),
        "timetable": len(queue.timetable),
        "leases": len(queue.leases),
        "heaps": heaps,
        "operations": len(driver.store.memory),
    }


def of_sqlite(file: str) -> Sizes:
    with closing(sqlite3.connect(file)) as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        tables = [name for (name,) in connection.execute(query)]
        return {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for name in tables
            if name != "events"  # of which as many stay as the queue keeps
        }


def pages(file: str) -> int:
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute("PRAGMA page_count").fetchone()[0])


async def of_redis(url: str) -> Sizes:
    parts = urlsplit(url)
    prefix = parts.query.partition("prefix=")[2]
    sizes: Sizes = {}
    size_of = {"hash": "HLEN", "zset": "ZCARD", "set": "SCARD", "list": "LLEN", "string": "STRLEN"}
    async with Redis.from_url(parts._replace(query="").geturl()) as client:
        async for key in client.scan_iter(f"*{prefix}*", count=1000):
            kind = (await client.type(key)).decode()
            if kind == "stream":
                continue  # of events, of which as many stay as the queue keeps
            if kind != "string":
                sizes[key.decode()] = int(await client.execute_command(size_of[kind], key))
            else:
                sizes[key.decode()] = 1
    return sizes


def of_mongodb(url: str) -> Sizes:
    with MongoClient(url) as client:
        database = client.get_default_database()
        names = [one for one in database.list_collection_names() if one != "bell"]  # capped
        return {name: database[name].count_documents({}) for name in names}


@pytest.fixture
async def place(
    stored: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Any:
    """Return a cycle on the store, what measures it, and what lets its memory pass."""
    url, ahead, driver = stored.url, [0], stored.driver()
    memory, measure = 600_000, None
    match urlsplit(url).scheme:
        case "memory":
            driver.store.clock = lambda: epoch_ms() + ahead[0]

            async def measure() -> Sizes:
                return of_memory(driver)
        case "sqlite":
            driver = SQLiteDriver(url, clock=lambda: epoch_ms() + ahead[0])

            async def measure() -> Sizes:
                return of_sqlite(url.removeprefix("sqlite:///"))
        case "redis":
            memory = 0  # a server's clock goes on by itself

            async def measure() -> Sizes:
                return await of_redis(url)
        case _:
            earliest = Clock.earliest
            monkeypatch.setattr(Clock, "earliest", lambda self: earliest(self) + ahead[0])

            async def measure() -> Sizes:
                return of_mongodb(url)

    await driver.open()
    yield Cycle(driver, memory=memory), measure, lambda ms: ahead.__setitem__(0, ms)
    await driver.close()


@pytest.mark.parametrize(
    "jobs", [20_000, pytest.param(200_000, marks=[pytest.mark.chaos, pytest.mark.timeout(900)])]
)
async def test_a_store_is_as_small_as_before(place, stored, jobs):
    cycle, measure, go_on = place
    jobs = scaled(jobs, 20_000)

    async def round_of(number: int) -> int:
        go_on(0)
        await cycle.run(number)
        full = sum((await measure()).values())
        go_on(LATER)
        assert await cycle.prune() == number
        return full

    await round_of(BATCH)
    before = await measure()
    assert await round_of(jobs) >= jobs
    assert await measure() == before
    assert set((await cycle.driver.counts("q")).values()) == {0}
    if urlsplit(stored.url).scheme == "sqlite":
        file = stored.url.removeprefix("sqlite:///")
        size = pages(file)
        await round_of(jobs)
        assert pages(file) <= size * 1.02  # its pages are used again
