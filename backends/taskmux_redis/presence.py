"""Which workers live, what they are told, and which of their jobs are asked to cancel."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec
from taskmux.driver import Beat, BeatReply, Command, CorruptRecord, HeldLease, WorkerInfo

from taskmux_redis.batches import Part, by_queue
from taskmux_redis.scripts import script
from taskmux_redis.store import Store

__all__ = ["beat", "tell", "workers"]

_BEAT, _TELL, _WORKERS = script("beat"), script("tell"), script("workers")
_CANCEL_REQUESTS = script("cancel_requests")
_SEEN: Final = 13  # digits of the instant before a worker's account
_TOKEN: Final = 16  # digits of what tells a resent call from a new one


async def beat(store: Store, told: Beat) -> BeatReply:
    """Record a heartbeat, or forget the worker at its last one; return what it has to know."""
    cancel = await _cancel_requests(store, told.held)
    # last, because the commands that it hands over would be lost if something failed after it
    return BeatReply(cancel, await _commands(store, told))


async def _cancel_requests(store: Store, held: Sequence[HeldLease]) -> list[HeldLease]:
    """Return the leases whose jobs are asked to cancel."""

    async def send(queue: str, _: Part, some: Sequence[HeldLease]) -> list[bool]:
        pairs = [value for one in some for value in (one.ref.id, one.fence)]
        try:
            codes = await store.run(queue, _CANCEL_REQUESTS, *pairs)
        except CorruptRecord:  # every other verb says so; the worker and its other queues live on
            return [False] * len(some)
        return [code == "C" for code in codes.decode()]

    asked = await by_queue(held, lambda one: one.ref.queue, send)
    return [one for one, is_asked in zip(held, asked, strict=True) if is_asked]


async def _commands(store: Store, told: Beat) -> list[Command]:
    worker, sent_at = told.worker.id, time.monotonic()
    data = b"" if told.last else msgspec.json.encode(told.worker)
    names = ("workers", "about", f"told:{worker}", f"given:{worker}")
    was_known, *found = await store.run_for_all(_BEAT, names, worker, told.ttl, data, _token())
    if not was_known and time.monotonic() < store.known.beats.get(worker, 0.0):
        store.known.forget(store.connection.where)
    if told.last:
        store.known.beats.pop(worker, None)
    else:
        store.known.beats[worker] = sent_at + told.ttl / 1000
    commands = []
    for entry in found:
        with suppress(msgspec.MsgspecError):  # what cannot be read keeps nothing else from coming
            commands.append(msgspec.json.decode(entry[_TOKEN:], type=Command))
    return commands


async def tell(store: Store, worker: str, command: Command) -> bool:
    """Leave a command for a live worker's next beat; return whether it lives."""
    names, data = ("workers", f"told:{worker}"), msgspec.json.encode(command)
    return bool(await store.run_for_all(_TELL, names, worker, _token(), data))


async def workers(store: Store) -> list[WorkerInfo]:
    """Return the workers whose last beat still counts, by id; unreadable ones are left out."""
    found = []
    for text in await store.run_for_all(_WORKERS, ("workers", "about")):
        try:
            worker = msgspec.json.decode((text or b"")[_SEEN:], type=WorkerInfo)
            found.append(msgspec.structs.replace(worker, seen_at=int(text[:_SEEN])))
        except (ValueError, msgspec.MsgspecError):
            continue
    return found


def _token() -> str:
    return secrets.token_hex(_TOKEN // 2)
