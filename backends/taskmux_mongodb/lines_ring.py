"""The ring: which lines of a queue have waiting jobs, in the order of their turns.

One document for each line but the common one; it is made just after the line's first job, and
deleted when the line is found empty. `turn` orders the ring. `parked` is `no` for a line in the
ring; one that may not give is parked as `paused`, `full` or until an instant, and no claim looks
at it. `v` changes with every job that comes and never has an old value again: who found the line
empty deletes it only if `v` is still the same.

The common line has no such document: see `lines_common`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pymongo import ASCENDING, DeleteOne, UpdateOne
from taskmux.driver import QueueSettings, StoreBusy

from taskmux_mongodb.lines_gates import gate_key
from taskmux_mongodb.records import LINED, Document
from taskmux_mongodb.store import Store, Write

__all__ = [
    "FULL",
    "IN_RING",
    "PAUSED",
    "Place",
    "join",
    "join_if_waiting",
    "join_missing",
    "leave",
    "mend",
    "readmit",
    "readmit_all",
]

Place = tuple[str, str]
"""A queue and one of its lines."""

IN_RING: Final = "no"
FULL: Final = "full"
PAUSED: Final = "paused"

_TRIES: Final = 8
_JOINED: Final = 1000
_MENDED: Final = 100
"""How many lines one pruning looks at, to see whether they belong in the ring."""


async def join(store: Store, places: Mapping[Place, int]) -> None:
    """Put lines into the ring that jobs have come to; each has the turn given, if it was empty."""
    writes: list[Write] = [
        UpdateOne(
            {"_id": gate_key(queue, line)},
            {
                "$set": {"v": store.numbers.next()},
                "$setOnInsert": {"queue": queue, "line": line, "turn": turn, "parked": IN_RING},
            },
            upsert=True,
        )
        for (queue, line), turn in places.items()
    ]
    for _ in range(_TRIES):
        if not writes:
            return
        # Two that insert one document at once: the one refused finds it there the next time.
        refused = (await store.write(writes, to=store.ring)).errors
        writes = [writes[at] for at in refused]
    raise StoreBusy("Others keep changing the same lines. The operation may be sent again.")


async def leave(store: Store, places: Iterable[Place]) -> None:
    """Take lines out of the ring if no job waits in them any more."""
    known = {gate_key(queue, line): (queue, line) for queue, line in places}
    found = await store.ring.find({"_id": {"$in": list(known)}}, {"v": 1}).to_list(None)
    heads = await asyncio.gather(*(_head(store, *known[one["_id"]]) for one in found))
    empty = [one for one, head in zip(found, heads, strict=True) if head is None]
    writes: list[Write] = [DeleteOne({"_id": one["_id"], "v": one.get("v")}) for one in empty]
    if writes:
        await store.write(writes, to=store.hasty_ring)


async def _head(store: Store, queue: str, line: str) -> Any:
    return await store.jobs.find_one({"queue": queue, "line": line, "state": LINED}, {"_id": 1})


async def readmit(store: Store, keys: Iterable[str]) -> bool:
    """Let full lines come back behind the others; say whether there was one."""
    full: Document = {"_id": {"$in": list(keys)}, "parked": FULL}
    back = {"$set": {"turn": store.numbers.next(), "parked": IN_RING}}
    return bool((await store.hasty_ring.update_many(full, back)).matched_count)


async def readmit_all(store: Store, queue: str) -> None:
    """Let all parked lines of a queue come back behind the others."""
    parked: Document = {"queue": queue, "parked": {"$ne": IN_RING}}
    back = {"$set": {"turn": store.numbers.next(), "parked": IN_RING}}
    await store.ring.update_many(parked, back)


async def mend(store: Store, queue: str, settings: QueueSettings) -> None:
    """Put right what processes that died on the way have left undone.

    Lines with jobs that are not in the ring join it; paused ones that are paused no more come
    back, and so do full ones, of which the next claim sees whether they still are; some lines
    without jobs go.
    """
    turns = store.ring.find({"queue": queue}, {"line": 1}).sort("parked", ASCENDING)
    known = await turns.limit(_MENDED).to_list(None)
    await leave(store, [(queue, one["line"]) for one in known])
    parked: Document = {"queue": queue, "parked": {"$in": [FULL, PAUSED]}}
    kept = [
        name for name in await store.ring.distinct("line", parked) if settings.line(name).paused
    ]
    back = {"$set": {"turn": store.numbers.next(), "parked": IN_RING}}
    await store.ring.update_many(parked | {"line": {"$nin": kept}}, back)
    lined = set(await store.jobs.distinct("line", {"queue": queue, "line": {"$exists": True}}))
    missing = lined - set(await store.ring.distinct("line", {"queue": queue}))
    await join_if_waiting(store, [(queue, line) for line in sorted(missing)[:_JOINED]])


async def join_missing(store: Store, queue: str) -> bool:
    """Put the lines of the queue's first jobs into the ring; say whether one was missing.

    Lines are missing where a producer died between a job and its line, or has not come to that
    yet. Such jobs come to be the first ones: nothing stays wrong, and no backlog is walked.
    """
    heads = store.jobs.find({"queue": queue, "state": LINED}, {"line": 1})
    heads = heads.sort([("rank", ASCENDING), ("seq", ASCENDING)]).limit(_MENDED)
    keys = {gate_key(queue, one["line"]): one["line"] for one in await heads.to_list(None)}
    there = await store.ring.find({"_id": {"$in": list(keys)}}, {"_id": 1}).to_list(None)
    missing = keys.keys() - {one["_id"] for one in there}
    lines = {line: store.numbers.next() for key, line in keys.items() if key in missing}
    await join(store, {(queue, line): turn for line, turn in lines.items()})
    return bool(missing)


async def join_if_waiting(store: Store, places: Iterable[Place]) -> None:
    """Put those of the lines into the ring that have waiting jobs."""
    asked = list(places)
    heads = await asyncio.gather(*(_head(store, *place) for place in asked))
    come = [place for place, head in zip(asked, heads, strict=True) if head]
    await join(store, {place: store.numbers.next() for place in come})
