from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from taskmux.conformance import Fault, FaultyDriver, Plan, lost, refused
from taskmux.driver import NewJob, Op
from taskmux.memory import MemoryDriver
from taskmux.model.errors import StoreDenied
from taskmux.model.job import JobRecord, State
from taskmux.worker.fetch import LONGEST_PAUSE, Fetcher
from taskmux.worker.lanes import Lanes
from taskmux.worker.options import WorkerOptions
from taskmux.worker.outage import Outage
from taskmux.worker.strikes import Strikes

OPTIONS = WorkerOptions(queues=("q",), name="w", concurrency=2, prefetch=2)


class Place:
    """What a fetcher needs of its station."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.queues = ("q",)
        self.outage = Outage("test://")
        self.strikes = Strikes(driver, self.queues)

    def read_clock(self, now: int) -> None: ...


@pytest.fixture
def pauses(monkeypatch):
    """Pauses that take no time; what they would have taken, and how often one was asked for."""
    taken: list[float] = []

    async def at_once(delay: float, result: Any = None) -> Any:
        if delay > 0:
            taken.append(delay)
        return result

    monkeypatch.setattr("taskmux.worker.fetch.asyncio.sleep", at_once)
    return taken


class Bench:
    """A fetcher on a store that fails as often as it is told to."""

    def __init__(self, verb: str, faults: list[Fault]) -> None:
        self.faults = faults
        self.store = MemoryDriver()
        self.lanes = Lanes(2, 2)
        driver = FaultyDriver(self.store, self._plan(verb))
        self.fetcher = Fetcher(cast("Any", Place(driver)), self.lanes, OPTIONS)

    def _plan(self, verb: str) -> Plan:
        return lambda called: self.faults.pop() if called == verb and self.faults else None

    async def fetch_one(self) -> str:
        """Push a job and return it as the fetcher brings it."""
        await self.store.push(Op("p", 1), [NewJob(JobRecord(queue="q", id="a", task="t"))])
        held = await asyncio.wait_for(self.lanes.take(), 20)
        assert held is not None
        return held.job.id


@contextlib.asynccontextmanager
async def fetching(verb: str, faults: list[Fault]) -> AsyncIterator[Bench]:
    bench = Bench(verb, faults)
    running = asyncio.ensure_future(bench.fetcher.run())
    yield bench
    bench.lanes.drain()
    bench.fetcher.stop()
    await running


class TestPickUp:
    async def test_what_came_begins_before_more_is_asked_for(self):
        seen: list[str] = []
        store, lanes, over = MemoryDriver(), Lanes(2, 2), asyncio.Event()
        await store.push(Op("p", 1), [NewJob(JobRecord(queue="q", id="a", task="t"))])
        fetcher = Fetcher(cast("Any", Place(FaultyDriver(store, seen.append))), lanes, OPTIONS)

        async def lane() -> None:
            await lanes.take()
            seen.append("begins")
            over.set()

        tasks = [asyncio.ensure_future(lane()), asyncio.ensure_future(fetcher.run())]
        await asyncio.wait_for(over.wait(), 20)
        lanes.drain()
        fetcher.stop()
        await asyncio.gather(*tasks)
        assert seen[:3] == ["settings", "claim", "begins"]  # strikes are known before all


class TestAnAbsentStore:
    async def test_a_long_outage_does_not_make_a_worker_deaf(self, pauses):
        # Doubling a pause 1,100 times leaves the range of a float.
        async with fetching("claim", [refused] * 1100) as bench:
            assert await bench.fetch_one() == "a"
        assert len(pauses) == 1100
        assert max(pauses) <= LONGEST_PAUSE

    async def test_a_claim_whose_reply_was_lost_is_sent_again_under_its_op(self, pauses):
        # The claim was executed: under any other op the job would be stranded.
        async with fetching("claim", [lost] * 3) as bench:
            assert await bench.fetch_one() == "a"
            assert (await bench.store.counts("q"))[State.ACTIVE] == 1

    @pytest.mark.parametrize("error", [StoreDenied("no"), RuntimeError("a driver's bug")])
    @pytest.mark.parametrize("verb", ["claim", "wait"])
    async def test_any_error_is_survived(self, pauses, error, verb):
        failed = asyncio.Event()

        async def fails(send: object) -> None:
            failed.set()
            raise error

        async with fetching(verb, [fails] * 3) as bench:
            await asyncio.wait_for(failed.wait(), 20)
            assert await bench.fetch_one() == "a"
