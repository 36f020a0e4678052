"""Large batches over slow links, and what becomes of operations that nobody waits for."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
from taskmux.driver import (
    ApplyStatus,
    ClaimAsk,
    Dedup,
    FindAsk,
    JobRecord,
    Keep,
    NewJob,
    Note,
    Op,
    PushStatus,
    Ref,
    State,
    transition,
)
from tests import mongo_jobs
from tests.mongo_jobs import needs_mongod
from tests.mongo_servers import MongoServer
from tests.proxy import Proxy

from taskmux_mongodb import MongoDriver, deadlines

pytestmark = needs_mongod
server = mongo_jobs.server

RATE = 1_500_000
"""Bytes a second that the link carries."""

LIMIT_MS = 600
"""The client's own limit for a command; four large jobs take longer."""

LARGE = b"x" * 400_000


class SlowLink(Proxy):
    """Requests, or replies, come through no faster than at `RATE`."""

    slow_replies = False

    async def _pump(self, source, sink, *, replies: bool) -> None:
        if replies is not self.slow_replies:
            return await super()._pump(source, sink, replies=replies)
        while piece := await source.read(16_384):
            await asyncio.sleep(len(piece) / RATE)
            sink.write(piece)
            await sink.drain()
        return None


@pytest.fixture
async def driver(server: MongoServer) -> AsyncIterator[MongoDriver]:
    with server.client() as client:
        client.drop_database("taskmux")
    async with SlowLink(server.port) as link:
        options = f"directConnection=true&socketTimeoutMS={LIMIT_MS}"
        driver = MongoDriver(f"mongodb://127.0.0.1:{link.port}/taskmux?{options}")
        await driver.open()
        yield driver
        await driver.close()


def large_jobs(count: int) -> list[NewJob]:
    return [
        NewJob(JobRecord(queue="q", id=f"job-{n}", task="t", payload=LARGE)) for n in range(count)
    ]


async def test_a_large_batch_arrives_over_a_slow_link(driver) -> None:
    pushed = await driver.push(Op("p", 1), large_jobs(4))
    assert {one.status for one in pushed} == {PushStatus.CREATED}
    (*_, last) = (await driver.claim(Op("w", 1), ClaimAsk("q", "w", 4, 60_000))).jobs
    steps = {f"step-{n}": LARGE for n in range(4)}
    (noted,) = await driver.annotate([Note(ref=last.ref, fence=last.fence, steps=steps)])
    assert noted.status is ApplyStatus.APPLIED
    (done,) = await driver.apply(Op("w", 2), [transition.complete(last, 4 * LARGE)])
    assert done.status in {ApplyStatus.APPLIED, ApplyStatus.REPEATED}


async def test_large_replies_arrive_over_a_slow_link(server, monkeypatch) -> None:
    monkeypatch.setattr(SlowLink, "slow_replies", True)
    with server.client() as client:
        client.drop_database("taskmux")
    async with SlowLink(server.port) as link:
        options = f"directConnection=true&socketTimeoutMS={LIMIT_MS}"
        driver = MongoDriver(f"mongodb://127.0.0.1:{link.port}/taskmux?{options}")
        await driver.open()
        await driver.push(Op("p", 1), large_jobs(4))
        ask = ClaimAsk("q", "w", 4, 60_000)
        jobs = (await driver.claim(Op("w", 1), ask)).jobs
        assert [len(job.payload) for job in jobs] == [len(LARGE)] * 4
        assert list((await driver.claim(Op("w", 1), ask)).jobs) == list(jobs)
        assert list(await driver.get([job.ref for job in jobs])) == list(jobs)
        page = await driver.find(FindAsk(queue="q", state=State.ACTIVE, limit=4))
        assert {job.id for job in page.jobs} == {job.id for job in jobs}
        await driver.close()


async def test_a_batch_is_sent_in_parts_of_bounded_bytes(server, driver, monkeypatch) -> None:
    monkeypatch.setattr(deadlines, "_PART", 2 * len(LARGE) + 1_000)
    with server.client() as client:
        database = client["taskmux"]
        database.command("profile", 2)
        await driver.push(Op("p", 1), large_jobs(5))
        database.command("profile", 0)
        inserts = database["system.profile"].find({"ns": "taskmux.jobs", "op": "insert"})
        assert sorted(one["ninserted"] for one in inserts) == [1, 2, 2]
        database.drop_collection("system.profile")
    claimed = await driver.claim(Op("w", 1), ClaimAsk("q", "w", 9, 60_000))
    assert [job.id for job in claimed.jobs] == [f"job-{n}" for n in range(5)]


async def test_each_job_has_its_own_answer_whatever_part_it_went_in(driver, monkeypatch) -> None:
    monkeypatch.setattr(deadlines, "_PART", 1)
    names = ["a", "b", "c", "d", "e", "f"]
    keys = {"b": "one", "f": "two"}

    def new(name: str, **fields) -> NewJob:
        return NewJob(JobRecord(**{"queue": "q", "id": name, "task": "t"} | fields))

    await driver.push(Op("p", 1), [new("c"), new("e")])
    jobs = [new(name, dedup=Dedup(keys[name]) if name in keys else None) for name in names]
    pushed = [one.status for one in await driver.push(Op("p", 2), jobs)]
    created, duplicate = PushStatus.CREATED, PushStatus.DUPLICATE
    assert pushed == [created, created, duplicate, created, duplicate, created]
    gone = [transition.cancel(Ref("q", name), Keep()) for name in names]
    await driver.apply(Op("x", 1), gone)
    await driver.push(Op("p", 3), [new("g", dedup=Dedup("one")), new("h", dedup=Dedup("two"))])
    back = [transition.redrive(one.ref, frozenset({State.CANCELLED})) for one in gone]
    applied = [one.status for one in await driver.apply(Op("x", 2), back)]
    conflicts = [name for name, one in zip(names, applied, strict=True) if one == "conflict"]
    assert conflicts == ["b", "f"]
    waiting = [
        one.id for one in await driver.get([one.ref for one in gone]) if one.state == "waiting"
    ]
    assert waiting == ["a", "c", "d", "e"]


def test_parts_are_whole_and_bounded() -> None:
    most = deadlines._PART
    weights = [1, most, 1, most - 1, 2, most + 5, 3]
    parts = [weights[one] for one in deadlines.parts(weights)]
    assert parts == [[1], [most], [1, most - 1], [2], [most + 5], [3]]
    assert list(deadlines.parts([])) == []


async def test_an_operation_that_nobody_waits_for_ends_without_a_word(server) -> None:
    told: list[dict] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    async with Proxy(server.port) as proxy:
        url = f"mongodb://127.0.0.1:{proxy.port}/taskmux?directConnection=true"
        driver = MongoDriver(f"{url}&serverSelectionTimeoutMS=200&socketTimeoutMS=200")
        await driver.open()
        proxy.black_hole = True
        asking = asyncio.create_task(driver.counts("q"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        while driver._sent:  # nobody may ask how it ended, not even this test
            await asyncio.sleep(0.01)
        await driver.close()
    del asking
    gc.collect()
    await asyncio.sleep(0)
    assert told == []
