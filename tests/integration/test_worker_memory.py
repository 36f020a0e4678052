"""A run that ended badly frees what its frames held as soon as it is settled."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from taskmux import Retry, Taskmux
from tests.integration.conftest import Witness


class Big:
    """What a handler's frame holds: it can be watched."""


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def chained() -> None:
    try:
        raise ValueError("first")
    except ValueError as error:
        raise KeyError("second") from error


def keeps_itself() -> None:
    error = ValueError("held by the frame that raised it")
    raise error


def grouped() -> None:
    raise ExceptionGroup("many", [ValueError("one"), Retry("two", after="1h")])


@pytest.mark.parametrize("fail", [chained, keeps_itself, grouped])
@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_failing_handlers_leave_nothing_alive(witness: Witness, no_collector, fail, sync):
    mux = Taskmux("memory://", plugins=[witness])
    alive: list[weakref.ref[Big]] = []

    def body() -> None:
        big = Big()
        alive.append(weakref.ref(big))
        fail()

    if sync:
        task: Any = mux.task(max_attempts=2, backoff="1h")(body)
    else:

        @mux.task(max_attempts=2, backoff="1h")
        async def task() -> None:
            big = Big()
            alive.append(weakref.ref(big))
            await asyncio.sleep(0)
            fail()

    async with mux, mux.worker(concurrency=8):
        jobs = [await task.enqueue() for _ in range(48)]
        for job in jobs:
            await witness.settled(job)
        assert len(alive) == 48
        assert [one() for one in alive] == [None] * 48  # and the worker is idle


@pytest.mark.parametrize("how", ["times out", "is cancelled"])
async def test_a_stopped_handler_leaves_nothing_alive(witness: Witness, no_collector, how):
    mux = Taskmux("memory://", plugins=[witness])
    alive: list[weakref.ref[Big]] = []
    began = asyncio.Event()

    @mux.task(max_attempts=2, backoff="1h", timeout="20ms" if how == "times out" else None)
    async def slow() -> None:
        big = Big()
        alive.append(weakref.ref(big))
        began.set()
        await asyncio.sleep(60)

    async with mux, mux.worker():
        job = await slow.enqueue()
        await began.wait()
        if how == "is cancelled":
            await job.cancel()
        await witness.settled(job)
        assert [one() for one in alive] == [None]
