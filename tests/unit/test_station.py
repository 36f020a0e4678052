from __future__ import annotations

import pytest
from taskmux.driver import ClaimAsk, NewJob, Op, ReclaimAsk
from taskmux.memory import MemoryDriver
from taskmux.memory.store import MemoryStore
from taskmux.model.job import JobRecord, Policy, Ref, State
from taskmux.plugins.instrument import Hooks
from taskmux.plugins.loading import plugin_manager
from taskmux.worker.clock import monotonic
from taskmux.worker.held import Held
from taskmux.worker.lanes import Lanes
from taskmux.worker.options import WorkerOptions
from taskmux.worker.report import Report
from taskmux.worker.station import Station

OPTIONS = WorkerOptions(queues=("q",), name="w", lease_ms=60_000)


USUAL = Policy()


class Scene:
    """A station on a store in memory, whose clock the test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.store = MemoryDriver(store=MemoryStore(clock=lambda: self.now))
        report = Report(Hooks(plugin_manager()), "w", OPTIONS.lease_ms)
        self.station = Station(self.store, ("q",), Lanes(1, 0), OPTIONS, report)

    async def held(self, policy: Policy = USUAL) -> Held:
        job = JobRecord(queue="q", id="a", task="t", policy=policy)
        await self.store.push(Op("p", 1), [NewJob(job)])
        return await self.claim(1)

    async def claim(self, number: int) -> Held:
        claimed = await self.store.claim(Op("w", number), ClaimAsk("q", "w", 1, 1000))
        return Held(claimed.jobs[0], self.station, monotonic() + 1)

    async def steal(self) -> None:
        self.now += 2000
        (stolen,) = await self.store.reclaim(Op("thief", 1), ReclaimAsk("q", "thief", 1, 60_000))
        assert stolen.id == "a"

    async def started(self) -> bool:
        (record,) = await self.store.get([Ref("q", "a")])
        assert record is not None
        return record.started


@pytest.fixture
def scene():
    return Scene()


class TestAWorkerThatWakesAfterItsLease:
    async def test_it_starts_nothing_that_others_have(self, scene):
        held = await scene.held()
        held.until = monotonic() - 1  # it was stopped, or swapped out
        await scene.steal()
        assert not scene.station.starts_at_once(held)
        assert not await scene.station.may_start(held)

    async def test_it_renews_what_is_still_its_own(self, scene):
        held = await scene.held()
        held.until = monotonic() - 1
        assert not scene.station.starts_at_once(held)
        assert await scene.station.may_start(held)
        assert held.until > monotonic() + 50


class TestTheStartMark:
    async def test_a_first_delivery_begins_before_it_is_stored(self, scene):
        held = await scene.held()
        assert scene.station.starts_at_once(held)
        assert not await scene.started()

    async def test_a_redelivered_job_begins_after_it(self, scene):
        await scene.held()
        await scene.steal()
        scene.now += 61_000
        (again,) = await scene.store.reclaim(Op("w", 9), ReclaimAsk("q", "w", 1, 60_000))
        held = Held(again, scene.station, monotonic() + 60)
        assert not scene.station.starts_at_once(held)
        assert await scene.station.may_start(held)
        assert await scene.started()

    async def test_so_does_one_that_dies_of_its_first_crash(self, scene):
        held = await scene.held(Policy(max_crashes=1))
        assert not scene.station.starts_at_once(held)
        assert await scene.station.may_start(held)
        assert await scene.started()

    async def test_one_whose_lease_is_lost_does_not_begin(self, scene):
        held = await scene.held(Policy(max_crashes=1))
        await scene.steal()
        assert not await scene.station.may_start(held)
        assert (await scene.store.counts("q"))[State.ACTIVE] == 1
