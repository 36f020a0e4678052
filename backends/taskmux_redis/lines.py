"""Lines: what a waiting job stands behind."""

from __future__ import annotations

from taskmux.driver import Ref, Standing

from taskmux_redis.scripts import script
from taskmux_redis.store import Store

__all__ = ["standing"]

_STANDING = script("standing")


async def standing(store: Store, ref: Ref) -> Standing | None:
    """Return what a waiting job stands behind; None if it is not waiting."""
    found = await store.run(ref.queue, _STANDING, ref.id)
    return None if found is None else Standing(*found)
