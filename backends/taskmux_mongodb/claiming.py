"""Claim and reclaim: how jobs get a lease."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

from msgspec.structs import replace
from pymongo import ASCENDING, UpdateMany, UpdateOne
from pymongo.asynchronous.cursor import AsyncCursor
from taskmux.driver import PROMOTE_LIMIT, ClaimAsk, Claimed, JobRecord, Op, ReclaimAsk, State

from taskmux_mongodb.documents import Document, readable
from taskmux_mongodb.schema import LINE
from taskmux_mongodb.store import Store, Write

__all__ = ["Claims", "claim", "reclaim"]

_TRIES: Final = 8
"""How often a claim that others were faster than looks again."""

_WIDEST: Final = 8
_IN_LINE: Final = [("rank", ASCENDING), ("seq", ASCENDING)]


class Claims:
    """What one instance remembers: the last answered operations, and how many rivals it met."""

    def __init__(self) -> None:
        self._answered: dict[tuple[str, str, str], int] = {}
        self._spread: dict[str, int] = {}

    def answered(self, verb: str, op: Op, queue: str) -> bool:
        """Return whether this operation was answered before: then it may lease nothing new."""
        return self._answered.get((verb, op.origin, queue)) == op.number

    def answer(self, verb: str, op: Op, queue: str) -> None:
        """Remember that the operation was answered."""
        self._answered[verb, op.origin, queue] = op.number

    def spread(self, queue: str) -> int:
        """Return among how many batches at the head of the line to choose one."""
        return self._spread.get(queue, 1)

    def met_rivals(self, queue: str, *, lost: bool) -> None:
        """Widen the choice after a lost race; narrow it again after a clean one."""
        spread = self.spread(queue)
        self._spread[queue] = min(spread * 2, _WIDEST) if lost else max(spread // 2, 1)


async def claim(store: Store, claims: Claims, op: Op, ask: ClaimAsk) -> Claimed:
    """Lease waiting jobs; see `Driver.claim`.

    A handler runs only for a claim that a majority holds, and then the majority holds the job's
    creation too, which came before it.
    """
    async with store.turns[ask.queue]:
        return await _claim(store, claims, op, ask)


async def _claim(store: Store, claims: Claims, op: Op, ask: ClaimAsk) -> Claimed:
    mark, now = f"claim {op}", store.clock.earliest()
    repeat = claims.answered("claim", op, ask.queue)
    restrictions, (held, found) = await asyncio.gather(
        store.rules.restrictions([ask.queue]), _head(store, claims, mark, ask, now)
    )
    paused = bool(restrictions.get(ask.queue, {}).get("paused"))
    if held or repeat:
        leasing = _leased(store, ask, held)
    elif paused:
        leasing = _leased(store, ask, [])
    else:
        if any(one["state"] == "delayed" for one in found):
            await _promote(store, ask.queue, now)
            found = await _candidates(store, claims, ask)
        leasing = _lease(store, claims, mark, ask, found)
    jobs, soonest = await asyncio.gather(leasing, _soonest(store, ask.queue))
    claims.answer("claim", op, ask.queue)
    next_in = None if soonest is None else max(0, soonest - now)
    return Claimed(jobs, now, next_in, "paused" if paused and not jobs else None)


async def _held(store: Store, mark: str, queue: str) -> list[Document]:
    """Return what this operation leased before."""
    leased = {"claim": mark, "queue": queue, "state": "active"}
    found = await store.jobs.find(leased).to_list(None)
    if found:
        await store.barrier()
        found = await store.jobs.find(leased).to_list(None)
    return found


async def _soonest(store: Store, queue: str) -> int | None:
    """Return when the first delayed job is due."""
    while True:
        found = store.jobs.find({"queue": queue, "state": "delayed"}, {"rank": 1})
        first = await found.sort(_IN_LINE).limit(1).to_list(None)
        if not first:
            return None
        rank = first[0].get("rank")
        if isinstance(rank, int):
            return int(rank)
        await store.set_aside([first[0]["_id"]])


async def _promote(store: Store, queue: str, now: int) -> None:
    """Let due jobs stand in line, in due order."""
    due = {"queue": queue, "state": "delayed", "rank": {"$lte": now}}
    shown = {"rank": 1, "seq": 1, "rev": 1, "priority": 1, "lifo": 1, "created_at": 1}
    found = store.jobs.find(due, shown).sort(_IN_LINE).limit(PROMOTE_LIMIT)
    documents = await found.to_list(None)
    documents.sort(key=lambda one: (one["rank"], one.get("created_at", 0)))
    writes: list[Write] = []
    for one in documents:
        seq = store.numbers.next()
        place = {
            "state": "waiting",
            "rank": one.get("priority"),
            "seq": -seq if one.get("lifo") else seq,
            "rev": seq,
        }
        writes.append(UpdateOne({"_id": one["_id"], "rev": one.get("rev")}, {"$set": place}))
    if writes:
        await store.write(writes, hasty=True)


async def _head(
    store: Store, claims: Claims, mark: str, ask: ClaimAsk, now: int
) -> tuple[list[Document], list[Document]]:
    """Return what this operation leased before; and due jobs, then candidates.

    One query finds them all: each part is a stretch of an index in the same order.
    """
    parts: list[Document] = [
        {"queue": ask.queue, "state": "delayed", "rank": {"$lte": now}},
        {"queue": ask.queue, "state": "waiting"},
    ]
    alone = claims.spread(ask.queue) == 1
    if alone and ask.limit > 0:
        parts.append({"claim": mark, "queue": ask.queue, "state": "active"})
    order = [("state", ASCENDING), *_IN_LINE]
    found = await _some(store.jobs.find({"$or": parts}).sort(order), claims, ask)
    leased = any(one["state"] == "active" for one in found)
    if leased or not alone or ask.limit <= 0:
        return await _held(store, mark, ask.queue), found
    return [], found


async def _candidates(store: Store, claims: Claims, ask: ClaimAsk) -> list[Document]:
    """Return the head of the line; with rivals about, one of the batches at the head."""
    waiting = {"queue": ask.queue, "state": "waiting"}
    return await _some(store.jobs.find(waiting).sort(_IN_LINE), claims, ask)


async def _some(found: AsyncCursor[Document], claims: Claims, ask: ClaimAsk) -> list[Document]:
    if ask.limit <= 0:
        return []
    spread = claims.spread(ask.queue)
    if spread > 1:
        found = found.skip(ask.limit * random.randrange(spread))  # noqa: S311 - spreads rivals
    return await found.limit(ask.limit).to_list(None)


async def _lease(
    store: Store, claims: Claims, mark: str, ask: ClaimAsk, found: list[Document]
) -> list[JobRecord]:
    """Lease candidates, looking for others while rivals are faster."""
    for _ in range(_TRIES):
        if not found and claims.spread(ask.queue) == 1:
            return []
        jobs, corrupt = readable(found)
        await store.set_aside(corrupt)
        if jobs:
            line = [one for one in found if one["_id"] not in corrupt]
            leased = await _write_leases(store, mark, ask, jobs, line)
            claims.met_rivals(ask.queue, lost=len(leased) < len(jobs))
            if leased:
                return leased
        elif not found:
            claims.met_rivals(ask.queue, lost=False)
        found = await _candidates(store, claims, ask)
    return []


async def _write_leases(
    store: Store, mark: str, ask: ClaimAsk, jobs: list[JobRecord], line: list[Document]
) -> list[JobRecord]:
    """Lease the jobs that are unchanged since they were read; return them as stored."""
    until = store.clock.latest() + ask.lease
    lease = {"state": "active", "worker": ask.worker, "lease_until": until, "claim": mark}
    lease["rev"] = store.numbers.next()
    writes: list[Write] = []
    for started, part in ((True, line[: ask.start]), (False, line[ask.start :])):
        fields = lease | {"started": True} if started else lease
        leased = {"$set": fields, "$inc": {"fence": 1}}
        writes += [UpdateMany(where, leased, hint=LINE) for where in _stretches(ask.queue, part)]
    written = await store.write(writes)
    if written.matched < len(jobs):
        ours = store.jobs.find({"_id": {"$in": [one["_id"] for one in line]}, "claim": mark})
        return await _leased(store, ask, await ours.to_list(None))
    return [
        replace(
            job,
            state=State.ACTIVE,
            worker=ask.worker,
            lease_until=until,
            fence=job.fence + 1,
            started=place < ask.start,
        )
        for place, job in enumerate(jobs)
    ]


def _stretches(queue: str, line: list[Document]) -> list[Document]:
    """Return filters for documents that are unchanged, one for each priority.

    Neighbours in line are neighbours in its index: a stretch of it is walked once, where ids
    would be looked up one by one.
    """
    stretches: list[Document] = []
    for rank, group in groupby(line, key=itemgetter("rank")):
        part = list(group)
        stretches.append(
            {
                "queue": queue,
                "state": "waiting",
                "rank": rank,
                "seq": {"$gte": part[0]["seq"], "$lte": part[-1]["seq"]},
                "_id": {"$in": [one["_id"] for one in part]},
                "rev": {"$in": [one["rev"] for one in part]},
            }
        )
    return stretches


async def _leased(store: Store, ask: ClaimAsk, documents: list[Document]) -> list[JobRecord]:
    """Return the records of leased documents in order; mark the first ones started that are not."""
    documents.sort(key=lambda one: (one["rank"], one["seq"]))
    first = documents[: ask.start]
    late = [one["_id"] for one in first if not one.get("started")]
    if late:
        held = {"_id": {"$in": late}, "claim": documents[0]["claim"]}
        await store.jobs.update_many(held, {"$set": {"started": True}})
    for one in first:
        one["started"] = True
    jobs, corrupt = readable(documents)
    await store.set_aside(corrupt)
    return jobs


async def reclaim(store: Store, claims: Claims, op: Op, ask: ReclaimAsk) -> Sequence[JobRecord]:
    """Lease lapsed jobs anew; see `Driver.reclaim`."""
    mark = f"reclaim {op}"
    held = await _reclaimed(store, await _held(store, mark, ask.queue))
    if held or ask.limit <= 0 or claims.answered("reclaim", op, ask.queue):
        return held
    now, until = store.clock.earliest(), store.clock.latest() + ask.lease
    lapsed = {"queue": ask.queue, "state": "active", "lease_until": {"$lte": now}}
    found = store.jobs.find(lapsed, {"fence": 1, "worker": 1, "lease_until": 1})
    documents = await found.sort("lease_until", ASCENDING).limit(ask.limit).to_list(None)
    lease = {"worker": ask.worker, "lease_until": until, "claim": mark}
    writes: list[Write] = [
        UpdateOne(
            {"_id": one["_id"], "state": "active"}
            | {name: one.get(name) for name in ("fence", "lease_until")},
            {
                "$set": lease | {"lapsed": [one.get("lease_until"), one.get("worker")]},
                "$inc": {"fence": 1},
            },
        )
        for one in documents
    ]
    if writes:
        await store.write(writes)
    keys = [one["_id"] for one in documents]
    ours = store.jobs.find({"_id": {"$in": keys}, "claim": mark})
    jobs = await _reclaimed(store, await ours.to_list(None)) if keys else []
    claims.answer("reclaim", op, ask.queue)
    return jobs


async def _reclaimed(store: Store, documents: list[Document]) -> list[JobRecord]:
    """Return reclaimed jobs, oldest lapse first; each names the worker that it was taken from."""
    documents.sort(key=lambda one: one["lapsed"][0])
    for one in documents:
        one["worker"] = one["lapsed"][1]
    jobs, corrupt = readable(documents)
    await store.set_aside(corrupt)
    return jobs
