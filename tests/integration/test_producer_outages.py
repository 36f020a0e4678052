"""Producers whose store does not answer, and batches with an item that the store cannot hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from taskmux import JobRecord, Limits, PayloadTooLarge, State, StoreUnavailable, Taskmux
from taskmux.api.connection import Connection
from taskmux.driver import Applied, ApplyStatus, ClaimAsk, NewJob, Op, transition
from taskmux.plugins.loading import driver_for, plugin_manager
from tests.proxy import Proxy

SOON = "300ms"
MEGABYTES = 17_000_000
"""More than a document of MongoDB takes."""


@pytest.fixture(params=["redis", "mongodb"])
def server_url(request: pytest.FixtureRequest) -> str:
    if request.param == "redis":
        url: str = request.getfixturevalue("redis_url")
        return f"{url}?prefix=t{uuid4().hex[:12]}"
    port = urlsplit(request.getfixturevalue("mongodb_url")).port
    return f"mongodb://127.0.0.1:{port}/t{uuid4().hex}?directConnection=true"


@pytest.fixture
async def proxy(server_url: str) -> AsyncIterator[Proxy]:
    port = urlsplit(server_url).port
    assert port is not None
    async with Proxy(port) as proxy:
        yield proxy


@pytest.fixture
async def mux(server_url: str, proxy: Proxy) -> AsyncIterator[Taskmux]:
    parts = urlsplit(server_url)
    mux = Taskmux(parts._replace(netloc=f"127.0.0.1:{proxy.port}").geturl())
    yield mux
    proxy.black_hole = False
    await mux.close()


class TestEnqueueTimeout:
    async def test_a_store_that_was_open_and_answers_no_more(self, mux, proxy):
        @mux.task(name="t")
        async def work(number: int) -> None:
            raise NotImplementedError

        await work.enqueue(0)
        proxy.black_hole = True
        patient = work.options(enqueue_timeout="2m", id="patient")
        waiting = asyncio.ensure_future(patient.enqueue(1))
        hurried = work.options(enqueue_timeout=SOON, id="mine")
        with pytest.raises(StoreUnavailable, match=r"0\.3 s \(enqueue_timeout\).*may still be"):
            await hurried.enqueue(2)
        with pytest.raises(StoreUnavailable, match="enqueue_timeout"):
            await mux.enqueue_many([hurried.bind(2)])
        assert not waiting.done()  # one job's hurry is its own
        proxy.black_hole = False
        assert (await waiting).id == "patient"
        await work.options(enqueue_timeout="2m", id="mine").enqueue(2)
        counts = await mux.queue("default").counts()
        assert counts.total == 3  # it was sent three times, and is there once

    async def test_a_store_that_never_answered(self, mux, proxy):
        proxy.black_hole = True
        with pytest.raises(StoreUnavailable, match="enqueue_timeout"):
            await mux.enqueue("t", enqueue_timeout=SOON)

    async def test_in_blocking_code(self, server_url, proxy):
        netloc = f"127.0.0.1:{proxy.port}"
        mux = Taskmux(
            urlsplit(server_url)._replace(netloc=netloc).geturl(),
            defaults={"enqueue_timeout": SOON},
        )

        @mux.task(name="t")
        async def work() -> None:
            raise NotImplementedError

        proxy.black_hole = True
        with pytest.raises(StoreUnavailable, match="enqueue_timeout"):
            await asyncio.to_thread(work.blocking.enqueue)
        proxy.black_hole = False
        await asyncio.to_thread(mux.close_blocking)


class TestOneBadItem:
    async def test_a_payload_that_mongodb_cannot_hold_fails_alone(self, mongodb_url):
        url = urlsplit(mongodb_url)._replace(path=f"/t{uuid4().hex}").geturl()
        async with Taskmux(url, limits=Limits(payload=2 * MEGABYTES)) as mux:
            small = [mux.enqueue("t", {"n": number}) for number in range(10)]
            named = mux.enqueue("t", {"n": 0}, id="named")
            large = mux.enqueue("t", {"text": "x" * MEGABYTES})
            answers = await asyncio.gather(
                *small[:5], large, named, *small[5:], return_exceptions=True
            )
            assert isinstance(answers.pop(5), PayloadTooLarge)
            assert [job.duplicate for job in answers] == [False] * 11
            assert (await mux.queue("default").counts()).waiting == 11

    async def test_large_payloads_travel_in_batches_of_their_own(self, mongodb_url):
        url = urlsplit(mongodb_url)._replace(path=f"/t{uuid4().hex}").geturl()
        async with Taskmux(url, limits=Limits(payload=MEGABYTES)) as mux:
            text = "x" * 3_000_000
            await asyncio.gather(*(mux.enqueue("t", {"text": text}) for _ in range(8)))
            assert (await mux.queue("default").counts()).waiting == 8

    async def test_a_result_that_mongodb_cannot_hold_is_refused_alone(self, mongodb_url):
        url = urlsplit(mongodb_url)._replace(path=f"/t{uuid4().hex}").geturl()
        driver = driver_for(url, plugin_manager())
        connection = Connection(driver)
        await connection.open()
        news = [NewJob(JobRecord(queue="q", id=str(n), task="t")) for n in range(30)]
        await driver.push(Op("p", 1), news)
        ask = ClaimAsk(queue="q", worker="w", limit=30, lease=60_000)
        jobs = (await driver.claim(Op("w", 1), ask)).jobs
        results = {job.id: b'"done"' for job in jobs} | {"13": b'"' + b"x" * MEGABYTES + b'"'}
        answers = await asyncio.gather(
            *(connection.apply(transition.complete(job, results[job.id])) for job in jobs),
            return_exceptions=True,
        )
        told = {job.id: answer for job, answer in zip(jobs, answers, strict=True)}
        assert isinstance(told.pop("13"), PayloadTooLarge)
        assert set(told.values()) == {Applied(ApplyStatus.APPLIED, State.COMPLETED)}
        counts = await driver.counts("q")
        assert (counts[State.COMPLETED], counts[State.ACTIVE]) == (29, 1)
        await connection.close()
