"""Waiting in numbers: what waits costs the store next to nothing, and outages end nothing."""

from __future__ import annotations

import asyncio
from random import Random
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from taskmux import Taskmux
from taskmux.api import following
from taskmux.conformance import FaultyDriver
from taskmux.driver import EventPage
from taskmux.memory import MemoryDriver
from taskmux.plugins.loading import driver_for, plugin_manager
from tests.proxy import Proxy

WAITERS = 10_000
PATIENCE = 120.0


@pytest.fixture(params=["memory", "redis"])
def driver(request):
    if request.param == "memory":
        url = f"memory://{uuid4().hex}"
    else:
        url = f"{request.getfixturevalue('redis_url')}?prefix=t{uuid4().hex[:12]}"
    return driver_for(url, plugin_manager())


class Counting(FaultyDriver):
    """Counts, of all instances, what is read: records looked up, and pages of events."""

    looks = pages = 0

    async def _send(self, verb, send):
        Counting.pages += verb == "events"
        return await super()._send(verb, send)

    async def get(self, refs):
        Counting.looks += len(refs)
        return await super().get(refs)


async def test_ten_thousand_wait_in_one_process_without_polling(driver, monkeypatch):
    monkeypatch.setattr(following, "FIRST_LOOK_BESIDES", 60.0)
    Counting.looks = Counting.pages = 0
    mux = Taskmux(client=Counting(driver, lambda _verb: None))

    @mux.task(queue="email")
    async def double(number: int) -> int:
        return 2 * number

    async with mux, asyncio.timeout(PATIENCE):
        jobs = await mux.enqueue_many(double.bind(number) for number in range(WAITERS))
        waiting = [asyncio.ensure_future(job.result()) for job in jobs]
        await asyncio.sleep(1)  # for so long they wait; without events each looks a dozen times
        async with mux.worker(["email"], concurrency=100):
            results = await asyncio.gather(*waiting)
    assert results == [2 * number for number in range(WAITERS)]
    assert Counting.looks < 4 * WAITERS
    assert Counting.pages < WAITERS / 5


class Mute(MemoryDriver):
    """Tells nothing, and does not say so."""

    followed = asyncio.Event()

    async def events(self, queue, after, limit, timeout):
        if after is not None:
            self.followed.set()
            await asyncio.sleep(timeout)
        return EventPage([], "0")


async def test_who_hears_nothing_looks_all_the_same(monkeypatch):
    monkeypatch.setattr(following, "FIRST_LOOK_BESIDES", 0.01)
    mux = Taskmux(client=Mute())

    @mux.task(queue="email")
    async def send() -> str:
        return "sent"

    async with mux, asyncio.timeout(PATIENCE):
        job = await send.enqueue()
        waiting = asyncio.ensure_future(job.result())
        await Mute.followed.wait()
        for _ in range(20):
            await asyncio.sleep(0)  # it looks, as it hears everything from now on; and then waits
        async with mux.worker():
            assert await waiting == "sent"


@pytest.fixture(params=["redis", "mongodb"])
def server_url(request):
    if request.param == "redis":
        return f"{request.getfixturevalue('redis_url')}?prefix=t{uuid4().hex[:12]}"
    port = urlsplit(request.getfixturevalue("mongodb_url")).port
    return f"mongodb://127.0.0.1:{port}/t{uuid4().hex}?directConnection=true"


async def test_an_outage_ends_no_iterator_and_no_waiter(server_url):
    direct = Taskmux(server_url)
    async with Proxy(urlsplit(server_url).port) as proxy, direct, asyncio.timeout(PATIENCE):
        netloc = f"127.0.0.1:{proxy.port}"
        mux = Taskmux(urlsplit(server_url)._replace(netloc=netloc).geturl())
        seen: list[str] = []
        first = asyncio.Event()
        lost = asyncio.Event()
        left = 4

        def lose_some(_rng: Random) -> bool:
            nonlocal left
            left -= 1
            if not left:
                lost.set()
            return left >= 0

        async def follow() -> None:
            async for event in events:
                seen.append(event.id)
                first.set()
                if len(seen) == 3:
                    return

        async with mux, mux.events("email") as events:
            following_it = asyncio.ensure_future(follow())
            await direct.enqueue("none", queue="email", id="before")
            await first.wait()
            proxy.drop_reply = lose_some
            await direct.enqueue("none", queue="email", id="meanwhile")
            await lost.wait()
            await direct.enqueue("none", queue="email", id="after")
            await following_it
        assert seen == ["before", "meanwhile", "after"]
