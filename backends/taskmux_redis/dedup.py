"""Deduplication keys: who owns one, and freeing it by hand."""

from __future__ import annotations

from taskmux_redis.scripts import script
from taskmux_redis.store import Store

__all__ = ["dedup_owner", "release_dedup"]

_DEDUP = script("dedup")


async def dedup_owner(store: Store, queue: str, key: str) -> str | None:
    """Return the id of a key's owner; see `Driver.dedup_owner`."""
    found = await store.run(queue, _DEDUP, key, "")
    return None if found is None else str(found.decode())


async def release_dedup(store: Store, queue: str, key: str, owner: str) -> bool:
    """Free a key that a job owns; see `Driver.release_dedup`."""
    found = await store.run(queue, _DEDUP, key, owner)
    return found is not None and bool(found.decode() == owner)
