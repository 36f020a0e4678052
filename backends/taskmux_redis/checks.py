"""What a server must be like for the guarantees to hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from taskmux.driver import StoreIncompatible

from taskmux_redis.address import Address
from taskmux_redis.link import Link

__all__ = ["check_server"]

OLDEST: Final = (6, 2)


async def check_server(link: Link, address: Address) -> None:
    """Refuse a server that would lose jobs or lacks commands.

    Raises:
        StoreIncompatible: it is older than 6.2, or evicts keys and `allow_eviction` is not set.
        StoreUnavailable, StoreDenied: it cannot be asked.
    """
    is_cluster = address.scheme == "redis+cluster"
    options = {"target_nodes": "primaries"} if is_cluster else {}
    reply = await link.at_once("INFO", **options)
    for info in reply.values() if is_cluster else [reply]:
        _check_version(info, address)
        _check_mode(info, address)
        _check_eviction(info, address)


def _check_version(info: Mapping[str, Any], address: Address) -> None:
    text = str(info.get("redis_version", "0"))
    found = re.match(r"(\d+)\.(\d+)", text)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < OLDEST:
        raise StoreIncompatible(
            f"Redis at {address.where} is version {text}; taskmux needs 6.2 or newer (or Valkey). "
            f"Upgrade the server."
        )


def _check_mode(info: Mapping[str, Any], address: Address) -> None:
    if info.get("redis_mode") == "sentinel":
        raise StoreIncompatible(
            f"{address.where} is a Sentinel. Write redis+sentinel://host:26379/SERVICE/0."
        )
    if int(info.get("cluster_enabled", 0)) and address.scheme != "redis+cluster":
        raise StoreIncompatible(
            f"Redis at {address.where} is a cluster. Write redis+cluster://host:port."
        )


def _check_eviction(info: Mapping[str, Any], address: Address) -> None:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction" and not address.allow_eviction:
        raise StoreIncompatible(
            f"Redis at {address.where} has maxmemory-policy {policy}: under memory pressure it "
            f"would throw jobs away. Run CONFIG SET maxmemory-policy noeviction, or accept the "
            f"loss with ?allow_eviction=1."
        )
