"""The machine's clock jumps while jobs run: no lease is lost, and no delayed job runs early."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter

import pytest
from taskmux import State, Taskmux
from taskmux.conformance import FaultyDriver
from taskmux.driver import ClaimAsk, HeldLease, LeaseStatus, Op
from taskmux.plugins.loading import driver_for, plugin_manager

HOUR = 3600
COUNT = 20
LONGER = 2.5
"""Seconds: more than two leases."""


@pytest.fixture
def jump(monkeypatch):
    """Return what sets this process's wall clock by so many seconds."""
    seconds, nanoseconds = time.time, time.time_ns

    def by(amount: int) -> None:
        monkeypatch.setattr(time, "time", lambda: seconds() + amount)
        monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() + amount * 1_000_000_000)

    return by


@pytest.mark.parametrize("amount", [HOUR, -HOUR], ids=["ahead", "back"])
async def test_what_runs_goes_on_and_nothing_runs_early(url, app, jump, amount):
    runs: Counter[int] = Counter()
    begun, let_go = asyncio.Event(), asyncio.Event()
    apps: list[Taskmux] = [app(), app()]
    for mux in apps:

        @mux.task(name="work", max_crashes=9)
        async def work(number: int) -> int:
            runs[number] += 1
            if len(runs) == COUNT:
                begun.set()
            await let_go.wait()
            return number

    async with contextlib.AsyncExitStack() as stack:
        for mux in apps:
            await stack.enter_async_context(mux.worker(concurrency=COUNT // 2, lease="1s"))
        stack.callback(let_go.set)
        jobs = [await mux.enqueue("work", {"number": number}) for number in range(COUNT)]
        later = await mux.enqueue("work", {"number": COUNT}, delay="30m")
        await asyncio.wait_for(begun.wait(), 20)
        jump(amount)
        await asyncio.sleep(LONGER)  # what passes is the time of leases
        let_go.set()
        assert [await job.result(timeout="30s") for job in jobs] == list(range(COUNT))
        assert {(await job.record()).crashes for job in jobs} == {0}
        if amount < 0 or not url.startswith(("sqlite", "memory")):
            # elsewhere the clock that jumped is the store's own
            assert await later.status() is State.DELAYED
    assert {runs[number] for number in range(COUNT)} == {1}, runs


@pytest.mark.parametrize("amount", [HOUR, -HOUR], ids=["ahead", "back"])
async def test_a_worker_whose_clock_is_wrong_takes_nothing_from_others(
    url, app, driver, jump, amount
):
    if url.startswith(("sqlite", "memory")):
        pytest.skip("its workers share one clock")
    job = await app().enqueue("work")
    assert (await driver.claim(Op("other", 1), ClaimAsk("default", "other", 1, 60_000))).jobs
    jump(amount)
    mux = app()

    @mux.task(name="work")
    async def work() -> None:
        raise NotImplementedError

    @mux.task(name="probe")
    async def probe() -> str:
        return "done"

    async with mux.worker(lease="1s"):
        await asyncio.sleep(LONGER)  # several sweeps
        assert await (await probe.enqueue()).result(timeout="20s") == "done"
    record = await job.record()
    assert (record.state, record.worker) == (State.ACTIVE, "other")


async def test_other_holders_have_time_to_renew(url, app_on, driver, jump):
    sweeps = asyncio.Queue()

    def count(verb: str) -> None:
        if verb == "get":  # a worker that holds nothing begins each sweep with it
            sweeps.put_nowait(verb)

    mux = app_on(FaultyDriver(driver_for(url, plugin_manager()), count))
    await mux.enqueue("work")
    (job,) = (await driver.claim(Op("other", 1), ClaimAsk("default", "other", 1, 60_000))).jobs
    async with mux.worker(lease="4s"):
        await asyncio.wait_for(sweeps.get(), 20)
        jump(HOUR)
        for _ in range(2):  # with the second one the first is over
            await asyncio.wait_for(sweeps.get(), 20)
        (answer,) = await driver.extend([HeldLease(job.ref, job.fence)], 60_000)
    assert answer.status is LeaseStatus.HELD
