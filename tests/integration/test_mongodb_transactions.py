"""Enqueueing inside the application's own transaction: with it, or not at all."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from taskmux import State, Taskmux
from taskmux.driver import (
    ClaimAsk,
    Guard,
    JobRecord,
    NewJob,
    Op,
    PushStatus,
    QueueSettings,
    Ref,
    StoreBusy,
    StoreDenied,
    Transition,
)
from taskmux.model.errors import DeclarationError, Moved, UnsupportedFeature
from tests import mongo_jobs
from tests.mongo_jobs import needs_mongod
from tests.mongo_servers import running

from taskmux_mongodb import MongoDriver, TransactionInterrupted

pytestmark = needs_mongod
server = mongo_jobs.server

KINDS = {"PyMongo": AsyncMongoClient, "Motor": AsyncIOMotorClient}


async def maybe(value: Any) -> Any:
    """PyMongo and Motor differ in which methods are coroutines."""
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def connected(kind: Any, url: str) -> AsyncIterator[Any]:
    client = kind(url)
    try:
        yield client
    finally:
        await maybe(client.close())


@asynccontextmanager
async def session_of(client: Any) -> AsyncIterator[Any]:
    async with await maybe(client.start_session()) as session:
        yield session


@asynccontextmanager
async def transaction(client: Any) -> AsyncIterator[Any]:
    async with session_of(client) as session, await maybe(session.start_transaction()):
        yield session


@pytest.fixture(params=KINDS)
async def client(request: pytest.FixtureRequest, server) -> AsyncIterator[Any]:
    """Return the application's client, of either kind."""
    async with connected(KINDS[request.param], server.url) as client:
        yield client


@pytest.fixture
def orders(client, server) -> Any:
    """Return a collection of the application's own."""
    name = uuid4().hex
    with server.client() as plain:
        plain["shop"].create_collection(name)
    return client["shop"][name]


@pytest.fixture(params=["the same client", "URL"])
async def mux(request: pytest.FixtureRequest, client, server) -> AsyncIterator[Taskmux]:
    """Return an app on the session's client, or on a URL of the same deployment."""
    async with Taskmux(server.url) if request.param == "URL" else Taskmux(client=client) as mux:
        yield mux


@pytest.fixture
def queue() -> str:
    return uuid4().hex


@pytest.fixture
def task(mux, queue):
    @mux.task(name="double", queue=queue)
    async def double(number: int) -> int:
        return 2 * number

    return double


async def total(mux: Taskmux, queue: str) -> int:
    return (await mux.queue(queue).counts()).total


async def test_a_commit_makes_the_job(client, mux, queue, task, orders) -> None:
    async with transaction(client) as session:
        await orders.insert_one({"_id": 1}, session=session)
        job = await task.options(session=session).enqueue(1)
        assert await total(mux, queue) == 0
    record = await job.record()
    assert (record.state, record.attempts) == (State.WAITING, 0)
    assert await orders.count_documents({}) == 1


async def test_an_abort_makes_none(client, mux, queue, task, orders) -> None:
    with pytest.raises(ZeroDivisionError):
        async with transaction(client) as session:
            await orders.insert_one({"_id": 1}, session=session)
            await task.options(session=session).enqueue(1)
            raise ZeroDivisionError
    assert await total(mux, queue) == 0
    assert await orders.count_documents({}) == 0


async def test_a_worker_sees_it_after_the_commit_only(client, mux, queue, task) -> None:
    async with mux.worker([queue]):
        async with transaction(client) as session:
            job = await task.options(session=session).enqueue(21)
            beside = await task.enqueue(1)
            assert await beside.result(timeout="20s") == 2  # the worker is awake and looks
            assert await total(mux, queue) == 1
        assert await job.result(timeout="20s") == 42


async def test_a_duplicate_id_is_answered_and_the_rest_commits(
    client, mux, queue, task, orders
) -> None:
    first = await task.options(id="one").enqueue(1)
    async with transaction(client) as session:
        await orders.insert_one({"_id": 1}, session=session)
        again = await task.options(id="one", session=session).enqueue(2)
        other = await task.options(id="two", session=session).enqueue(3)
        twice = await task.options(id="two", session=session).enqueue(4)
    assert again.pushed is twice.pushed is PushStatus.DUPLICATE
    assert other.pushed is PushStatus.CREATED
    assert (await first.record()).payload == b'{"number":1}'
    assert (await other.record()).payload == b'{"number":3}'
    assert await orders.count_documents({}) == 1


async def test_a_duplicate_key_is_answered_and_the_rest_commits(
    client, mux, queue, task, orders
) -> None:
    owner = await task.options(dedup="key").enqueue(1)
    async with transaction(client) as session:
        await orders.insert_one({"_id": 1}, session=session)
        again = await task.options(dedup="key", session=session).enqueue(2)
        new = await task.options(dedup="other", session=session).enqueue(3)
        twice = await task.options(dedup="other", session=session).enqueue(4)
    assert again.pushed is twice.pushed is PushStatus.DEDUPLICATED
    assert (again.ref, twice.ref) == (owner.ref, new.ref)
    assert await total(mux, queue) == 2
    assert await orders.count_documents({}) == 1


async def test_with_transaction_runs_again_after_a_conflict(client, mux, queue, task) -> None:
    """Somebody takes the id between the transaction's snapshot and its push."""
    pushed = []

    async def callback(session: Any) -> None:
        await task.options(session=session).enqueue(0)
        if not pushed:
            await task.options(id="contended").enqueue(1)
        pushed.append(await task.options(id="contended", session=session).enqueue(2))

    async with session_of(client) as session:
        await session.with_transaction(callback)
    (answer,) = pushed
    assert answer.pushed is PushStatus.DUPLICATE
    assert (await answer.record()).payload == b'{"number":1}'
    assert await total(mux, queue) == 2


async def test_delays_and_places_are_as_outside(client, mux, queue, task) -> None:
    async with transaction(client) as session:
        task = task.options(session=session)
        delayed = await task.options(delay="1h").enqueue(1)
        for name, options in {
            "low": {"priority": 200},
            "second": {},
            "third": {},
            "first": {"lifo": True},
        }.items():
            await task.options(id=name, **options).enqueue(2)
    record = await delayed.record()
    assert record.state is State.DELAYED
    assert record.run_at >= record.created_at + 3_600_000
    waiting = [job.id async for job in mux.queue(queue).jobs(state="waiting")]
    assert waiting == ["first", "second", "third", "low"]


async def test_a_moved_queue_takes_none(client, mux, server, queue, task) -> None:
    async with driver_on(server.url) as driver:
        await driver.put_settings(queue, QueueSettings(moved_to="memory://elsewhere"))
    with pytest.raises(Moved, match="elsewhere"):
        async with transaction(client) as session:
            await task.options(session=session).enqueue(1)
    assert await total(mux, queue) == 0


@asynccontextmanager
async def driver_on(url: str) -> AsyncIterator[MongoDriver]:
    driver = MongoDriver(url)
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


def new_job(queue: str, job_id: str) -> NewJob:
    return NewJob(JobRecord(queue=queue, id=job_id, task="t"))


async def test_a_removed_jobs_id_is_free_again(client, server, queue) -> None:
    async with driver_on(server.url) as driver:
        await driver.push(Op("p", 1), [new_job(queue, "job")])
        (held,) = (await driver.claim(Op("w", 1), ClaimAsk(queue, "w", 1, 60_000))).jobs
        removal = Transition(ref=held.ref, guard=Guard(fence=held.fence), remove=True)
        await driver.apply(Op("w", 2), [removal])
        async with transaction(client) as session:
            (pushed,) = await driver.push_within(session, [new_job(queue, "job")])
        (record,) = await driver.get([Ref(queue, "job")])
    assert pushed.status is PushStatus.CREATED
    assert record is not None
    assert record.fence > held.fence


async def test_a_conflict_is_both_stores_and_pymongos_error(client, server, queue) -> None:
    async with driver_on(server.url) as driver:
        with pytest.raises(TransactionInterrupted) as told:
            async with transaction(client) as session:
                await driver.push_within(session, [new_job(queue, "first")])
                await driver.push(Op("p", 1), [new_job(queue, "job")])
                await driver.push_within(session, [new_job(queue, "job")])
        assert isinstance(told.value, StoreBusy)
        assert told.value.has_error_label("TransientTransactionError")
        assert (await driver.get([Ref(queue, "first")])) == [None]


async def test_the_bell_rings_after_the_commit(client, server, queue) -> None:
    async with driver_on(server.url) as driver, driver_on(server.url) as worker:
        await worker.claim(Op("w", 1), ClaimAsk(queue, "w", 1, 60_000))
        heard = worker._store.bell
        heard.mark([queue])
        async with transaction(client) as session:
            await driver.push_within(session, [new_job(queue, "job")])
            assert not heard.rang([queue])
        assert await heard.hear([queue], 20)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_a_single_server_is_refused_by_name(kind) -> None:
    with running(replica_set=None) as alone:
        async with connected(kind, alone.url) as client, Taskmux(client=client) as mux:

            @mux.task()
            async def task() -> None: ...

            with pytest.raises(UnsupportedFeature, match="replica set"):
                async with session_of(client) as session:
                    await maybe(session.start_transaction())
                    try:
                        await task.options(session=session).enqueue()
                    finally:
                        await session.abort_transaction()


async def test_a_session_that_cannot_do_is_refused_before_anything_is_sent(
    client, server, mux, queue, task
) -> None:
    async with session_of(client) as session:
        with pytest.raises(DeclarationError, match="in no transaction"):
            await task.options(session=session).enqueue(1)
    blocking, refused = server.client(), pytest.raises(DeclarationError, match="AsyncMongoClient")
    with blocking, blocking.start_session() as session, session.start_transaction(), refused:
        await task.options(session=session).enqueue(1)
    assert await total(mux, queue) == 0


async def test_a_session_of_another_deployment_is_refused(client, mux, queue, task) -> None:
    refused = pytest.raises(DeclarationError, match="another MongoDB deployment")
    with running() as elsewhere, refused:
        async with (
            driver_on(elsewhere.url),
            connected(type(client), elsewhere.url) as stranger,
            transaction(stranger) as session,
        ):
            await task.options(session=session).enqueue(1)
    assert await total(mux, queue) == 0


async def test_a_failure_that_running_again_does_not_help_is_the_stores(
    client, server, queue
) -> None:
    async with driver_on(server.url) as driver:
        point = {"failCommands": ["insert"], "errorCode": 13}
        with server.client() as plain, pytest.raises(StoreDenied):
            plain.admin.command(
                {"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": point}
            )
            async with transaction(client) as session:
                await driver.push_within(session, [new_job(queue, "job")])


async def test_the_example_in_the_docs_runs(server) -> None:
    page = (Path(__file__).parents[2] / "docs" / "mongodb.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "docs"}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    url = server.url.replace("/taskmux", f"/{uuid4().hex}")
    await names["shop"](url)
    async with connected(AsyncMongoClient, url) as client, Taskmux(client=client) as mux:
        assert await total(mux, "default") == 1
        assert await client.shop.orders.count_documents({}) == 1
