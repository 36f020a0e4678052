"""What happens between two steps of a claim or a transition in a queue with lines or limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from pymongo import DeleteOne
from taskmux.driver import (
    JobRecord,
    Keep,
    LineSettings,
    NewJob,
    Op,
    Ref,
    State,
    StoreBusy,
    transition,
)
from tests import mongo_jobs
from tests.mongo_jobs import FOREVER, claim, created, limit, needs_mongod
from tests.mongo_servers import MongoServer

from taskmux_mongodb import MongoDriver, claim_jobs, lines, lines_lock, wait

pytestmark = needs_mongod
server = mongo_jobs.server
driver = mongo_jobs.driver
other = mongo_jobs.other

HOUR = 3_600_000


# -- a line that is found empty -------------------------------------------------------------------


def before_removal(driver: MongoDriver, do: Callable[[], Awaitable[object]]) -> None:
    """Do something when a line was found empty, before it is taken out of the ring."""
    write = driver._store.write

    async def interrupted(writes, **kwargs):
        if any(isinstance(one, DeleteOne) for one in writes):
            driver._store.write = write
            await do()
        return await write(writes, **kwargs)

    driver._store.write = interrupted


def in_ring(server: MongoServer) -> list[str]:
    with server.client() as client:
        return [one["line"] for one in client["taskmux"]["ring"].find()]


async def test_a_job_that_comes_when_a_claim_found_its_line_empty_keeps_the_line(
    server, driver, other
) -> None:
    await created(driver, "first", group="g")
    before_removal(driver, lambda: created(other, "second", group="g"))
    assert [job.id for job in await claim(driver)] == ["first"]
    assert in_ring(server) == ["g"]


async def test_a_job_that_comes_when_its_line_was_left_keeps_the_line(
    server, driver, other
) -> None:
    await created(driver, "first", group="g")
    before_removal(driver, lambda: created(other, "second", group="g"))
    await driver.apply(Op("x", 1), [transition.cancel(Ref("q", "first"), Keep())])
    assert in_ring(server) == ["g"]


async def test_a_line_that_is_left_empty_leaves_the_ring(server, driver) -> None:
    await created(driver, "first", group="g")
    await driver.apply(Op("x", 1), [transition.cancel(Ref("q", "first"), Keep())])
    assert in_ring(server) == []


async def test_the_line_of_a_committed_job_comes_into_the_ring_by_itself(server, driver) -> None:
    async with driver._store.client.start_session() as session:
        await session.start_transaction()
        job = JobRecord(queue="q", id="job", task="t", group="g")
        await driver.push_within(session, [NewJob(job)])
        await session.commit_transaction()
    await until(lambda: in_ring(server) == ["g"])


# -- the lock of a queue with limits --------------------------------------------------------------


@pytest.mark.parametrize("group", [None, "g"])
async def test_a_lock_that_ends_before_the_lease_is_written_leases_nothing(
    driver, monkeypatch, group
) -> None:
    await limit(driver, concurrency=1, groups=LineSettings(concurrency=1))
    await created(driver, "job", group=group)
    late = 0.0

    class Slow:
        """The clock of a process that is held up between its look and its lease."""

        monotonic = staticmethod(lambda: time.monotonic() + late)

    monkeypatch.setattr(lines_lock, "time", Slow)
    of, name = (claim_jobs, "candidates") if group is None else (lines._Walk, "choose")
    look = getattr(of, name)

    async def held_up(*args):
        nonlocal late
        found = await look(*args)
        late += lines_lock._LEASED_WITHIN + 0.5
        return found

    monkeypatch.setattr(of, name, held_up)
    with pytest.raises(StoreBusy):
        await claim(driver)
    assert (await driver.counts("q"))[State.ACTIVE] == 0
    monkeypatch.undo()
    assert [job.id for job in await claim(driver, 2)] == ["job"]


async def test_who_lost_its_lock_leaves_that_of_another_alone(server, driver) -> None:
    with server.client() as client:
        gates = client["taskmux"]["gates"]
        async with lines_lock.Lock(driver._store, "q", "first"):
            gates.update_one({"_id": "q"}, {"$set": {"by": "second"}})
        gate = gates.find_one({"_id": "q"})
    assert gate is not None
    assert gate["by"] == "second"
    assert gate["until"] > 0


# -- rests ----------------------------------------------------------------------------------------

NEIGHBOURS = ("q2", "qq", "q-", "p", "q.x")
"""Names that begin as the queue's does, or sort beside it."""


@pytest.mark.parametrize("line", [False, True])
async def test_the_rest_of_a_queue_leaves_other_queues_alone(driver, line) -> None:
    for queue in ("q", *NEIGHBOURS):
        await created(driver, "a", "b", queue=queue, group="g")
    await created(driver, "c", group="h")
    (held,) = await claim(driver)
    rest = transition.limited(held, transition.NO_CHANGES, HOUR, line=line)
    await driver.apply(Op("x", 1), [rest])
    assert [job.id for job in await claim(driver, 2, limit=9)] == (["c"] if line else [])
    for queue in NEIGHBOURS:
        assert [job.id for job in await claim(driver, 3, queue=queue)] == ["a"], queue


@pytest.mark.parametrize("line", [False, True])
async def test_new_settings_end_the_rests_of_their_queue_alone(driver, line) -> None:
    for queue in ("q", *NEIGHBOURS):
        await created(driver, "a", queue=queue, group="g")
        (held,) = await claim(driver, 1, queue=queue)
        rest = transition.limited(held, transition.NO_CHANGES, HOUR, line=line)
        await driver.apply(Op("x", 1), [rest])
    await limit(driver, concurrency=9)
    assert [job.id for job in await claim(driver, 2)] == ["a"]
    for queue in NEIGHBOURS:
        assert await claim(driver, 2, queue=queue) == [], queue


# -- the listener ---------------------------------------------------------------------------------


async def test_a_listener_that_was_cut_off_listens_again(
    server, driver, other, monkeypatch
) -> None:
    async def blind(*_args: object) -> bool:
        return False

    monkeypatch.setattr(wait, "look", blind)
    await claim(driver)
    bell = driver._store.bell
    await until(lambda: bell.listening)
    with server.client() as client:
        client.admin.command("killAllSessions", [])
    await until(lambda: not bell.listening)
    await until(lambda: bell.listening)
    bell.mark(["q"])
    sleeping = asyncio.create_task(driver.wait(["q"], FOREVER))
    await created(other, "job")
    assert await asyncio.wait_for(sleeping, FOREVER / 2)


async def test_a_bell_that_is_dropped_ends_the_waits(server, driver, monkeypatch) -> None:
    """What rang in it was perhaps not heard."""

    async def blind(*_args: object) -> bool:
        return False

    monkeypatch.setattr(wait, "look", blind)
    await claim(driver)
    await until(lambda: driver._store.bell.listening)
    while await driver.wait(["q"], 0.05):
        continue  # what was in the collection already
    sleeping = asyncio.create_task(driver.wait(["q"], FOREVER))
    await asyncio.sleep(0)
    with server.client() as client:
        client["taskmux"].drop_collection("bell")
    assert await asyncio.wait_for(sleeping, FOREVER / 2)


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(FOREVER / 2):
        while not reached():
            await asyncio.sleep(0.005)
