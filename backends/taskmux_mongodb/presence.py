"""Presence: the registry of live workers, and what they are told."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace
from pymongo import ASCENDING, ReturnDocument
from taskmux.driver import Beat, BeatReply, Command, WorkerInfo

from taskmux_mongodb.notes import lease_states
from taskmux_mongodb.records import Document, key_of
from taskmux_mongodb.store import Store

__all__ = ["beat", "tell", "workers"]


async def beat(store: Store, beat: Beat) -> BeatReply:
    """Record a heartbeat; see `Presence.beat`."""
    worker = beat.worker
    told: Document | None
    if beat.last:
        told = await store.workers.find_one_and_delete({"_id": worker.id})
    else:
        now = store.clock.earliest()
        info = msgspec.msgpack.encode(replace(worker, seen_at=now))
        until = datetime.fromtimestamp((now + beat.ttl) / 1000, UTC)
        told = await store.workers.find_one_and_update(
            {"_id": worker.id},
            {"$set": {"info": info, "until": until}, "$unset": {"commands": ""}},
            upsert=True,
            return_document=ReturnDocument.BEFORE,
        )
    there = await lease_states(store, [held.ref for held in beat.held])
    asked = {
        (key, one.get("fence"))
        for key, one in there.items()
        if one["state"] == "active" and one.get("cancel_requested")
    }
    commands = [] if told is None else told.get("commands", [])
    return BeatReply(
        cancel=[one for one in beat.held if (key_of(one.ref), one.fence) in asked],
        commands=[msgspec.msgpack.decode(one, type=Command) for one in commands],
    )


async def tell(store: Store, worker: str, command: Command) -> bool:
    """Leave a command for a live worker; see `Presence.tell`."""
    now = datetime.fromtimestamp(store.clock.earliest() / 1000, UTC)
    lives = {"_id": worker, "until": {"$gt": now}}
    told = {"$push": {"commands": msgspec.msgpack.encode(command)}}
    return bool((await store.workers.update_one(lives, told)).matched_count)


async def workers(store: Store) -> Sequence[WorkerInfo]:
    """Return the live workers by id; see `Presence.workers`."""
    now = datetime.fromtimestamp(store.clock.earliest() / 1000, UTC)
    found = store.workers.find({"until": {"$gt": now}}).sort("_id", ASCENDING)
    return [
        msgspec.msgpack.decode(one["info"], type=WorkerInfo) for one in await found.to_list(None)
    ]
