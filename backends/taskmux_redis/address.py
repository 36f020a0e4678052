"""From a URL to a client: redis://, rediss://, unix://, redis+cluster://, redis+sentinel://."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import SplitResult, unquote

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from taskmux.driver import InvalidURL, check_options, hide_credentials, split_url

from taskmux_redis.keys import check_prefix
from taskmux_redis.sentinels import Sentinels

__all__ = ["SCHEMES", "Address", "Client", "connect", "disconnect", "parse"]

Client = Any
"""`redis.asyncio.Redis` or `RedisCluster`: what they share is `execute_command` and `aclose`."""

SCHEMES: Final = ("redis", "rediss", "unix", "redis+cluster", "redis+sentinel")
_FILES: Final[tuple[str, ...]] = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_OPTIONS: Final = {
    "prefix",
    "allow_eviction",
    "timeout",
    "db",
    "tls",
    "sentinel_username",
    "sentinel_password",
    *_FILES,
}
_CONNECTIONS: Final = 32


class Address(msgspec.Struct, frozen=True):
    """What a URL says."""

    url: str
    shown: str
    """The URL with credentials hidden."""
    scheme: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    """The socket's path, or the Sentinel service's name."""
    database: int
    username: str | None
    password: str | None
    tls: dict[str, str] | None
    """Files by the client's names; None without TLS."""
    sentinel: dict[str, str]
    prefix: str
    allow_eviction: bool
    timeout: float
    """Seconds an operation may take before its connection is given up."""

    def __repr__(self) -> str:
        return f"Address({self.where!r})"

    @property
    def where(self) -> str:
        """The server's address for messages."""
        if self.scheme == "unix":
            return self.path
        return ",".join(f"{host}:{port}" for host, port in self.hosts)


def parse(url: str) -> Address:
    """Return what the URL says.

    Raises:
        InvalidURL: it says something that cannot be meant; the message hides credentials.
    """
    parts, options = split_url(url)
    check_options(url, options, _OPTIONS)
    shown = hide_credentials(url)
    scheme = parts.scheme.lower()
    user, _, password = _credentials(parts)
    path, database = _path_and_database(scheme, parts.path, options, shown)
    default = 26379 if scheme == "redis+sentinel" else 6379
    tls = {name: options[name] for name in _FILES if name in options}
    return Address(
        url=url,
        shown=shown,
        scheme=scheme,
        hosts=tuple(_host(text, default, shown) for text in _hosts(parts)),
        path=path,
        database=database,
        username=unquote(user) or None,
        password=unquote(password) or None,
        tls=tls if scheme == "rediss" or tls or _switch(options, "tls", shown) else None,
        sentinel={
            name.removeprefix("sentinel_"): value
            for name, value in options.items()
            if name.startswith("sentinel_")
        },
        prefix=check_prefix(options.get("prefix", "tm")),
        allow_eviction=_switch(options, "allow_eviction", shown),
        timeout=_seconds(options.get("timeout", "5"), shown),
    )


def connect(address: Address) -> Client:
    """Return a client for the address; it connects at first use."""
    common: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        "protocol": 2,  # one form of replies on every server version
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,  # a deadline spans each operation: `Link`
        "socket_connect_timeout": address.timeout,
        **(address.tls or {}),
    }
    if address.scheme == "redis+cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return RedisCluster(
            startup_nodes=nodes,
            ssl=address.tls is not None,
            max_connections=_CONNECTIONS,
            **common,
        )
    common["db"] = address.database
    if address.scheme == "redis+sentinel":
        secure = {"ssl": True} if address.tls is not None else {}
        to_sentinels = {
            **address.sentinel,
            **secure,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
        }
        sentinels = Sentinels(
            address.hosts, address.timeout, address.where, to_sentinels, {**secure, **common}
        )
        return sentinels.master_for(address.path)
    return Redis.from_pool(_pool(address, common))


async def disconnect(client: Client) -> None:
    """Close every connection of a client, those to Sentinels too."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


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


def _credentials(parts: SplitResult) -> tuple[str, str, str]:
    return parts.netloc.rpartition("@")[0].partition(":")


def _hosts(parts: SplitResult) -> list[str]:
    if parts.scheme.lower() == "unix":
        return []
    return parts.netloc.rpartition("@")[2].split(",")


def _host(text: str, default: int, shown: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(default)
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InvalidURL(f"{shown!r} has the port {port!r}. Write a number from 1 to 65535.")
    return host.strip("[]") or "localhost", int(port)


def _path_and_database(
    scheme: str, path: str, options: dict[str, str], shown: str
) -> tuple[str, int]:
    path = unquote(path)
    number = options.get("db", "")
    name = ""
    if scheme == "unix":
        name = path
    elif scheme == "redis+sentinel":
        name, _, rest = path.strip("/").partition("/")
        number = number or rest
        if not name:
            raise InvalidURL(
                f"{shown!r} names no Sentinel service. Write redis+sentinel://host:26379/mymaster."
            )
    else:
        number = number or path.strip("/")
    if number and not (number.isdecimal() and len(number) < 9):  # noqa: PLR2004 - fits an int32
        raise InvalidURL(
            f"{shown!r} has the database {number!r}. Write its number: redis://host:6379/0."
        )
    if scheme == "redis+cluster" and int(number or 0):
        raise InvalidURL(f"{shown!r}: a cluster has only database 0. Leave the number out.")
    return name, int(number or 0)


def _switch(options: dict[str, str], name: str, shown: str) -> bool:
    value = options.get(name, "0").lower()
    if value not in {"0", "1", "true", "false", "yes", "no"}:
        raise InvalidURL(f"{shown!r} has {name}={value!r}. Write {name}=1 or {name}=0.")
    return value in {"1", "true", "yes"}


def _seconds(text: str, shown: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 300:  # noqa: PLR2004 - also refuses NaN
        raise InvalidURL(
            f"{shown!r} has timeout={text!r}. Write seconds from 0.1 to 300, for example timeout=5."
        )
    return seconds
