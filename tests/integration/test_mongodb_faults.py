"""Lost replies and crashes: what was acknowledged is there, and is done once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import contextmanager

import pytest
from taskmux.conformance import resend
from taskmux.driver import (
    ApplyStatus,
    ClaimAsk,
    JobRecord,
    NewJob,
    Op,
    PushStatus,
    State,
    StoreUnavailable,
    transition,
)
from tests.mongo_servers import MongoServer, mongod_program, running

from taskmux_mongodb import MongoDriver

pytestmark = pytest.mark.skipif(mongod_program() is None, reason="no mongod")

FAULTS = {
    "not executed": {"closeConnection": True},
    "executed, not acknowledged": {"writeConcernError": {"code": 64, "errmsg": "on purpose"}},
    "stepping down": {"errorCode": 11602},
}


@pytest.fixture
async def server():
    with running() as server:
        yield server


@pytest.fixture
async def driver(server: MongoServer) -> AsyncIterator[MongoDriver]:
    driver = MongoDriver(f"{server.url}&serverSelectionTimeoutMS=500")
    await driver.open()
    yield driver
    await driver.close()


@contextmanager
def failing(server: MongoServer, commands: list[str], fault: dict, times: int):
    """Let the server fail the next commands of these names."""
    with server.client() as client:
        data = {"failCommands": commands, "appName": "taskmux"} | fault
        point = {"configureFailPoint": "failCommand", "mode": {"times": times}, "data": data}
        client.admin.command(point)
        yield
        client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_every_verb_survives_a_fault(server, driver, fault: dict, times: int) -> None:
    jobs = [NewJob(JobRecord(queue="q", id=f"job-{n}", task="t")) for n in range(5)]
    with failing(server, ["insert"], fault, times):
        pushed = await resend(lambda: driver.push(Op("p", 1), jobs))
    assert [one.status for one in pushed] == [PushStatus.CREATED] * 5
    ask = ClaimAsk("q", "w", 3, 60_000)
    with failing(server, ["update"], fault, times):
        claimed = await resend(lambda: driver.claim(Op("w", 1), ask))
    assert [one.id for one in claimed.jobs] == ["job-0", "job-1", "job-2"]
    counts = await driver.counts("q")
    assert (counts[State.WAITING], counts[State.ACTIVE]) == (2, 3)
    done = [transition.complete(one, b"1") for one in claimed.jobs]
    with failing(server, ["update"], fault, times):
        applied = await resend(lambda: driver.apply(Op("w", 2), done))
    assert {one.status for one in applied} <= {ApplyStatus.APPLIED, ApplyStatus.REPEATED}
    assert [one.attempts for one in await driver.get([job.ref for job in claimed.jobs]) if one] == [
        1,
        1,
        1,
    ]
    assert (await driver.counts("q"))[State.COMPLETED] == 3


async def test_a_majority_that_does_not_answer_is_unavailable(server, driver) -> None:
    fault = FAULTS["executed, not acknowledged"]
    with failing(server, ["insert"], fault, 100), pytest.raises(StoreUnavailable):
        await driver.push(Op("p", 1), [NewJob(JobRecord(queue="q", id="job", task="t"))])


@pytest.mark.chaos
async def test_acknowledged_jobs_outlive_a_killed_server(server, driver) -> None:
    acknowledged: list[str] = []
    stop = asyncio.Event()

    async def produce() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            new = [NewJob(JobRecord(queue="q", id=f"{number}-{n}", task="t")) for n in range(5)]
            op = Op("p", number)
            await resend(lambda: driver.push(op, new), tries=100_000)  # noqa: B023 - awaited here
            acknowledged.extend(one.job.id for one in new)

    async def work() -> None:
        number, finished = 0, False
        while not finished:
            finished = stop.is_set()
            number += 1
            op, ask = Op("w", number), ClaimAsk("q", "w", 20, 600_000)
            claimed = await resend(lambda: driver.claim(op, ask), tries=100_000)  # noqa: B023
            finished = finished and not claimed.jobs
            done = [transition.complete(job, b"1") for job in claimed.jobs]
            answers = await resend(lambda: driver.apply(op, done), tries=100_000)  # noqa: B023
            assert {one.status for one in answers} <= {ApplyStatus.APPLIED, ApplyStatus.REPEATED}

    tasks = [asyncio.create_task(produce()), asyncio.create_task(work())]
    for kills in range(1, 4):
        await until(lambda: len(acknowledged) > 200 * kills, tasks)  # noqa: B023 - awaited here
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    stop.set()
    await tasks[0]
    await tasks[1]
    counts = await driver.counts("q")
    assert counts[State.COMPLETED] == sum(counts.values()) == len(acknowledged)


async def until(reached, tasks) -> None:
    """Wait for a count that tasks drive up; fail with them."""
    while not reached():
        await asyncio.sleep(0.01)
        for task in tasks:
            if task.done():
                task.result()
