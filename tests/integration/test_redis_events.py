"""The stream of a queue in Redis: how large it gets, and what somebody may do to it."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis as AsyncRedis
from taskmux.driver import (
    ClaimAsk,
    CorruptRecord,
    JobRecord,
    Keep,
    NewJob,
    Op,
    PruneAsk,
    PushStatus,
    QueueSettings,
    StoreDenied,
    What,
    transition,
)
from tests.servers import redis_program, running

from taskmux_redis import RedisDriver

pytestmark = pytest.mark.skipif(redis_program() is None, reason="no redis-server")
BASE = "{tm:email}:"


@pytest.fixture(scope="module")
def server():
    with running() as one:
        yield one


@pytest.fixture
def client(server):
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
async def driver(server, client):
    one = RedisDriver(server.url)
    await one.open()
    yield one
    await one.close()


async def push(driver, number, *ids):
    jobs = [NewJob(JobRecord(queue="email", id=job_id, task="t")) for job_id in ids]
    answers = await driver.push(Op("producer", number), jobs)
    assert {answer.status for answer in answers} == {PushStatus.CREATED}


async def test_no_more_is_kept_than_about_what_is_wanted(driver, client):
    await driver.put_settings("email", QueueSettings(events=1000))
    for number in range(1, 501):
        await push(driver, number, *(f"{number}-{place}" for place in range(10)))
    # Redis lets go of whole nodes: of 100 records, or 4 KiB
    assert 100 <= client.xlen(f"{BASE}events") <= 230
    assert client.get(f"{BASE}numbers") == b"5000"
    page = await driver.events("email", "1", 10, 0)
    assert page.gap


async def test_a_batch_is_one_record(driver, client):
    await push(driver, 1, *(f"job-{place}" for place in range(400)))
    claimed = await driver.claim(Op("worker", 1), ClaimAsk("email", "worker", 400, 60_000))
    done = [transition.complete(job, b"1") for job in claimed.jobs]
    await driver.apply(Op("worker", 1), done)
    assert client.xlen(f"{BASE}events") == 3
    assert client.get(f"{BASE}numbers") == b"1200"


async def test_an_idle_queues_stream_goes_with_its_jobs(driver, client):
    await push(driver, 1, "job")
    (job,) = (await driver.claim(Op("worker", 1), ClaimAsk("email", "worker", 1, 60_000))).jobs
    one = transition.remove(job.ref)
    await driver.apply(Op("worker", 1), [transition.release(job), one])
    await driver.prune(PruneAsk("email", memory=60_000))
    assert client.exists(f"{BASE}events")
    await driver.prune(PruneAsk("email", memory=-1))
    assert not client.exists(f"{BASE}events")
    page = await driver.events("email", "1", 10, 0)
    assert (list(page.events), page.gap) == ([], True)


@pytest.mark.parametrize("key", ["events", "numbers"])
async def test_a_key_of_another_type_stops_no_job(driver, client, key):
    client.sadd(f"{BASE}{key}", "not taskmux's")
    await push(driver, 1, "job")
    (job,) = (await driver.claim(Op("worker", 1), ClaimAsk("email", "worker", 1, 60_000))).jobs
    (answer,) = await driver.apply(Op("worker", 1), [transition.cancel(job.ref, Keep())])
    assert answer.status == "requested"
    with pytest.raises(CorruptRecord, match=key):
        await driver.events("email", None if key == "numbers" else "0", 10, 0.01)


async def test_numbers_that_are_lost_begin_anew_and_leave_a_gap(driver, client):
    await push(driver, 1, *"abcde")
    page = await driver.events("email", None, 10, 0)
    client.delete(f"{BASE}numbers")
    await push(driver, 2, "f")
    page = await driver.events("email", page.cursor, 10, 0.01)
    assert page.gap
    await push(driver, 3, "g")
    page = await driver.events("email", page.cursor, 10, 1)
    assert [(event.what, event.id) for event in page.events] == [(What.ADDED, "g")]


async def test_a_record_of_somebody_else_is_passed_over(driver, client):
    page = await driver.events("email", None, 10, 0)
    client.set(f"{BASE}numbers", 1)
    client.xadd(f"{BASE}events", {"h": "what", "i": "\xff"}, id="1-0")
    await push(driver, 1, "job")
    page = await driver.events("email", page.cursor, 10, 1)
    assert [event.id for event in page.events] == ["job"]


async def test_without_the_permission_jobs_go_on(server, client):
    client.acl_setuser(
        "narrow",
        enabled=True,
        passwords=["+secret"],
        keys=["*"],
        categories=["+@all"],
        commands=["-xadd", "-xread", "-xrevrange"],
    )
    driver = RedisDriver(server.url.replace("redis://", "redis://narrow:secret@"))
    await driver.open()
    try:
        await push(driver, 1, "job")
        claimed = await driver.claim(Op("worker", 1), ClaimAsk("email", "worker", 1, 60_000))
        assert [job.id for job in claimed.jobs] == ["job"]
        with pytest.raises(StoreDenied):
            await driver.events("email", "0", 10, 0.01)
    finally:
        await driver.close()
        client.acl_deluser("narrow")


async def test_following_leaves_a_small_client_room(server, client):
    with_two = AsyncRedis(port=server.port, max_connections=2)
    driver = RedisDriver.from_client(with_two)
    await driver.open()
    page = await driver.events("email", None, 10, 0)
    waiting = asyncio.ensure_future(driver.events("email", page.cursor, 10, 20))
    sleeping = asyncio.ensure_future(driver.wait(["reports"], 20))
    await asyncio.sleep(0)
    await push(driver, 1, "job")
    assert [event.id for event in (await waiting).events] == ["job"]
    sleeping.cancel()
    await driver.close()
    await with_two.aclose()
