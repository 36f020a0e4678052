"""What a server must be like for the guarantees to hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from taskmux.driver import StoreIncompatible

from taskmux_redis.store import Store

__all__ = ["check_server"]

OLDEST: Final = (6, 2)


async def check_server(store: Store, *, accepts_eviction: bool) -> None:
    """Refuse a server that would lose jobs or lacks commands.

    Raises:
        StoreIncompatible: it is older than 6.2, or evicts keys and that is not accepted.
        StoreUnavailable, StoreDenied: it cannot be asked.
    """
    options = {"target_nodes": "primaries"} if store.is_cluster else {}
    reply = await store.connection.at_once("INFO", **options)
    where = store.connection.where
    for info in reply.values() if store.is_cluster else [reply]:
        _check_version(info, where)
        _check_mode(info, where, is_cluster=store.is_cluster)
        if not accepts_eviction:
            _check_eviction(info, where)


def _check_version(info: Mapping[str, Any], where: str) -> None:
    text = str(info.get("redis_version", "0"))
    found = re.match(r"(\d+)\.(\d+)", text)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < OLDEST:
        raise StoreIncompatible(
            f"Redis at {where} is version {text}; taskmux needs 6.2 or newer (or Valkey). "
            f"Upgrade the server."
        )


def _check_mode(info: Mapping[str, Any], where: str, *, is_cluster: bool) -> None:
    if info.get("redis_mode") == "sentinel":
        raise StoreIncompatible(
            f"{where} is a Sentinel. Write redis+sentinel://host:26379/SERVICE/0."
        )
    if int(info.get("cluster_enabled", 0)) and not is_cluster:
        raise StoreIncompatible(f"Redis at {where} is a cluster. Write redis+cluster://host:port.")


def _check_eviction(info: Mapping[str, Any], where: str) -> None:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise StoreIncompatible(
            f"Redis at {where} has maxmemory-policy {policy}: under memory pressure it "
            f"would throw jobs away. Run CONFIG SET maxmemory-policy noeviction, or accept the "
            f"loss with ?allow_eviction=1."
        )
