"""Which workers live, what they are told, and which of their jobs are asked to cancel."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

import msgspec
from taskmux.driver import Beat, Command, HeldLease, WorkerInfo

from taskmux_redis.keys import QueueKeys, store_key
from taskmux_redis.link import Link
from taskmux_redis.scripts import script

__all__ = ["asked", "beat", "tell", "workers"]

_BEAT, _TELL, _WORKERS, _ASKED = map(script, ("beat", "tell", "workers", "asked"))
_SEEN: Final = 13  # digits of the instant before a worker's account
_TOKEN: Final = 16  # digits of what tells a resent call from a new one


def _keys(prefix: str, *names: str) -> list[bytes]:
    return [store_key(prefix, name) for name in ("workers", *names)]


def _token() -> str:
    return secrets.token_hex(_TOKEN // 2)


async def beat(link: Link, prefix: str, told: Beat) -> list[Command]:
    """Record a heartbeat, or forget the worker at its last one; return what it was told."""
    worker = told.worker.id
    data = b"" if told.last else msgspec.json.encode(told.worker)
    keys = _keys(prefix, "about", f"told:{worker}", f"given:{worker}")
    found = await link.run(_BEAT, keys, worker, told.ttl, data, _token())
    return [msgspec.json.decode(entry[_TOKEN:], type=Command) for entry in found]


async def tell(link: Link, prefix: str, worker: str, command: Command) -> bool:
    """Leave a command for a live worker's next beat; return whether it lives."""
    keys = _keys(prefix, f"told:{worker}")
    return bool(await link.run(_TELL, keys, worker, _token(), msgspec.json.encode(command)))


async def workers(link: Link, prefix: str) -> list[WorkerInfo]:
    """Return the workers whose last beat still counts, by id."""
    found = []
    for text in await link.run(_WORKERS, _keys(prefix, "about")):
        if text is not None:
            worker = msgspec.json.decode(text[_SEEN:], type=WorkerInfo)
            found.append(msgspec.structs.replace(worker, seen_at=int(text[:_SEEN])))
    return found


async def asked(link: Link, keys: QueueKeys, held: Sequence[HeldLease]) -> list[bool]:
    """Return for each lease whether it is held and its job is asked to cancel."""
    pairs = [value for one in held for value in (one.ref.id, one.fence)]
    codes = await link.run(_ASKED, keys.of(_ASKED), *pairs)
    return [code == "C" for code in codes.decode()]
