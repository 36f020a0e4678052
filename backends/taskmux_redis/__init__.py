"""taskmux on Redis and Valkey: one server, Sentinel or Cluster."""

from __future__ import annotations

from taskmux.driver import Driver, hookimpl

from taskmux_redis.address import SCHEMES
from taskmux_redis.driver import RedisDriver

__all__ = ["RedisDriver", "taskmux_driver"]


@hookimpl
def taskmux_driver(url: str) -> Driver | None:
    """Serve `redis://`, `rediss://`, `unix://`, `redis+cluster://` and `redis+sentinel://`."""
    if url.partition(":")[0].lower() not in SCHEMES:
        return None
    return RedisDriver(url)
