"""Prune: remove finished records whose retention has passed."""

from __future__ import annotations

from datetime import UTC, datetime

from pymongo import ASCENDING, DESCENDING, ReplaceOne
from taskmux.driver import TERMINAL, PruneAsk

from taskmux_mongodb import lines_holds, lines_ring
from taskmux_mongodb.dedup import hand_over_all
from taskmux_mongodb.moves import MEMORY_MS, owner, tombstone
from taskmux_mongodb.records import Document
from taskmux_mongodb.schema import COUNTED, EXPIRY, LINE
from taskmux_mongodb.settings import settings
from taskmux_mongodb.store import Store

__all__ = ["prune"]


async def prune(store: Store, ask: PruneAsk) -> int:
    """Remove finished records; see `Driver.prune`. The server removes old ones by itself too.

    Gates that keep nothing back go, too, and what processes that died have left undone is put
    right: in the ring, and with jobs that wait for the owner of their key.
    """
    gone = 0
    await hand_over_all(store, ask.queue, ask.limit)
    await lines_holds.forget_open(store, ask.queue)
    await lines_ring.mend(store, ask.queue, await settings(store, ask.queue))
    for state in sorted(TERMINAL):
        finished = {"queue": ask.queue, "state": state.value}
        gone += await _prune_old(store, ask, finished, ask.limit - gone)
        gone += await _prune_many(store, ask, finished, ask.limit - gone)
    return gone


async def _prune_old(store: Store, ask: PruneAsk, finished: Document, limit: int) -> int:
    now = store.clock.earliest()
    wanted = finished | {"rank": {"$lte": now - ask.memory}, "expires": {"$lte": now}}
    if ask.memory < MEMORY_MS:
        return await _delete(store, wanted, LINE, "rank", limit, young=True)
    # Implied by the two above; the index of expiry finds nothing else.
    wanted["expire_at"] = {"$lte": datetime.fromtimestamp(now / 1000, UTC)}
    return await _delete(store, wanted, EXPIRY, "expire_at", limit, young=False)


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
            young = max(ask.spare, ask.memory) < MEMORY_MS
            gone += await _delete(store, over, COUNTED, "rank", limit - gone, young=young)
        count = await _next_count(store, finished, count)
    return gone


async def _next_count(store: Store, finished: Document, after: int) -> int | None:
    """Return the next of the counts that finished jobs are kept by."""
    counted = finished | {"keep_count": {"$gt": after}}
    found = store.jobs.find(counted, {"keep_count": 1}).sort("keep_count", ASCENDING)
    first = await found.hint(COUNTED).limit(1).to_list(None)
    return first[0]["keep_count"] if first else None


async def _delete(
    store: Store, wanted: Document, index: str, order: str, limit: int, *, young: bool
) -> int:
    """Remove what is wanted. Of `young` ones a tombstone stays: their fences may be ahead of time.

    So does one of what owns a key for a time that is not over.

    A claim raises a fence by one, and many claims within a few milliseconds take it beyond the
    time, or beyond what another producer takes to be the time (P1).
    """
    if limit <= 0:
        return 0
    shown = dict.fromkeys(("_id", "rev", "fence", "born", "ops", "owns", "until"), 1)
    found = store.jobs.find(wanted, shown).hint(index).sort(order, ASCENDING).limit(limit)
    documents = await found.to_list(None)
    if not documents:
        return 0
    now, gone = store.clock.earliest(), 0
    buried = [one for one in documents if young or one.get("until", 0) > now]
    if buried:
        writes = [
            ReplaceOne(
                {"_id": one["_id"], "rev": one["rev"]}, tombstone(store, one) | owner(one, now)
            )
            for one in buried
        ]
        gone = (await store.write(writes)).matched
    keys = [one["_id"] for one in documents if one not in buried]
    if not keys:
        return gone
    deleted = await store.jobs.delete_many(wanted | {"_id": {"$in": keys}})
    return gone + int(deleted.deleted_count)
