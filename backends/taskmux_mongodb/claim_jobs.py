"""Leasing: how the jobs that a claim has chosen become its worker's, whoever else is after them."""

from __future__ import annotations

import random
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from pymongo import ASCENDING, UpdateMany, UpdateOne
from pymongo.asynchronous.cursor import AsyncCursor
from taskmux.driver import PROMOTE_LIMIT, Blocker, ClaimAsk, JobRecord, Op, State

from taskmux_mongodb import lines_ring
from taskmux_mongodb.failures import store_error
from taskmux_mongodb.records import LINED, Document, readable, stored_state
from taskmux_mongodb.restrictions import Restriction
from taskmux_mongodb.schema import LINE
from taskmux_mongodb.store import Store, Write

__all__ = [
    "IN_LINE",
    "TRIES",
    "Claim",
    "ClaimMemory",
    "candidates",
    "head",
    "lease",
    "leased",
    "leased_before",
    "lined",
    "promote",
    "soonest",
    "write_leases",
]

TRIES: Final = 8
"""How often a claim that others were faster than looks again."""

_WIDEST: Final = 8
IN_LINE: Final = [("rank", ASCENDING), ("seq", ASCENDING)]
_IN_LINES: Final = [("state", ASCENDING), *IN_LINE]


class ClaimMemory:
    """What one instance remembers: the last answered claims, and how many rivals it met."""

    def __init__(self) -> None:
        self._answered: dict[tuple[str, str], int] = {}
        self._spread: dict[str, int] = {}
        self._order: dict[tuple[str, str], tuple[str, list[Any]]] = {}
        self.blocked: dict[str, Blocker | None] = {}
        """Why the last claim of each queue gave nothing."""

    def answered(self, op: Op, queue: str) -> bool:
        """Return whether this claim was answered before: then it may lease nothing new."""
        return self._answered.get((op.origin, queue)) == op.number

    def answer(self, op: Op, queue: str) -> None:
        """Remember that the claim was answered."""
        self._answered[op.origin, queue] = op.number

    def choose(self, one: Claim, jobs: list[Document]) -> None:
        """Remember the order of jobs that a claim is about to lease from several lines."""
        keys = [job["_id"] for job in jobs]
        self._order[one.ask.worker, one.ask.queue] = one.mark, keys

    def in_order(self, mark: str, ask: ClaimAsk, jobs: list[Document]) -> list[Document]:
        """Return what a claim leased in its order: of turns if that is known, else of places."""
        chosen, keys = self._order.get((ask.worker, ask.queue), ("", []))
        turn = {key: at for at, key in enumerate(keys)} if chosen == mark else {}
        return sorted(jobs, key=lambda job: (turn.get(job["_id"], 0), job["rank"], job["seq"]))

    def spread(self, queue: str) -> int:
        """Return among how many batches at the head of the line to choose one."""
        return self._spread.get(queue, 1)

    def met_rivals(self, queue: str, *, lost: bool) -> None:
        """Widen the choice after a lost race; narrow it again after a clean one."""
        spread = self.spread(queue)
        self._spread[queue] = min(spread * 2, _WIDEST) if lost else max(spread // 2, 1)


class Claim(msgspec.Struct, frozen=True):
    """One claim on its way, and what holds for its queue."""

    store: Store
    claims: ClaimMemory
    mark: str
    ask: ClaimAsk
    restriction: Restriction
    now: int


async def leased_before(
    store: Store, claims: ClaimMemory, mark: str, ask: ClaimAsk
) -> list[Document]:
    """Return what this operation leased before."""
    ours = {"claim": mark, "queue": ask.queue, "state": "active"}
    found = await store.jobs.find(ours).to_list(None)
    if found:
        await store.barrier()
        found = await store.jobs.find(ours).to_list(None)
    return claims.in_order(mark, ask, found)


async def soonest(store: Store, queue: str) -> int | None:
    """Return when the first delayed job is due."""
    while True:
        found = store.jobs.find({"queue": queue, "state": "delayed"}, {"rank": 1})
        first = await found.sort(IN_LINE).limit(1).to_list(None)
        if not first:
            return None
        rank = first[0].get("rank")
        if isinstance(rank, int):
            return int(rank)
        await store.set_aside([first[0]["_id"]])


async def promote(store: Store, queue: str, now: int) -> None:
    """Let due jobs stand in line, in due order."""
    due = {"queue": queue, "state": "delayed", "rank": {"$lte": now}}
    shown = {"rank": 1, "seq": 1, "rev": 1, "priority": 1, "lifo": 1, "created_at": 1}
    shown |= {"line": 1, "unwaited": 1}
    found = store.jobs.find(due, shown).sort(IN_LINE).limit(PROMOTE_LIMIT)
    documents = await found.to_list(None)
    documents.sort(key=lambda one: (one["rank"], one.get("created_at", 0)))
    writes: list[Write] = []
    lines: dict[lines_ring.Place, int] = {}
    for one in documents:
        seq = store.numbers.next()
        place = {
            "state": stored_state(State.WAITING, one.get("line")),
            "rank": one.get("priority"),
            "seq": -seq if one.get("lifo") else seq,
            "rev": seq,
        }
        if "line" in one:
            lines.setdefault((queue, one["line"]), seq)
        change: Document = {"$set": place}
        if "unwaited" in one:
            change["$unset"] = {"unwaited": ""}
        writes.append(UpdateOne({"_id": one["_id"], "rev": one.get("rev")}, change))
    if writes:
        await store.write(writes, to=store.hasty_jobs)
    if lines:
        await lines_ring.join(store, lines)


async def head(
    store: Store, claims: ClaimMemory, mark: str, ask: ClaimAsk, now: int
) -> tuple[list[Document], list[Document]]:
    """Return what this operation leased before; and due jobs, jobs with a line, and others.

    One query finds them all: each part is a stretch of an index in the same order. What comes
    first decides how the claim goes on.
    """
    parts: list[Document] = [
        {"queue": ask.queue, "state": "delayed", "rank": {"$lte": now}},
        {"queue": ask.queue, "state": {"$in": [LINED, "waiting"]}},
    ]
    alone = claims.spread(ask.queue) == 1
    if alone and ask.limit > 0:
        parts.append({"claim": mark, "queue": ask.queue, "state": "active"})
    found = await _some(store.jobs.find({"$or": parts}).sort(_IN_LINES), claims, ask)
    again = any(one["state"] == "active" for one in found)
    if again or not alone or ask.limit <= 0:
        return await leased_before(store, claims, mark, ask), found
    return [], found


async def lined(store: Store, queue: str) -> bool:
    """Return whether jobs with a line wait."""
    found = await store.jobs.find_one({"queue": queue, "state": LINED}, {"_id": 1})
    return found is not None


async def candidates(store: Store, claims: ClaimMemory, ask: ClaimAsk) -> list[Document]:
    """Return the head of the common line; with rivals about, one of the batches at the head."""
    waiting = {"queue": ask.queue, "state": "waiting"}
    return await _some(store.jobs.find(waiting).sort(IN_LINE), claims, ask)


async def _some(found: AsyncCursor[Document], claims: ClaimMemory, ask: ClaimAsk) -> list[Document]:
    if ask.limit <= 0:
        return []
    spread = claims.spread(ask.queue)
    if spread > 1:
        found = found.skip(ask.limit * random.randrange(spread))  # noqa: S311 - spreads rivals
    return await found.limit(ask.limit).to_list(None)


async def lease(one: Claim, found: list[Document]) -> list[JobRecord]:
    """Lease candidates, looking for others while rivals are faster."""
    store, claims, ask = one.store, one.claims, one.ask
    for _ in range(TRIES):
        if not found and claims.spread(ask.queue) == 1:
            return []
        jobs, corrupt = readable(found)
        await store.set_aside(corrupt)
        if jobs:
            line = [job for job in found if job["_id"] not in corrupt]
            ours = await write_leases(one, jobs, line)
            claims.met_rivals(ask.queue, lost=len(ours) < len(jobs))
            if ours:
                return ours
        elif not found:
            claims.met_rivals(ask.queue, lost=False)
        found = await candidates(store, claims, ask)
    return []


async def write_leases(one: Claim, jobs: list[JobRecord], line: list[Document]) -> list[JobRecord]:
    """Lease the jobs that are unchanged since they were read; return them as stored."""
    store, mark, ask = one.store, one.mark, one.ask
    until = store.clock.latest() + ask.lease
    lease = {"state": "active", "worker": ask.worker, "lease_until": until, "claim": mark}
    lease["rev"] = store.numbers.next()
    writes: list[Write] = []
    change = {"$set": lease, "$inc": {"fence": 1}}
    if all(job["state"] == "waiting" for job in line):
        writes += [UpdateMany(where, change, hint=LINE) for where in _stretches(ask.queue, line)]
    else:
        writes.append(UpdateMany(_unchanged(line), change))
    written = await store.write(writes)
    for failed in written.errors.values():
        raise store_error(failed.get("code"), str(failed.get("errmsg")))
    if written.matched < len(jobs):
        keys = {job["_id"]: place for place, job in enumerate(line)}
        ours = await store.jobs.find({"_id": {"$in": list(keys)}, "claim": mark}).to_list(None)
        ours.sort(key=lambda job: keys[job["_id"]])
        return await leased(store, ours)
    return [
        replace(
            job,
            state=State.ACTIVE,
            worker=ask.worker,
            lease_until=until,
            fence=job.fence + 1,
            started=False,
        )
        for job in jobs
    ]


def _unchanged(part: list[Document]) -> Document:
    """Return a filter for documents of several lines that are unchanged."""
    return {
        "_id": {"$in": [one["_id"] for one in part]},
        "state": {"$in": [LINED, "waiting"]},
        "rev": {"$in": [one["rev"] for one in part]},
    }


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


async def leased(store: Store, documents: list[Document]) -> list[JobRecord]:
    """Return the records of leased documents; unreadable ones are set aside."""
    jobs, corrupt = readable(documents)
    await store.set_aside(corrupt)
    return jobs
