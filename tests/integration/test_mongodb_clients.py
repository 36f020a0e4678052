"""An application's own client, used as it is; and drivers found by their URL's scheme."""

from __future__ import annotations

import asyncio

import pytest
from bson.codec_options import CodecOptions
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, WriteConcern
from taskmux import Taskmux
from taskmux.driver import ClaimAsk, InvalidURL, JobRecord, NewJob, Op, State, transition
from taskmux.model.errors import DeclarationError
from taskmux.plugins.loading import driver_for, plugin_manager, schemes
from tests import mongo_jobs
from tests.mongo_jobs import needs_mongod

from taskmux_mongodb import MongoDriver

server = mongo_jobs.server


@pytest.mark.parametrize("url", ["mongodb://a,b:27018/jobs?replicaSet=rs", "mongodb+srv://host"])
def test_both_schemes_are_served(url: str) -> None:
    driver = driver_for(url, plugin_manager())
    assert isinstance(driver, MongoDriver)
    assert {"mongodb", "mongodb+srv"} <= set(schemes())


def test_a_database_of_another_name_is_refused() -> None:
    with pytest.raises(InvalidURL):
        MongoDriver.from_client(object(), database="no/such")


@needs_mongod
@pytest.mark.parametrize("kind", [AsyncMongoClient, AsyncIOMotorClient])
async def test_a_client_is_used_as_it_is_and_stays_open(server, kind) -> None:
    client = kind(server.url, w=0, tz_aware=True, retryWrites=True)
    driver = MongoDriver.from_client(client, database=kind.__name__)
    other = driver.fork()
    await driver.open()
    await other.open()
    await driver.push(Op("p", 1), [NewJob(JobRecord(queue="q", id="job", task="t"))])
    (held,) = (await other.claim(Op("w", 1), ClaimAsk("q", "w", 1, 60_000))).jobs
    await driver.apply(Op("w", 2), [transition.complete(held, b"1")])
    await driver.close()
    await other.close()
    jobs = client.get_database(kind.__name__).get_collection("jobs", CodecOptions())
    assert (await jobs.find_one({"_id": "q/job"}))["state"] == State.COMPLETED
    closed = client.close()
    if closed is not None:
        await closed


@needs_mongod
async def test_writes_wait_for_a_majority_whatever_the_client_says(server) -> None:
    client = AsyncMongoClient(server.url, w=0)
    driver = MongoDriver.from_client(client)
    await driver.open()
    for collection in (driver._store.jobs, driver._store.queues, driver._store.workers):
        assert collection.write_concern == WriteConcern("majority", wtimeout=10_000, j=True)
    await driver.close()
    await client.close()


@needs_mongod
async def test_the_urls_client_resends_nothing_by_itself(server) -> None:
    driver = MongoDriver(server.url)
    await driver.open()
    options = driver._store.client.options
    assert (options.retry_writes, options.retry_reads) == (False, False)
    await driver.close()


@needs_mongod
@pytest.mark.parametrize("kind", [AsyncMongoClient, AsyncIOMotorClient])
async def test_an_app_runs_on_a_client_handed_in(server, kind) -> None:
    client = kind(server.url)
    try:
        async with Taskmux(client=client) as mux:

            @mux.task()
            async def add(a: int, b: int) -> int:
                await asyncio.sleep(0.5)  # longer than the lease: it is renewed in this loop
                return a + b

            async with mux.worker(lease="300ms"):
                job = await add.enqueue(1, 2)
                assert await job.result(timeout="30s") == 3
            record = await job.record()
            assert (record.attempts, record.crashes) == (1, 0)
        assert (await client.admin.command("ping"))["ok"] == 1  # it is still its owner's
    finally:
        closed = client.close()
        if closed is not None:
            await closed


def test_other_clients_are_refused_and_the_known_ones_named() -> None:
    with pytest.raises(DeclarationError, match="motor, pymongo"):
        Taskmux(client=object())
    with pytest.raises(DeclarationError, match="url or a client"):
        Taskmux("memory://", client=object())
