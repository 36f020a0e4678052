"""The Redis driver while a cluster or a Sentinel set changes under it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import pytest
import redis
from taskmux.driver import State
from tests.redis_load import Load, LossyLoad
from tests.scale import scaled
from tests.servers import (
    RedisServer,
    redis_cluster,
    redis_program,
    redis_sentinels,
    wait_until,
)

from taskmux_redis import RedisDriver

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(redis_program() is None, reason="no redis-server"),
]


@pytest.fixture(scope="module")
def nodes():
    with redis_cluster() as servers:
        yield servers


@pytest.fixture
async def driver(nodes):
    one = RedisDriver(f"redis+cluster://127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[1].port}")
    await one.open()
    yield one
    await one.close()


def owner_of(queue: str, nodes) -> tuple[int, int, list[int]]:
    """The slot of a queue, and the ports of its primary and of that one's replicas."""
    with redis.RedisCluster(host="127.0.0.1", port=nodes[0].port) as cluster:
        slot = cluster.keyslot(f"{{tm:{queue}}}:")
        primary, *replicas = cluster.nodes_manager.slots_cache[slot]
    return slot, primary.port, [one.port for one in replicas]


def follows(port: int) -> bool:
    with redis.Redis(port=port) as client:
        state = client.info("replication")
    return state["role"] == "slave" and state["master_link_status"] == "up"


def fail_over(queue: str, nodes) -> None:
    def replicas() -> list[int]:
        return [port for port in owner_of(queue, nodes)[2] if follows(port)]

    wait_until(replicas, "a replica follows")
    with redis.Redis(port=replicas()[0]) as replica:
        for _ in range(4):  # the cluster gives up after 5 seconds if its nodes were busy
            replica.execute_command("CLUSTER FAILOVER")
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: replica.info("replication")["role"] == "master", "one", 6)
                return
    raise AssertionError("the cluster never failed over")


async def test_cluster_failovers_lose_nothing(driver, nodes):
    async def disturb():
        await asyncio.to_thread(fail_over, "moving", nodes)

    load = Load(driver, "moving", 3000)
    await load.run(disturb, times=scaled(5, 2))
    await load.check()


def migrate(queue: str, nodes) -> None:
    """Move a queue's slot to another primary, key by key."""
    slot, from_port, _ = owner_of(queue, nodes)
    source = redis.Redis(port=from_port)
    known = source.execute_command("CLUSTER NODES")
    mine = source.execute_command("CLUSTER MYID").decode()
    name, other = next(
        (name, node)
        for name, node in known.items()
        if "master" in node["flags"] and node["node_id"] != mine
    )
    port = int(name.rsplit(":", 1)[1])
    with source, redis.Redis(port=port) as target:
        target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", mine)
        source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", other["node_id"])
        while keys := source.execute_command("CLUSTER GETKEYSINSLOT", slot, 3):
            source.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source):
            node.execute_command("CLUSTER SETSLOT", slot, "NODE", other["node_id"])


async def test_a_live_slot_migration_loses_nothing(driver, nodes):
    async def disturb():
        await asyncio.to_thread(migrate, "slotted", nodes)
        await asyncio.sleep(0.2)

    load = Load(driver, "slotted", 1000)
    await load.run(disturb, times=2)
    await load.check()


def role(server: RedisServer) -> str:
    with server.client() as client:
        return str(client.info("replication")["role"])


@contextlib.contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    """A server that neither reads nor answers for the length of a block."""
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def named_by(sentinel: RedisServer) -> int:
    """The port of the primary that a Sentinel names."""
    with sentinel.client() as client:
        return int(client.sentinel_get_master_addr_by_name("mymaster")[1])


def replicate(primary: RedisServer) -> None:
    """Return when a replica has everything that the primary has acknowledged before."""
    with primary.client() as client:
        client.incr("checkpoint")  # WAIT asks about the writes of its own connection
        assert client.wait(1, 10_000) == 1


@pytest.fixture(scope="module")
def sentinels():
    with redis_sentinels() as (_, found):
        yield found


async def test_a_stopped_sentinel_is_passed_over(sentinels):
    hosts = ",".join(f"127.0.0.1:{one.port}" for one in sentinels)
    driver = RedisDriver(f"redis+sentinel://{hosts}/mymaster?timeout=2")
    with stopped(sentinels[0]):
        await driver.open()
        assert (await driver.counts("q"))[State.WAITING] == 0
        await driver.close()


async def test_a_wait_that_is_cancelled_behind_sentinel_ends(sentinels):
    hosts = ",".join(f"127.0.0.1:{one.port}" for one in sentinels)
    driver = RedisDriver(f"redis+sentinel://{hosts}/mymaster")
    await driver.open()
    for _ in range(3):
        waiting = asyncio.create_task(driver.wait(["q"], 3))
        await asyncio.sleep(0)  # it asks the Sentinels for the way, or has begun to wait
        waiting.cancel()
        (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
        assert outcome is True or isinstance(outcome, asyncio.CancelledError)
    await driver.close()


async def test_a_killed_primary_is_replaced_by_sentinel():
    with redis_sentinels() as ((primary, replica), sentinels):
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in sentinels)
        driver = RedisDriver(f"redis+sentinel://{hosts}/mymaster")
        await driver.open()
        before = Load(driver, "before", 200)
        await before.run()
        replicate(primary)
        await asyncio.to_thread(primary.kill)
        after = Load(driver, "after", 500)
        await after.run()
        await after.check()
        await before.check()
        with replica.client() as client:
            assert client.info("replication")["role"] == "master"
        assert (await driver.counts("before"))[State.COMPLETED] == 200
        await driver.close()


async def test_sentinel_failovers_leave_nobody_stuck_and_losses_are_counted(
    caplog, record_property
):
    """The primary is killed five times under load.

    What the replica had before a kill stays. What was acknowledged while the replica was cut off
    is lost: it is counted and reported, and the driver warns of each failover.
    """
    with redis_sentinels() as (servers, sentinels):
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in sentinels)
        driver = RedisDriver(f"redis+sentinel://{hosts}/mymaster")
        await driver.open()
        load = LossyLoad(driver, "q")
        failovers = scaled(5, 2)
        replicated: set[str] = set()
        since = [0]

        def kill_primary() -> None:
            primary, replica = sorted(servers, key=role)
            wait_until(lambda: follows(replica.port), "the replica follows")
            here = load.acknowledged[since[-1] :]
            replicate(primary)
            replicated.update(here)
            with stopped(replica), primary.client() as client:
                client.client_kill_filter(_type="replica")  # what comes now stays here alone
                known = len(load.acknowledged)
                wait_until(lambda: len(load.acknowledged) > known, "another acknowledgement")
                primary.kill()
            named = {replica.port}
            wait_until(lambda: {named_by(one) for one in sentinels} == named, "a failover", 40)
            primary.start()  # without its data; the Sentinels would make it a replica, later
            with primary.client() as client:
                client.replicaof("127.0.0.1", replica.port)
            wait_until(lambda: follows(primary.port), "the old primary follows", 40)
            since.append(len(load.acknowledged))

        try:
            await load.run(lambda: asyncio.to_thread(kill_primary), times=failovers)
            lost = await load.lost()
        finally:
            await driver.close()
    record_property("acknowledged", len(load.acknowledged))
    record_property("acknowledged and lost", len(lost))
    known = len(load.acknowledged)
    report = f"{len(lost)} of {known} acknowledged jobs were lost by {failovers} failovers"
    print(report)  # noqa: T201 - pytest shows it with -rP
    assert lost
    assert replicated
    assert not replicated & set(lost)
    warned = [one for one in caplog.messages if "failed over" in one]
    assert len(warned) == failovers
