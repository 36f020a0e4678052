"""Change streams of MongoDB: what the server may do to them, and how they end."""

from __future__ import annotations

from uuid import uuid4

import pytest
from taskmux.driver import JobRecord, NewJob, Op

from taskmux_mongodb import MongoDriver
from taskmux_mongodb import events as change_streams


@pytest.fixture
async def driver(mongodb_url):
    one = MongoDriver(mongodb_url.replace("/?", f"/t{uuid4().hex}?"))
    await one.open()
    yield one
    await one.close()


async def push(driver, number, *ids):
    jobs = [NewJob(JobRecord(queue="email", id=job_id, task="t")) for job_id in ids]
    await driver.push(Op("producer", number), jobs)


async def test_a_stream_that_the_server_forgot_goes_on_where_it_was(driver):
    page = await driver.events("email", None, 10, 0)
    (stream,) = driver._streams._idle.values()
    kept = stream.number
    stream.number = 4711  # none of the server's
    await push(driver, 1, "a", "b")
    page = await driver.events("email", page.cursor, 10, 10)
    assert ([event.id for event in page.events], page.gap) == (["a", "b"], False)
    stream.number = kept


async def test_no_more_streams_stay_open_than_a_few(driver):
    page = await driver.events("email", None, 10, 0)
    await push(driver, 1, *(f"job-{number}" for number in range(50)))
    cursor = page.cursor
    for number in range(50):
        page = await driver.events("email", cursor, 1, 10)
        assert [event.id for event in page.events] == [f"job-{number}"]
        await driver.events("email", cursor, 10, 10)  # another follower, who is not as far
        cursor = page.cursor
    assert len(driver._streams._idle) <= change_streams._STREAMS


async def test_a_dropped_database_ends_no_following(driver):
    page = await driver.events("email", None, 10, 0)
    await push(driver, 1, "a")
    await driver._store.client.drop_database(driver._database)
    await push(driver, 2, "b")
    seen: list[str] = []
    while seen[-1:] != ["b"]:
        page = await driver.events("email", page.cursor, 10, 10)
        seen += [event.id for event in page.events]
