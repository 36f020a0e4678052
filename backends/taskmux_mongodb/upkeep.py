"""Prune, settings and the registry of workers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec.structs import replace
from pymongo import ASCENDING, DESCENDING, ReturnDocument
from pymongo.errors import DuplicateKeyError
from taskmux.driver import (
    TERMINAL,
    Beat,
    BeatReply,
    Command,
    CorruptRecord,
    PruneAsk,
    QueueSettings,
    WorkerInfo,
)

from taskmux_mongodb import ring
from taskmux_mongodb.documents import Document, key_of
from taskmux_mongodb.making_room import end_holds
from taskmux_mongodb.noting import held_documents
from taskmux_mongodb.rules import restrictive
from taskmux_mongodb.schema import COUNTED, EXPIRY, LINE
from taskmux_mongodb.store import Store
from taskmux_mongodb.writing import MEMORY_MS

__all__ = ["beat", "prune", "put_settings", "settings", "tell", "workers"]


# -- prune ----------------------------------------------------------------------------------------


async def prune(store: Store, ask: PruneAsk) -> int:
    """Remove finished records; see `Driver.prune`. The server removes old ones by itself too.

    What producers that died have left undone in the ring is put right on the way.
    """
    gone = 0
    await ring.mend(store, ask.queue, await settings(store, ask.queue))
    for state in sorted(TERMINAL):
        finished = {"queue": ask.queue, "state": state.value}
        gone += await _prune_old(store, ask, finished, ask.limit - gone)
        gone += await _prune_many(store, ask, finished, ask.limit - gone)
    return gone


async def _prune_old(store: Store, ask: PruneAsk, finished: Document, limit: int) -> int:
    now = store.clock.earliest()
    wanted = finished | {"rank": {"$lte": now - ask.memory}, "expires": {"$lte": now}}
    if ask.memory < MEMORY_MS:
        return await _delete(store, wanted, LINE, "rank", limit)
    # Implied by the two above; the index of expiry finds nothing else.
    wanted["expire_at"] = {"$lte": datetime.fromtimestamp(now / 1000, UTC)}
    return await _delete(store, wanted, EXPIRY, "expire_at", limit)


async def _prune_many(store: Store, ask: PruneAsk, finished: Document, limit: int) -> int:
    """Remove those beyond their retention's count, among the newest of queue and state."""
    spared = store.clock.earliest() - max(ask.spare, ask.memory)
    gone, count = 0, await _next_count(store, finished, -1)
    while count is not None and gone < limit:
        newest = store.jobs.find(finished, {"rank": 1, "seq": 1})
        newest = newest.sort([("rank", DESCENDING), ("seq", DESCENDING)])
        first_over = await newest.skip(count).limit(1).to_list(None)
        if first_over:
            rank, seq = first_over[0]["rank"], first_over[0]["seq"]
            over = finished | {
                "keep_count": count,
                "rank": {"$lte": min(rank, spared)},
                "$or": [{"rank": {"$lt": rank}}, {"seq": {"$lte": seq}}],
            }
            gone += await _delete(store, over, COUNTED, "rank", limit - gone)
        count = await _next_count(store, finished, count)
    return gone


async def _next_count(store: Store, finished: Document, after: int) -> int | None:
    """Return the next of the counts that finished jobs are kept by."""
    counted = finished | {"keep_count": {"$gt": after}}
    found = store.jobs.find(counted, {"keep_count": 1}).sort("keep_count", ASCENDING)
    first = await found.hint(COUNTED).limit(1).to_list(None)
    return first[0]["keep_count"] if first else None


async def _delete(store: Store, wanted: Document, index: str, order: str, limit: int) -> int:
    if limit <= 0:
        return 0
    found = store.jobs.find(wanted, {"_id": 1}).hint(index).sort(order, ASCENDING).limit(limit)
    keys = [one["_id"] for one in await found.to_list(None)]
    if not keys:
        return 0
    deleted = await store.jobs.delete_many(wanted | {"_id": {"$in": keys}})
    return int(deleted.deleted_count)


# -- settings -------------------------------------------------------------------------------------


async def settings(store: Store, queue: str) -> QueueSettings:
    """Return a queue's settings; see `Driver.settings`."""
    document = await store.queues.find_one({"_id": queue})
    try:
        return QueueSettings() if document is None else msgspec.convert(document, QueueSettings)
    except msgspec.ValidationError as error:
        raise CorruptRecord(
            f"The settings of queue {queue!r} cannot be read: {error}. Delete its document from "
            f"the collection 'queues' while no worker runs; its jobs stay."
        ) from None


async def put_settings(store: Store, queue: str, new: QueueSettings, call: str) -> bool:
    """Store settings if the rev is the stored one; see `Driver.put_settings`.

    `call` tells a call that is sent again from another one.
    """
    fields: dict[str, Any] = msgspec.to_builtins(replace(new, rev=new.rev + 1))
    document = {"_id": queue, "call": call} | fields
    if new.rev:
        known = {"_id": queue, "rev": new.rev}
        stored = bool((await store.queues.replace_one(known, document)).matched_count)
    else:
        stored = True
        try:
            await store.queues.insert_one(document)
        except DuplicateKeyError:
            stored = False
    if not stored:
        found = await store.queues.find_one({"_id": queue}, {"call": 1})
        stored = found is not None and found.get("call") == call
    if stored:
        await end_holds(store, queue)
        await ring.readmit_all(store, queue)
        store.bell.ring([queue])
        if restrictive(new):
            await store.rules.in_force(queue)
    return stored


# -- workers --------------------------------------------------------------------------------------


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
    there = await held_documents(store, [held.ref for held in beat.held])
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
