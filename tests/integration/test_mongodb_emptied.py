"""A store that somebody empties while drivers are open: made again, said once, and in force."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
from taskmux import Taskmux
from taskmux.driver import (
    ClaimAsk,
    Dedup,
    JobRecord,
    NewJob,
    Op,
    PushStatus,
    Ref,
    StoreIncompatible,
)
from tests import mongo_jobs
from tests.mongo_jobs import needs_mongod
from tests.mongo_servers import MongoServer

from taskmux_mongodb import MongoDriver, schema

pytestmark = needs_mongod
server = mongo_jobs.server

PATIENCE = 20
JOBS = 40


@pytest.fixture
def database(server: MongoServer):
    with server.client() as client:
        yield client[f"t{uuid4().hex}"]


@pytest.fixture
def url(server: MongoServer, database) -> str:
    return server.url.replace("/taskmux", f"/{database.name}")


@pytest.fixture
async def driver(url: str) -> AsyncIterator[MongoDriver]:
    driver = MongoDriver(url)
    await driver.open()
    yield driver
    await driver.close()


def drop_all(database) -> None:
    database.client.drop_database(database.name)


def drop_jobs(database) -> None:
    database.drop_collection("jobs")


def drop_bell(database) -> None:
    database.drop_collection("bell")


def drop_ring(database) -> None:
    database.drop_collection("ring")


def drop_index_of_keys(database) -> None:
    database["jobs"].drop_index("dedup")


def drop_index_of_claims(database) -> None:
    database["jobs"].drop_index("line")


DROPS: list[Callable] = [
    drop_all,
    drop_jobs,
    drop_bell,
    drop_ring,
    drop_index_of_keys,
    drop_index_of_claims,
]


def whole(database) -> bool:
    """Say whether everything is there, with the bell capped."""
    names = {index for name in schema._INDEXES for index in database[name].index_information()}
    wanted = {one.document["name"] for indexes in schema._INDEXES.values() for one in indexes}
    schema_known = database["meta"].find_one({"_id": "schema"}) is not None
    return wanted <= names and bool(database["bell"].options().get("capped")) and schema_known


@pytest.mark.parametrize("drop", DROPS)
async def test_a_worker_makes_everything_again_and_says_so_once(
    url, database, drop, caplog
) -> None:
    caplog.set_level(logging.WARNING)
    mux = Taskmux(url)
    ran: set[int] = set()

    @mux.task(name="count", queue="q")
    async def count(number: int) -> None:
        ran.add(number)

    def said() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.name == "taskmux.mongodb"]

    async with mux, mux.worker(["q"]), asyncio.timeout(PATIENCE):
        await (await count.enqueue(-1)).result()
        drop(database)
        for number in range(JOBS):
            await (await count.options(group=f"g{number % 2}").enqueue(number)).result()
        while not (whole(database) and said()):
            await mux.queue("q").counts()
    assert ran == {-1, *range(JOBS)}
    assert len(said()) == 1, said()
    assert "made again" in said()[0]
    newcomer = MongoDriver(url)
    await newcomer.open()
    await newcomer.close()


@pytest.mark.parametrize("drop", [drop_all, drop_bell])
async def test_who_only_listens_makes_it_again(driver, database, drop) -> None:
    await driver.claim(Op("w", 1), ClaimAsk("q", "w", 1, 60_000))
    async with asyncio.timeout(PATIENCE):
        while not driver._store.bell.listening:
            await asyncio.sleep(0.01)
        drop(database)
        while not whole(database):  # nothing is asked of the driver meanwhile
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("drop", [drop_all, drop_jobs, drop_index_of_keys])
async def test_a_producer_keeps_keys_apart_again(driver, database, drop) -> None:
    """Nobody listens here, so the loss is seen when somebody looks."""
    drop(database)
    driver._caretaker._looked -= 2 * schema._LOOK_AFTER  # as after some seconds
    for number in range(3):  # while the index is missing, more than one may come to own the key
        await push(driver, number, dedup=Dedup("key"))
    async with asyncio.timeout(PATIENCE):
        while not whole(database) or driver._caretaker._look is not None:
            await driver.counts("q")
    assert await push(driver, 100, dedup=Dedup("key")) is PushStatus.DEDUPLICATED
    assert database["jobs"].count_documents({"owns": "q/key"}) == 1


async def push(driver: MongoDriver, number: int, **fields: object) -> PushStatus:
    job = JobRecord(**{"queue": "q", "id": f"job-{number}", "task": "t"} | fields)
    (answer,) = await driver.push(Op("p", number), [NewJob(job)])
    return answer.status


async def test_who_claims_by_a_dropped_index_makes_it_again(driver, database) -> None:
    await push(driver, 1)
    drop_index_of_claims(database)
    claimed = await driver.claim(Op("w", 1), ClaimAsk("q", "w", 1, 60_000))
    assert [job.id for job in claimed.jobs] == ["job-1"]
    assert whole(database)


async def test_jobs_of_one_key_all_run_though_one_owns_it(driver, database) -> None:
    drop_index_of_keys(database)
    for number in range(5):
        assert await push(driver, number, dedup=Dedup("key")) is PushStatus.CREATED
    assert await driver._caretaker.mend()
    assert not await driver._caretaker.mend(), "all is there"
    records = await driver.get([Ref("q", f"job-{number}") for number in range(5)])
    assert {one.dedup for one in records if one} == {Dedup("key")}
    claimed = await driver.claim(Op("w", 1), ClaimAsk("q", "w", 9, 60_000))
    assert len(claimed.jobs) == 5


async def test_a_bell_that_is_not_capped_is_mended_if_it_is_ours(url, database) -> None:
    database["bell"].insert_many([{"queues": ["q"]}, {"queues": []}])
    driver = MongoDriver(url)
    await driver.open()
    await driver.close()
    assert database["bell"].options()["capped"]


async def test_a_bell_of_another_program_is_refused_and_kept(url, database) -> None:
    database["bell"].insert_many([{"queues": ["q"]}, {"ding": "dong"}])
    with pytest.raises(StoreIncompatible, match="bell"):
        await MongoDriver(url).open()
    assert database["bell"].count_documents({}) == 2


async def test_several_mend_one_store_at_once(url, database) -> None:
    drivers = [MongoDriver(url) for _ in range(6)]
    for one in drivers:
        await one.open()
    drop_all(database)
    await asyncio.gather(*(one._caretaker.mend() for one in drivers))
    assert whole(database)
    for one in drivers:
        await one.close()
