"""Clients of redis-py: made for an address, or an application's own."""

from __future__ import annotations

from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from taskmux.driver import StoreIncompatible

from taskmux_redis.address import Address
from taskmux_redis.sentinels import Sentinels

__all__ = [
    "Client",
    "check_client",
    "connect",
    "connections",
    "disconnect",
    "longest_block",
    "where_is",
]

Client = Any
"""`redis.asyncio.Redis` or `RedisCluster`: what they share is `execute_command` and `aclose`."""

_CONNECTIONS: Final = 32
_FEWEST: Final = 2
_BLOCK: Final = 5.0


def connect(address: Address) -> Client:
    """Return a client for the address; it connects at first use."""
    timeout, tls = address.options.timeout, address.tls
    common: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        "protocol": 2,  # one form of replies on every server version
        "retry": Retry(NoBackoff(), 0),  # `Connection` sends again by itself
        "socket_timeout": None,  # a deadline spans each operation: `Connection`
        "socket_connect_timeout": timeout,
        **(tls or {}),
    }
    if address.scheme == "redis+cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return RedisCluster(
            startup_nodes=nodes, ssl=tls is not None, max_connections=_CONNECTIONS, **common
        )
    common["db"] = address.database
    if address.scheme == "redis+sentinel":
        return _of_sentinels(address, common)
    return Redis.from_pool(_pool(address, common))


def _of_sentinels(address: Address, common: dict[str, Any]) -> Client:
    secure = {"ssl": True} if address.tls is not None else {}
    options = address.options
    to_sentinels = {
        "username": options.sentinel_username,
        "password": options.sentinel_password,
        **secure,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
    }
    sentinels = Sentinels(
        address.hosts, options.timeout, address.where, to_sentinels, {**secure, **common}
    )
    return sentinels.master_for(address.path)


def _pool(address: Address, common: dict[str, Any]) -> BlockingConnectionPool:
    kind: type[Any]
    place: dict[str, Any]
    if address.scheme == "unix":
        kind, place = UnixDomainSocketConnection, {"path": address.path}
    else:
        kind = Connection if address.tls is None else SSLConnection
        host, port = address.hosts[0]
        place = {"host": host, "port": port}
    return BlockingConnectionPool(
        connection_class=kind, max_connections=_CONNECTIONS, timeout=None, **place, **common
    )


async def disconnect(client: Client) -> None:
    """Close every socket of a client, those to Sentinels too."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


# -- an application's own client -------------------------------------------------------------------


def _settings(client: Client) -> dict[str, Any]:
    if isinstance(client, RedisCluster):
        return dict(client.connection_kwargs)
    return dict(client.connection_pool.connection_kwargs)


def check_client(client: object) -> None:
    """Refuse a client that the driver cannot work with.

    The client's own retries do no harm: every operation may be sent twice, and the driver's
    deadlines hold for all of them together.

    Raises:
        StoreIncompatible: it is not of redis-py's asyncio side, decodes replies, or has one
            connection only. The message says how to make one that fits.
    """
    name = f"{type(client).__module__}.{type(client).__qualname__}"
    if not isinstance(client, Redis | RedisCluster):
        raise StoreIncompatible(
            f"A client {name} cannot be used. Give one of redis.asyncio: "
            f"Taskmux(client=redis.asyncio.Redis(...)) or RedisCluster(...)."
        )
    settings = _settings(client)
    if settings.get("decode_responses"):
        raise StoreIncompatible(
            "The Redis client decodes replies, and jobs are bytes. Make one for taskmux with "
            "decode_responses=False."
        )
    if getattr(client, "single_connection_client", False) or connections(client) < _FEWEST:
        raise StoreIncompatible(
            "The Redis client has one connection only, and a worker that waits for jobs in it "
            "could send nothing else. Make one without single_connection_client=True and with "
            "max_connections of 10 or more."
        )


def connections(client: Client) -> int:
    """Return how many connections a client may have; of a cluster's, to each node."""
    pool = getattr(client, "connection_pool", None)
    return int(getattr(pool, "max_connections", _CONNECTIONS))


def where_is(client: Client) -> str:
    """Return the address of a client's server for messages; no credentials."""
    if isinstance(client, RedisCluster):
        return ",".join(node.name for node in client.nodes_manager.startup_nodes.values())
    settings = _settings(client)
    if "path" in settings:
        return str(settings["path"])
    if "host" in settings:
        return f"{settings['host']}:{settings.get('port', 6379)}"
    return str(getattr(client.connection_pool, "service_name", "the client's server"))


def longest_block(client: Client | None) -> float:
    """Return for how many seconds a command may block: well below the client's own time limit."""
    own = None if client is None else _settings(client).get("socket_timeout")
    return _BLOCK if own is None else min(_BLOCK, float(own) / 2)
