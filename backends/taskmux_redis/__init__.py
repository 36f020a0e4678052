"""taskmux on Redis and Valkey: one server, Sentinel or Cluster."""

from __future__ import annotations

from taskmux.driver import Driver, hookimpl

from taskmux_redis.address import SCHEMES
from taskmux_redis.driver import RedisDriver

__all__ = ["RedisDriver", "taskmux_client_driver", "taskmux_driver"]


@hookimpl
def taskmux_driver(url: str) -> Driver | None:
    """Serve `redis://`, `rediss://`, `unix://`, `redis+cluster://` and `redis+sentinel://`."""
    if url.partition(":")[0].lower() not in SCHEMES:
        return None
    return RedisDriver(url)


@hookimpl
def taskmux_client_driver(client: object) -> Driver | None:
    """Use an application's own client of redis-py, `redis.asyncio.Redis` or `RedisCluster`."""
    if type(client).__module__.partition(".")[0] != "redis":
        return None
    return RedisDriver.from_client(client)
