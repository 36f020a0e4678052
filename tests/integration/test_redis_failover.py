"""The Redis driver while a cluster or a Sentinel set changes under it."""

from __future__ import annotations

import asyncio

import pytest
import redis
from taskmux.driver import State
from tests.redis_load import Load
from tests.servers import redis_cluster, redis_program, redis_sentinels, wait_until

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
        replica.execute_command("CLUSTER FAILOVER")
        wait_until(lambda: replica.info("replication")["role"] == "master", "a failover")


async def test_cluster_failovers_lose_nothing(driver, nodes):
    async def disturb():
        await asyncio.to_thread(fail_over, "moving", nodes)

    load = Load(driver, "moving", 1000)
    await load.run(disturb, times=2)
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


async def test_a_killed_primary_is_replaced_by_sentinel():
    with redis_sentinels() as ((primary, replica), sentinels):
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in sentinels)
        driver = RedisDriver(f"redis+sentinel://{hosts}/mymaster")
        await driver.open()
        before = Load(driver, "before", 200)
        await before.run()
        with primary.client() as client:
            assert client.wait(1, 5000) == 1
        await asyncio.to_thread(primary.kill)
        after = Load(driver, "after", 500)
        await after.run()
        await after.check()
        await before.check()
        with replica.client() as client:
            assert client.info("replication")["role"] == "master"
        assert (await driver.counts("before"))[State.COMPLETED] == 200
        await driver.close()
