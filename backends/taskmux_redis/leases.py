"""Leases: renewed by who holds them, and taken over once they have lapsed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace
from taskmux.driver import (
    Extended,
    HeldLease,
    JobRecord,
    LeaseStatus,
    Op,
    ReclaimAsk,
)

from taskmux_redis.batches import Part, by_queue
from taskmux_redis.scripts import script
from taskmux_redis.store import Store

__all__ = ["extend", "reclaim"]

_EXTEND, _RECLAIM = script("extend"), script("reclaim")
_STATUSES: Final = {
    "H": Extended(LeaseStatus.HELD),
    "L": Extended(LeaseStatus.LOST),
    "C": Extended(LeaseStatus.CANCEL),
}


async def extend(store: Store, leases: Sequence[HeldLease], lease: int) -> list[Extended]:
    """Renew leases to now + `lease` milliseconds.

    Raises:
        CorruptRecord: a key of one of the queues is of another type. The leases of other queues
            were renewed.
    """

    async def send(queue: str, _: Part, some: Sequence[HeldLease]) -> list[Extended]:
        pairs = [value for held in some for value in (held.ref.id, held.fence)]
        codes = await store.run(queue, _EXTEND, lease, *pairs)
        return [_STATUSES[code] for code in codes.decode()]

    return await by_queue(leases, lambda held: held.ref.queue, send)


async def reclaim(store: Store, op: Op, ask: ReclaimAsk) -> list[JobRecord]:
    """Lease jobs of one queue whose lease lapsed to the caller; `worker` is who held them."""
    origin = f"{op.origin} reclaim"
    flat = await store.run(ask.queue, _RECLAIM, origin, op.number, ask.worker, ask.limit, ask.lease)
    holders = {
        row[0].decode(errors="replace"): holder.decode()
        for holder, row in zip(flat[::2], flat[1::2], strict=True)
    }
    jobs = await store.readable(ask.queue, flat[1::2])
    return [replace(job, worker=holders[job.id]) for job in jobs]
