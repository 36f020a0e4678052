"""An application's own client of redis-py, used as it is."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
import redis
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from taskmux import Taskmux
from taskmux.driver import (
    ClaimAsk,
    InvalidURL,
    Op,
    QueueSettings,
    Ref,
    State,
    StoreIncompatible,
    StoreUnavailable,
    transition,
)
from taskmux.model.errors import DeclarationError
from tests.redis_load import Load, new
from tests.servers import free_port, redis_cluster, redis_program, running

from taskmux_redis import RedisDriver

real = pytest.mark.skipif(redis_program() is None, reason="no redis-server")


@pytest.fixture(scope="module")
def server():
    with running() as one:
        yield one


@pytest.fixture(scope="module")
def cluster():
    with redis_cluster() as servers:
        yield servers


@pytest.fixture
async def client(server):
    with redis.Redis(port=server.port) as admin:
        admin.flushall()
    one = Redis(port=server.port)
    yield one
    await one.aclose()


@real
@pytest.mark.parametrize("protocol", [None, 2, 3])
async def test_a_client_is_used_as_it_is_and_stays_open(server, client, protocol):
    given = Redis(port=server.port, protocol=protocol)
    driver = RedisDriver.from_client(given, prefix="app")
    other = driver.fork()
    assert (driver.bound, other.bound) == (True, True)
    await driver.open()
    await other.open()
    await driver.push(Op("p", 1), [new("q", "job")])
    (held,) = (await other.claim(Op("w", 1), ClaimAsk("q", "w", 1, 60_000))).jobs
    await driver.apply(Op("w", 2), [transition.complete(held, b"1")])
    assert await driver.put_settings("q", QueueSettings(paused=True))
    assert (await other.settings("q")).paused
    assert await other.queues() == ["q"]
    assert not await other.wait(["r"], 0.05)
    await driver.close()
    await other.close()
    assert await client.zcard("{app:q}:completed") == 1
    assert await given.ping()
    await given.aclose()


@real
async def test_load_goes_through_a_clients_few_connections(server, client):
    pool = BlockingConnectionPool(port=server.port, max_connections=10)
    given = Redis.from_pool(pool)
    driver = RedisDriver.from_client(given)
    await driver.open()
    load = Load(driver, "q", 500)
    await load.run()
    await load.check()
    await driver.close()
    await given.aclose()


@real
async def test_an_app_runs_on_a_client_handed_in(client):
    async with Taskmux(client=client) as mux:

        @mux.task()
        async def add(a: int, b: int) -> int:
            await asyncio.sleep(0.5)  # longer than the lease: it is renewed in this loop
            return a + b

        async with mux.worker(lease="300ms"):
            job = await add.enqueue(1, 2)
            assert await job.result(timeout="30s") == 3
            there = await asyncio.to_thread(add.blocking.enqueue, 3, 4)  # in this loop, too
            assert await mux.job("default", there.id).result(timeout="30s") == 7
        record = await job.record()
        assert (record.attempts, record.crashes) == (1, 0)
    assert await client.ping()  # it is still its owner's


@real
async def test_a_cluster_client_is_used_as_it_is(cluster):
    given = RedisCluster(host="127.0.0.1", port=cluster[0].port)
    driver = RedisDriver.from_client(given)
    await driver.open()
    for queue in "abcdef":
        await driver.push(Op("p", ord(queue)), [new(queue, "job")])
    assert await driver.queues() == list("abcdef")
    assert await driver.wait(["a", "b"], 5)
    assert (await driver.counts("a"))[State.WAITING] == 1
    await driver.close()
    assert await given.ping(target_nodes=RedisCluster.RANDOM)
    await given.aclose()


@real
async def test_a_block_stays_below_the_clients_own_time_limit(server):
    given = Redis(port=server.port, socket_timeout=0.4)
    driver = RedisDriver.from_client(given)
    await driver.open()
    assert not await driver.wait(["q"], 0.8)  # a limit that ends it would say True: look again
    await driver.close()
    await given.aclose()


async def test_a_server_that_is_down_is_named():
    given = Redis(port=free_port(), retry=None)
    driver = RedisDriver.from_client(given)
    with pytest.raises(StoreUnavailable, match=f"localhost:{driver.url.rpartition(':')[2]}"):
        await driver.open()
    await given.aclose()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Redis(decode_responses=True), "decode_responses=False"),
        (lambda: RedisCluster(host="h", decode_responses=True), "decode_responses=False"),
        (lambda: Redis(single_connection_client=True), "single_connection_client"),
        (lambda: Redis(max_connections=1), "max_connections"),
        (redis.Redis, "redis.asyncio"),
    ],
)
def test_a_client_that_does_not_fit_is_refused_with_what_to_do(make, says):
    with pytest.raises(StoreIncompatible, match=says):
        Taskmux(client=make())


def test_other_clients_are_refused_and_redis_is_among_the_known_ones():
    with pytest.raises(DeclarationError, match="redis"):
        Taskmux(client=object())
    with pytest.raises(InvalidURL):
        RedisDriver.from_client(Redis(), prefix="a{b}")


@real
async def test_a_clients_own_retries_do_no_harm(server, client):
    """They send an operation twice at most as often as the driver does itself."""
    given = Redis(port=server.port)
    assert given.get_retry() is not None
    driver = RedisDriver.from_client(given)
    await driver.open()

    async def kill() -> None:
        await client.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0.02)

    load = Load(driver, "q", 1000)
    await load.run(kill, times=20)
    await load.check()
    assert await driver.get([Ref("q", "nobody")]) == [None]
    await driver.close()
    await given.aclose()


LEFT_BEHIND = """
import asyncio, sys
from redis.asyncio import Redis
from taskmux import Taskmux

given = Redis(port=int(sys.argv[1]))
mux = Taskmux(client=given)

@mux.task(name="t")
def task() -> None: ...

async def first() -> None:
    await task.enqueue()
    if sys.argv[2] == "closes":
        await mux.close()
        await given.aclose()

asyncio.run(first())
try:
    print(task.blocking.enqueue().blocking.status())
except Exception as error:
    print(type(error).__name__, error)
"""


@real
@pytest.mark.parametrize(
    ("closes", "words"),
    [("closes", "waiting"), ("leaves", "StoreIncompatible The Redis client has connections of an")],
)
def test_a_client_that_a_loop_left_behind_says_so(server, closes, words):
    """In a process of its own, since nobody can close those connections."""
    command = [sys.executable, "-W", "ignore", "-c", LEFT_BEHIND, str(server.port), closes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith(words), done.stderr
