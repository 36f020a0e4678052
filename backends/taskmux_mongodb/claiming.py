"""Claim and reclaim: what a worker is given, after pauses, limits and the turns of lines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace
from pymongo import ASCENDING, UpdateOne
from taskmux.driver import Blocker, ClaimAsk, Claimed, JobRecord, Op, ReclaimAsk

from taskmux_mongodb import leasing
from taskmux_mongodb.documents import LINED, Document, readable
from taskmux_mongodb.gates import spending
from taskmux_mongodb.leasing import Asked, Claims
from taskmux_mongodb.locking import Lock
from taskmux_mongodb.rules import FREE
from taskmux_mongodb.serving import Served, serve
from taskmux_mongodb.store import Store, Write

__all__ = ["claim", "reclaim"]


async def claim(store: Store, claims: Claims, op: Op, ask: ClaimAsk) -> Claimed:
    """Lease waiting jobs; see `Driver.claim`.

    A handler runs only for a claim that a majority holds, and then the majority holds the job's
    creation too, which came before it.
    """
    async with store.turns[ask.queue]:
        return await _claim(store, claims, op, ask)


async def _claim(store: Store, claims: Claims, op: Op, ask: ClaimAsk) -> Claimed:
    store.bell.ask([ask.queue])
    mark, now = f"claim {op}", store.clock.earliest()
    repeat = claims.answered("claim", op, ask.queue)
    restrictions, (held, found) = await asyncio.gather(
        store.rules.restrictions([ask.queue]), leasing.head(store, claims, mark, ask, now)
    )
    rule = restrictions.get(ask.queue, FREE)
    one = Asked(store, claims, mark, ask, rule, now)
    if held or repeat:
        serving = _again(one, held)
    elif rule.settings.paused:
        serving = _none("paused")
    else:
        first, lined = await _promoted(one, found)
        serving = _serve(one, first, lined=lined)
    served, soonest = await asyncio.gather(serving, leasing.soonest(store, ask.queue))
    claims.answer("claim", op, ask.queue)
    claims.blocked[ask.queue] = served.blocked_by
    due_in = None if soonest is None else max(0, soonest - now)
    next_in = min((ms for ms in (due_in, served.opens_in) if ms is not None), default=None)
    return Claimed(served.jobs, now, next_in, served.blocked_by, rule.settings.limited)


async def _again(one: Asked, held: list[Document]) -> Served:
    jobs = await leasing.leased(one.store, held)
    paused = one.rule.settings.paused and not jobs
    return Served(jobs, "paused" if paused else None)


async def _none(blocked_by: Blocker, opens_in: int | None = None) -> Served:
    return Served([], blocked_by, opens_in)


async def _promoted(one: Asked, first: list[Document]) -> tuple[list[Document] | None, bool]:
    """Promote due jobs; return what is first in the common line, and whether there are others.

    `first` is what came first before. None: it has to be read.
    """
    lined = any(job["state"] == LINED for job in first)
    due = any(job["state"] == "delayed" for job in first)
    if due:
        await leasing.promote(one.store, one.ask.queue, one.now)
    if due or one.claims.spread(one.ask.queue) > 1:
        lined = await leasing.lined(one.store, one.ask.queue)
    return None if due else first, lined or one.rule.common.held_until > one.now


async def _serve(one: Asked, found: list[Document] | None, *, lined: bool) -> Served:
    """Serve a queue that is not paused; `found` is what comes first in the common line."""
    if one.rule.settings.limited:
        async with Lock(one.store, one.ask.queue, one.mark) as lock:
            return await _serve_limited(one, lock, lined=lined)
    opens_in = one.rule.gate.opens_in(None, one.now)
    if opens_in:
        return Served([], "rate", opens_in)
    return await _take(one, found, lined=lined)


async def _serve_limited(one: Asked, lock: Lock, *, lined: bool) -> Served:
    """Serve a queue that has limits; nobody else does meanwhile."""
    settings, ask, now = one.rule.settings, one.ask, one.store.clock.earliest()
    most = ask.limit - ask.prefetch
    if settings.concurrency is not None:
        free = settings.concurrency - await _active(one, settings.concurrency)
        if free <= 0:
            await lock.leave(full=True)
            # Who made room after that count has not seen that somebody waits for it.
            late = await _active(one, settings.concurrency) < settings.concurrency
            return Served([], None, 0) if late else Served([], "concurrency")
        most = min(most, free)
    room = lock.gate.room(settings.rate, now)
    if room <= 0:
        return Served([], "rate", lock.gate.opens_in(settings.rate, now))
    if most <= 0:
        return Served([])
    less = replace(one, ask=replace(ask, limit=min(most, room)))
    served = await _take(less, None, lined=lined, lock=lock)
    if settings.rate is not None and served.jobs:
        await lock.leave(spending(lock.gate, settings.rate, now, len(served.jobs)))
    return served


async def _active(one: Asked, most: int) -> int:
    active = {"queue": one.ask.queue, "state": "active"}
    return await one.store.jobs.count_documents(active, limit=most)


async def _take(
    one: Asked, found: list[Document] | None, *, lined: bool, lock: Lock | None = None
) -> Served:
    """Lease what may go, from the common line if there is no other; `found` is its head."""
    if lined:
        return await serve(one, lock)
    if found is None:
        found = await leasing.candidates(one.store, one.claims, one.ask)
    if lock is not None:
        lock.check()
    return Served(await leasing.lease(one, found))


async def reclaim(store: Store, claims: Claims, op: Op, ask: ReclaimAsk) -> Sequence[JobRecord]:
    """Lease lapsed jobs anew; see `Driver.reclaim`."""
    mark = f"reclaim {op}"
    ours = await _reclaimed(store, await leasing.held(store, mark, ask.queue))
    if ours or ask.limit <= 0 or claims.answered("reclaim", op, ask.queue):
        return ours
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
    found = store.jobs.find({"_id": {"$in": keys}, "claim": mark})
    jobs = await _reclaimed(store, await found.to_list(None)) if keys else []
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
