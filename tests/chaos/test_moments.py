"""A worker at the worst moments, in one process and without luck: the store waits for the test."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from taskmux import Context, State, Taskmux, hookimpl
from taskmux.conformance import FaultyDriver
from taskmux.driver import ClaimAsk, Op, Ref
from taskmux.memory import MemoryDriver
from taskmux.model import transition
from taskmux.worker import Worker
from taskmux.worker.lanes import Phase

URL = "gated:"


class Events(defaultdict[str, asyncio.Event]):
    def __init__(self) -> None:
        super().__init__(asyncio.Event)


class Scene:
    """A worker with one lane or more, and handlers that end when told.

    The store keeps back the reply of a claim, or a batch of transitions, while its gate is there.
    """

    def __init__(self, lanes: int) -> None:
        self.gates: dict[str, asyncio.Event] = {}
        self.reached = Events()
        self.given_back = Events()
        self.began = Events()
        self.told = Events()
        self.driver = FaultyDriver(MemoryDriver(), {"claim": self._claim, "apply": self._apply}.get)
        self.mux = Taskmux(URL, plugins=[self])
        self.mux.task(name="rest")(self.rest)
        self.worker = self.mux.worker(["q"], concurrency=lanes)

    @hookimpl
    def taskmux_driver(self, url: str) -> FaultyDriver | None:
        return self.driver if url == URL else None

    @hookimpl
    def taskmux_settled(self, job, transition) -> None:
        if transition.to is State.WAITING:
            self.given_back[job.id].set()

    async def rest(self, ctx: Context) -> None:
        self.began[ctx.id].set()
        await self.told[ctx.id].wait()

    def shut(self, verb: str) -> None:
        self.gates[verb] = asyncio.Event()

    async def _claim(self, send):
        claimed = await send()
        if claimed.jobs and "claim" in self.gates:
            self.reached["claim"].set()
            await self.gates["claim"].wait()
        return claimed

    async def _apply(self, send):
        if "apply" in self.gates:
            self.reached["apply"].set()
            await self.gates["apply"].wait()
        return await send()

    async def push(self, *ids: str, **options) -> None:
        for job_id in ids:
            await self.mux.enqueue("rest", queue="q", id=job_id, **options)

    async def record(self, job_id: str):
        return (await self.driver.get([Ref("q", job_id)]))[0]


@pytest.fixture
async def scene(request) -> AsyncIterator[Scene]:
    scene = Scene(getattr(request, "param", 1))
    async with scene.mux:
        yield scene


@asynccontextmanager
async def draining(worker: Worker) -> AsyncIterator[None]:
    """Begin to drain; at the end of the block, wait until the worker has stopped."""
    stop = asyncio.ensure_future(worker.stop())
    while worker._lanes.serving:
        await asyncio.sleep(0)
    yield
    await stop


@pytest.mark.parametrize("scene", [2], indirect=True)  # one lane is free, so that it claims
async def test_a_job_claimed_too_late_goes_back_while_others_still_run(scene):
    await scene.push("running")
    async with scene.worker:
        await scene.began["running"].wait()
        scene.shut("claim")
        await scene.push("late")
        await scene.reached["claim"].wait()
        async with draining(scene.worker):
            scene.gates["claim"].set()
            await scene.given_back["late"].wait()
            assert (await scene.record("running")).state is State.ACTIVE
            scene.told["running"].set()
    assert (await scene.record("late")).state is State.WAITING
    assert (await scene.record("running")).state is State.COMPLETED


async def test_a_job_that_may_not_crash_begins_when_its_start_is_stored(scene):
    await scene.push("first", "second", max_attempts=1, max_crashes=0)
    async with scene.worker:
        await scene.began["first"].wait()
        scene.shut("apply")
        scene.told["first"].set()
        await scene.reached["apply"].wait()
        while not scene.worker.running:  # the lane has taken the second one
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not scene.began["second"].is_set()
        scene.gates.pop("apply").set()
        await scene.began["second"].wait()
        assert (await scene.record("second")).started
        scene.told["second"].set()


async def test_no_handler_begins_once_handlers_are_stopped(scene):
    await scene.push("first", "second")
    # Delivered before: the store must have heard of a start before the handler begins.
    claimed = await scene.driver.claim(Op("o", 1), ClaimAsk("q", "other", 2, 60_000))
    await scene.driver.apply(Op("o", 2), [transition.release(job) for job in claimed.jobs])
    async with scene.worker:
        await scene.began["first"].wait()
        scene.shut("apply")
        scene.told["first"].set()
        await scene.reached["apply"].wait()
        while not scene.worker.running:  # the lane has taken the second one
            await asyncio.sleep(0)
        async with draining(scene.worker):
            scene.worker.abort()
            while scene.worker._lanes.phase < Phase.CUTTING:
                await asyncio.sleep(0)
            scene.gates.pop("apply").set()
    second = await scene.record("second")
    assert not scene.began["second"].is_set()
    assert (second.state, second.crashes) == (State.WAITING, 0)
