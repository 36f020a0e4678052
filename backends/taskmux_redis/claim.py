"""Claim: waiting jobs are leased to a worker."""

from __future__ import annotations

from taskmux.driver import LINE_LIMIT, PROMOTE_LIMIT, ClaimAsk, Claimed, Op

from taskmux_redis.records import Lease
from taskmux_redis.scripts import script
from taskmux_redis.store import Store

__all__ = ["claim"]

_CLAIM = script("claim")


async def claim(store: Store, op: Op, ask: ClaimAsk) -> Claimed:
    """Lease jobs of one queue; unreadable ones are set aside."""
    now, next_at, blocked_by, repeated, limited, *found = await store.run(
        ask.queue,
        _CLAIM,
        f"{op.origin} claim",
        op.number,
        ask.worker,
        ask.limit,
        ask.lease,
        ask.prefetch,
        PROMOTE_LIMIT,
        LINE_LIMIT,
    )
    if repeated:
        jobs = await store.readable(ask.queue, found)
    else:
        rows = [
            (found[at], found[at + 1], None, found[at + 2], found[at + 3])
            for at in range(0, len(found), 4)
        ]
        jobs = await store.readable(ask.queue, rows, Lease(ask.worker, now + ask.lease))
    return Claimed(
        jobs,
        now,
        None if next_at is None else max(0, int(next_at) - now),
        None if blocked_by is None else blocked_by.decode(),
        limited == 1,
    )
