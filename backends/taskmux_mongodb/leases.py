"""Leases: renewed by their holders, and taken over when they have lapsed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from pymongo import ASCENDING, UpdateOne
from pymongo.errors import DuplicateKeyError
from taskmux.driver import ApplyStatus, Extended, HeldLease, JobRecord, LeaseStatus, Op, ReclaimAsk

from taskmux_mongodb.moves import MEMORY_MS
from taskmux_mongodb.notes import lease_states, running, status_under
from taskmux_mongodb.operations import late
from taskmux_mongodb.records import Document, key_of, readable
from taskmux_mongodb.store import Store, Write

__all__ = ["extend", "reclaim"]


async def extend(store: Store, leases: Sequence[HeldLease], lease: int) -> list[Extended]:
    """Renew leases, then look which are lost; see `Driver.extend`."""
    until = {"$set": {"lease_until": store.clock.latest() + lease}}
    writes: list[Write] = [UpdateOne(running(one.ref, one.fence), until) for one in leases]
    if writes:
        await store.write(writes)
    there = await lease_states(store, [one.ref for one in leases])
    return [Extended(_lease_of(there.get(key_of(one.ref)), one.fence)) for one in leases]


def _lease_of(document: Document | None, fence: int) -> LeaseStatus:
    if status_under(document, fence).status is not ApplyStatus.APPLIED:
        return LeaseStatus.LOST
    asked = document is not None and document.get("cancel_requested")
    return LeaseStatus.CANCEL if asked else LeaseStatus.HELD


async def reclaim(store: Store, op: Op, ask: ReclaimAsk) -> list[JobRecord]:
    """Lease lapsed jobs anew; see `Driver.reclaim`.

    Which jobs an operation leases is written down first, once for all its copies: each then does
    the same guarded writes, and finds what came of them (R3).
    """
    store.operations.begin("reclaim", op, ask.queue)
    plan = await _plan(store, op, ask)
    if plan is None:
        return []
    if plan["number"] > op.number:
        raise late("reclaim", op)
    await store.barrier()  # it may be read before a majority has it, and is relied upon
    mark, until = f"reclaim {op}", store.clock.latest() + ask.lease
    lease = {"worker": ask.worker, "lease_until": until, "claim": mark}
    writes: list[Write] = [
        UpdateOne(
            {"_id": job, "state": "active", "fence": fence, "lease_until": lapsed},
            {"$set": lease | {"lapsed": [lapsed, worker]}, "$inc": {"fence": 1}},
        )
        for job, fence, lapsed, worker in plan["jobs"]
    ]
    await store.write(writes)
    keys = [job for job, *_ in plan["jobs"]]
    ours = {"_id": {"$in": keys}, "claim": mark, "state": "active"}
    return await _reclaimed(store, await store.jobs.find(ours).to_list(None))


async def _plan(store: Store, op: Op, ask: ReclaimAsk) -> Document | None:
    """Choose what an operation leases, unless a copy of it or a later one has; None: nothing.

    The jobs are looked for first: where there are none because a copy has them, its plan is there.
    """
    key, now = f"{ask.queue}/{op.origin}", store.clock.earliest()
    lapsed = {"queue": ask.queue, "state": "active", "lease_until": {"$lte": now}}
    found = store.jobs.find(lapsed, {"fence": 1, "worker": 1, "lease_until": 1})
    found = found.sort("lease_until", ASCENDING).limit(ask.limit)
    documents = await found.to_list(None) if ask.limit > 0 else []
    if not documents:
        known = await store.reclaims.find_one({"_id": key})
        return known if known is not None and known["number"] >= op.number else None
    names = ("_id", "fence", "lease_until", "worker")
    plan: Document = {
        "number": op.number,
        "jobs": [[one.get(name) for name in names] for one in documents],
        "expire_at": datetime.fromtimestamp((now + MEMORY_MS) / 1000, UTC),
    }
    earlier = {"_id": key, "number": {"$lt": op.number}}
    with suppress(DuplicateKeyError):
        await store.reclaims.update_one(earlier, {"$set": plan}, upsert=True)
        return plan
    return await store.reclaims.find_one({"_id": key})


async def _reclaimed(store: Store, documents: list[Document]) -> list[JobRecord]:
    """Return reclaimed jobs, oldest lapse first; each names the worker that it was taken from."""
    documents.sort(key=lambda one: one["lapsed"][0])
    for one in documents:
        one["worker"] = one["lapsed"][1]
    jobs, corrupt = readable(documents)
    await store.set_aside(corrupt)
    return jobs
