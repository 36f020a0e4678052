"""Leases: renewed by their holders, and taken over when they have lapsed."""

from __future__ import annotations

from collections.abc import Sequence

from pymongo import ASCENDING, UpdateOne
from taskmux.driver import ApplyStatus, Extended, HeldLease, JobRecord, LeaseStatus, Op, ReclaimAsk

from taskmux_mongodb.claim_jobs import ClaimMemory, leased_before
from taskmux_mongodb.notes import lease_states, running, status_under
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


async def reclaim(
    store: Store, claims: ClaimMemory, op: Op, ask: ReclaimAsk
) -> Sequence[JobRecord]:
    """Lease lapsed jobs anew; see `Driver.reclaim`."""
    mark = f"reclaim {op}"
    ours = await _reclaimed(store, await leased_before(store, mark, ask.queue))
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
