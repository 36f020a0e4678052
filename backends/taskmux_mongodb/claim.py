"""Claim: what a worker is given, after pauses, limits and the turns of lines."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace
from taskmux.driver import Blocker, ClaimAsk, Claimed, Op

from taskmux_mongodb import claim_jobs
from taskmux_mongodb.claim_jobs import Claim, ClaimMemory
from taskmux_mongodb.lines import Served, serve
from taskmux_mongodb.lines_gates import spending
from taskmux_mongodb.lines_lock import Lock
from taskmux_mongodb.records import LINED, Document
from taskmux_mongodb.store import Store

__all__ = ["claim"]


async def claim(store: Store, claims: ClaimMemory, op: Op, ask: ClaimAsk) -> Claimed:
    """Lease waiting jobs; see `Driver.claim`.

    A handler runs only for a claim that a majority holds, and then the majority holds the job's
    creation too, which came before it.
    """
    async with store.turns[ask.queue]:
        store.operations.begin("claim", op, ask.queue)
        return await _claim(store, claims, op, ask)


async def _claim(store: Store, claims: ClaimMemory, op: Op, ask: ClaimAsk) -> Claimed:
    store.bell.ask([ask.queue])
    mark, now = f"claim {op}", store.clock.earliest()
    repeat = claims.answered(op, ask.queue)
    restrictions, (before, found) = await asyncio.gather(
        store.restrictions.of([ask.queue]), claim_jobs.head(store, claims, mark, ask, now)
    )
    restriction = restrictions.get(ask.queue) or store.restrictions.free(ask.queue)
    one = Claim(store, claims, mark, ask, restriction, now)
    if before or repeat:
        serving = _again(one, before)
    elif restriction.settings.paused:
        serving = _none("paused")
    else:
        first, lined = await _promoted(one, found)
        serving = _serve(one, first, lined=lined)
    served, soonest = await asyncio.gather(serving, claim_jobs.soonest(store, ask.queue))
    claims.answer(op, ask.queue)
    claims.blocked[ask.queue] = served.blocked_by
    due_in = None if soonest is None else max(0, soonest - now)
    next_in = min((ms for ms in (due_in, served.opens_in) if ms is not None), default=None)
    return Claimed(served.jobs, now, next_in, served.blocked_by, restriction.settings.limited)


async def _again(one: Claim, before: list[Document]) -> Served:
    jobs = await claim_jobs.leased(one.store, before)
    paused = one.restriction.settings.paused and not jobs
    return Served(jobs, "paused" if paused else None)


async def _none(blocked_by: Blocker, opens_in: int | None = None) -> Served:
    return Served([], blocked_by, opens_in)


async def _promoted(one: Claim, first: list[Document]) -> tuple[list[Document] | None, bool]:
    """Promote due jobs; return what is first in the common line, and whether there are others.

    `first` is what came first before. None: it has to be read.
    """
    lined = any(job["state"] == LINED for job in first)
    due = any(job["state"] == "delayed" for job in first)
    if due:
        await claim_jobs.promote(one.store, one.ask.queue, one.now)
    if due or one.claims.spread(one.ask.queue) > 1:
        lined = await claim_jobs.lined(one.store, one.ask.queue)
    return None if due else first, lined or one.restriction.common.held_until > one.now


async def _serve(one: Claim, found: list[Document] | None, *, lined: bool) -> Served:
    """Serve a queue that is not paused; `found` is what comes first in the common line."""
    if one.restriction.settings.limited:
        async with Lock(one.store, one.ask.queue, one.mark) as lock:
            return await _serve_limited(one, lock, lined=lined)
    opens_in = one.restriction.gate.opens_in(None, one.now)
    if opens_in:
        return Served([], "rate", opens_in)
    return await _take(one, found, lined=lined)


async def _serve_limited(one: Claim, lock: Lock, *, lined: bool) -> Served:
    """Serve a queue that has limits; nobody else does meanwhile."""
    settings, ask, now = one.restriction.settings, one.ask, one.store.clock.earliest()
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


async def _active(one: Claim, most: int) -> int:
    active = {"queue": one.ask.queue, "state": "active"}
    return await one.store.jobs.count_documents(active, limit=most)


async def _take(
    one: Claim, found: list[Document] | None, *, lined: bool, lock: Lock | None = None
) -> Served:
    """Lease what may go, from the common line if there is no other; `found` is its head."""
    if lined:
        return await serve(one, lock)
    if found is None:
        found = await claim_jobs.candidates(one.store, one.claims, one.ask)
    if lock is not None:
        lock.check()
    return Served(await claim_jobs.lease(one, found))
