"""Which workers live, and which of their jobs are asked to cancel."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from taskmux.driver import Beat, HeldLease, WorkerInfo

from taskmux_redis.keys import QueueKeys, store_key
from taskmux_redis.link import Link
from taskmux_redis.scripts import script

__all__ = ["asked", "beat", "workers"]

_BEAT, _WORKERS, _ASKED = script("beat"), script("workers"), script("asked")
_SEEN = 13  # digits of the instant before a worker's account


def _keys(prefix: str) -> list[bytes]:
    return [store_key(prefix, "workers"), store_key(prefix, "about")]


async def beat(link: Link, prefix: str, told: Beat) -> None:
    """Record a heartbeat, or forget the worker at its last one."""
    data = b"" if told.last else msgspec.json.encode(told.worker)
    await link.run(_BEAT, _keys(prefix), told.worker.id, told.ttl, data)


async def workers(link: Link, prefix: str) -> list[WorkerInfo]:
    """Return the workers whose last beat still counts, by id."""
    found = []
    for text in await link.run(_WORKERS, _keys(prefix)):
        if text is not None:
            worker = msgspec.json.decode(text[_SEEN:], type=WorkerInfo)
            found.append(msgspec.structs.replace(worker, seen_at=int(text[:_SEEN])))
    return found


async def asked(link: Link, keys: QueueKeys, held: Sequence[HeldLease]) -> list[bool]:
    """Return for each lease whether it is held and its job is asked to cancel."""
    pairs = [value for one in held for value in (one.ref.id, one.fence)]
    codes = await link.run(_ASKED, keys.of(_ASKED), *pairs)
    return [code == "C" for code in codes.decode()]
