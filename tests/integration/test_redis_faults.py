"""The Redis driver when things break: nothing lost, counts exact, no error that a retry absorbs."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
import redis.asyncio
from taskmux.driver import (
    ClaimAsk,
    HeldLease,
    LeaseStatus,
    Op,
    Ref,
    State,
    StoreFull,
    StoreUnavailable,
    transition,
)
from tests.proxy import Proxy
from tests.redis_load import Load, new
from tests.servers import redis_program, running

from taskmux_redis import RedisDriver, connection

pytestmark = pytest.mark.skipif(redis_program() is None, reason="no redis-server")


@pytest.fixture
def server():
    with running() as one:
        yield one


@pytest.fixture
async def admin(server):
    client = redis.asyncio.Redis(port=server.port, protocol=2)
    yield client
    await client.aclose()


@pytest.fixture
async def driver(server):
    one = RedisDriver(server.url)
    await one.open()
    yield one
    await one.close()


async def test_script_flush_goes_unnoticed(driver, admin):
    async def flush():
        await admin.script_flush()
        await asyncio.sleep(0.002)

    load = Load(driver, "q", 2000)
    await load.run(flush, times=100)
    await load.check()


async def test_killed_connections_lose_nothing(driver, admin):
    async def kill():
        await admin.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0.02)

    load = Load(driver, "q", 6000)
    await load.run(kill, times=100)
    await load.check()


@pytest.mark.chaos
async def test_lost_replies_lose_nothing(server):
    async with Proxy(server.port) as proxy:
        driver = RedisDriver(f"redis://127.0.0.1:{proxy.port}")
        await driver.open()
        proxy.drop_reply = lambda rng: rng.random() < 0.05
        load = Load(driver, "q", 7000, batch=1)
        await load.run()
        proxy.drop_reply = lambda rng: False
        await load.check()
        await driver.close()
        assert proxy.replies > 20_000
        assert proxy.dropped > 800


async def test_cancelled_commands_cross_no_replies(server):
    async with Proxy(server.port) as proxy:
        proxy.delay = 0.002
        driver = RedisDriver(f"redis://127.0.0.1:{proxy.port}")
        await driver.open()
        for at in range(50):
            await driver.push(Op("p", at), [new("q", f"j{at}", payload=b'{"n":%d}' % at)])
        rng = Random(1)

        async def read(at: int) -> None:
            job = (await driver.get([Ref("q", f"j{at}")]))[0]
            assert job is not None
            assert (job.id, job.payload) == (f"j{at}", b'{"n":%d}' % at)

        async def storm(lane: int) -> None:
            for turn in range(1250):
                task = asyncio.create_task(read((lane * 7 + turn) % 50))
                await asyncio.sleep(rng.random() * 0.006)
                task.cancel()
                outcome = await asyncio.gather(task, return_exceptions=True)
                assert outcome[0] is None or isinstance(outcome[0], asyncio.CancelledError)

        await asyncio.gather(*(storm(lane) for lane in range(8)))
        await asyncio.gather(*(read(at) for at in range(50)))
        await driver.close()


async def test_a_cancelled_wait_crosses_no_replies(driver):
    for turn in range(30):
        waiting = asyncio.create_task(driver.wait(["q"], 5))
        await asyncio.sleep(0)
        await asyncio.sleep(0.001 * (turn % 3))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (await driver.counts("q"))[State.WAITING] == 0


async def test_an_idle_server_is_made_to_see_that_a_wait_is_over(driver, monkeypatch):
    made_to, once = asyncio.Event(), connection.Connection.once

    async def watched(self, command, *args, **options):
        if command == "EXISTS":
            made_to.set()
        return await once(self, command, *args, **options)

    monkeypatch.setattr(connection.Connection, "once", watched)
    while not made_to.is_set():  # now and then it sees so by itself
        assert not await driver.wait(["q"], 0.02)


async def test_a_server_that_says_nothing_is_given_up_in_time(server, monkeypatch):
    patiently = connection.Connection.patiently
    patience, *others = patiently.__defaults__
    assert patience == connection.PATIENCE
    monkeypatch.setattr(patiently, "__defaults__", (0.3, *others))
    async with Proxy(server.port) as proxy:
        driver = RedisDriver(f"redis://127.0.0.1:{proxy.port}?timeout=0.2")
        await driver.open()
        await driver.push(Op("p", 1), [new("q", "a")])
        proxy.black_hole = True
        with pytest.raises(StoreUnavailable, match="did not answer in time"):
            await driver.counts("q")
        proxy.black_hole = False
        assert (await driver.counts("q"))[State.WAITING] == 1
        await driver.close()


async def test_many_bytes_arrive_over_a_slow_link_and_are_sent_once(server):
    async with Proxy(server.port) as proxy:
        driver = RedisDriver(f"redis://127.0.0.1:{proxy.port}?timeout=0.2")
        await driver.open()
        proxy.rate = 8_000_000.0
        jobs = [new("q", f"j{at}", payload=b"x" * 20_000) for at in range(500)]
        await driver.push(Op("p", 1), [*jobs, new("q", "large", payload=b"x" * 4_000_000)])
        assert (await driver.counts("q"))[State.WAITING] == 501
        assert proxy.requested < 1.2 * 14_000_000
        proxy.rate = None
        ask = ClaimAsk("q", "w", 501, 60_000)
        held = (await driver.claim(Op("w", 1), ask)).jobs
        assert [job.id for job in held] == [*(job.job.id for job in jobs), "large"]
        proxy.rate, before = 8_000_000.0, proxy.requested
        ends = [transition.complete(job, b"y" * 20_000) for job in held]
        await driver.apply(Op("w", 2), ends)
        assert proxy.requested - before < 1.2 * 10_000_000
        await driver.close()


async def test_a_large_reply_has_twice_the_time_at_each_try(server):
    async with Proxy(server.port) as proxy:
        driver = RedisDriver(f"redis://127.0.0.1:{proxy.port}?timeout=0.2")
        await driver.open()
        await driver.push(
            Op("p", 1), [new("q", f"{at}", payload=b"x" * 50_000) for at in range(80)]
        )
        proxy.rate = 4_000_000.0  # 1 s
        claimed = await driver.claim(Op("w", 1), ClaimAsk("q", "w", 80, 60_000))
        assert len(claimed.jobs) == 80
        await driver.close()


async def test_a_waiter_hears_again_after_its_connection_was_killed(driver, admin):
    waiting = asyncio.create_task(driver.wait(["q"], 20))
    while not await admin.client_list(_type="normal") or not any(
        client["cmd"] == "bzpopmin" for client in await admin.client_list()
    ):
        await asyncio.sleep(0.01)
    await admin.client_kill_filter(_type="normal", skipme=True)
    assert await waiting  # a wake-up may have gone with the connection: look
    again = asyncio.create_task(driver.wait(["q"], 20))
    other = driver.fork()
    await other.open()
    await other.push(Op("p", 1), [new("q", "a")])
    assert await again
    await other.close()


async def test_a_full_store_refuses_new_jobs_and_is_drained(driver, admin):
    for at in range(200):
        await driver.push(Op("p", at), [new("q", f"j{at}", payload=b"x" * 1000)])
    first = (await driver.claim(Op("w", 1), ClaimAsk("q", "w", 10, 30_000))).jobs
    await admin.config_set("maxmemory", 1)
    before = await driver.counts("q")
    with pytest.raises(StoreFull, match="maxmemory"):
        await driver.push(Op("p", 1000), [new("q", "more"), new("q", "and-more")])
    assert await driver.counts("q") == before
    held = await driver.extend([HeldLease(job.ref, job.fence) for job in first], 30_000)
    assert {one.status for one in held} == {LeaseStatus.HELD}
    await driver.apply(Op("w", 2), [transition.complete(job, b"1") for job in first])
    for number in range(3, 30):
        claimed = await driver.claim(Op("w", number), ClaimAsk("q", "w", 10, 30_000))
        await driver.apply(
            Op("w", number), [transition.complete(job, b"1") for job in claimed.jobs]
        )
    assert (await driver.counts("q"))[State.COMPLETED] == 200
    await admin.config_set("maxmemory", 0)
    await driver.push(Op("p", 1001), [new("q", "more")])
    assert (await driver.counts("q"))[State.WAITING] == 1


async def test_a_crashed_server_with_appendfsync_always_loses_nothing():
    with running("--appendonly", "yes", "--appendfsync", "always") as server:
        driver = RedisDriver(server.url)
        await driver.open()

        async def crash():
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

        load = Load(driver, "q", 6000)
        await load.run(crash, times=10)
        await load.check()
        await driver.close()
