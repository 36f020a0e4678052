"""Leases: renewing them, and taking over those that lapsed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace
from taskmux.driver import (
    Claimed,
    Extended,
    HeldLease,
    JobRecord,
    LeaseStatus,
    Op,
    ReclaimAsk,
    What,
)

from taskmux_sqlite.records import ROW, Row, encode, readable
from taskmux_sqlite.transaction import Transaction

__all__ = ["decode_leases", "extend", "reclaim", "still_leased"]

LAPSED: Final = f"""
SELECT {ROW} FROM records
WHERE queue = ? AND state = 'active' AND lease_until <= ? ORDER BY lease_until, number LIMIT ?
"""  # noqa: S608 - made of constants

STILL_LEASED: Final = f"""
SELECT {ROW} FROM records WHERE number = ? AND state = 'active' AND fence = ?
"""  # noqa: S608 - made of constants

ENDLESS: Final = """
UPDATE jobs SET lease_until = 0 WHERE number IN (
    SELECT number FROM jobs WHERE queue = :queue AND state = 'active' AND lease_until IS NULL
    UNION ALL
    SELECT number FROM jobs WHERE queue = :queue AND state = 'active' AND lease_until >= ''
)
"""
"""A lease whose end is no number would never lapse."""

NEVER_DUE: Final = """
SELECT number FROM jobs WHERE queue = :queue AND state = 'delayed' AND run_at IS NULL
UNION ALL
SELECT number FROM jobs WHERE queue = :queue AND state = 'delayed' AND run_at >= ''
"""
"""Delayed jobs whose due time is no number."""

Lease = tuple[int, int, str | None]
"""A job's number, its fence, and who had it before, as an operation's reply remembers it."""

decode_leases: Final = msgspec.msgpack.Decoder(list[Lease]).decode


def reclaim(transaction: Transaction, op: Op, ask: ReclaimAsk) -> Claimed:
    """See `Driver.reclaim`."""
    return Claimed(_reclaim(transaction, op, ask), transaction.now)


def _reclaim(transaction: Transaction, op: Op, ask: ReclaimAsk) -> list[JobRecord]:
    known = transaction.recall(op, "reclaim", decode_leases, ask.queue)
    if known is not None:
        return [replace(job, worker=lapsed) for job, lapsed in still_leased(transaction, known)]
    _mend(transaction, ask.queue)
    lease_until = transaction.now + ask.lease
    leased = [
        (number, replace(job, fence=job.fence + 1, lease_until=lease_until))
        for number, job in _readable(transaction, LAPSED, (ask.queue, transaction.now, ask.limit))
    ]
    if leased:
        transaction.executemany(
            "UPDATE jobs SET fence = ?, worker = ?, lease_until = ? WHERE number = ?",
            [(job.fence, ask.worker, lease_until, number) for number, job in leased],
        )
        for _, job in leased:
            transaction.tell(ask.queue, What.TAKEN_OVER, job.id)
        reply = [(number, job.fence, job.worker) for number, job in leased]
        transaction.remember(op, "reclaim", encode(reply), ask.queue)
    return [job for _, job in leased]


def _mend(transaction: Transaction, queue: str) -> None:
    """Lapse leases that have no end, and set aside jobs that would never be due.

    Neither would be met by a claim or by `LAPSED`. A job that was running may be run once more;
    when a delayed one should run is lost.
    """
    transaction.execute(ENDLESS, {"queue": queue})
    never = transaction.execute(NEVER_DUE, {"queue": queue}).fetchall()
    transaction.set_aside([number for (number,) in never])


def extend(transaction: Transaction, leases: Sequence[HeldLease], lease: int) -> Sequence[Extended]:
    """See `Driver.extend`."""
    return [_extend(transaction, held, transaction.now + lease) for held in leases]


def _extend(transaction: Transaction, held: HeldLease, lease_until: int) -> Extended:
    rows = transaction.execute(
        "UPDATE jobs SET lease_until = ?"
        " WHERE queue = ? AND id = ? AND state = 'active' AND fence = ?"
        " RETURNING cancel_requested",
        (lease_until, held.ref.queue, held.ref.id, held.fence),
    ).fetchall()
    if not rows:
        return Extended(LeaseStatus.LOST)
    return Extended(LeaseStatus.CANCEL if rows[0][0] else LeaseStatus.HELD)


def _readable(
    transaction: Transaction, query: str, arguments: tuple[object, ...]
) -> list[tuple[int, JobRecord]]:
    """Return jobs with their numbers. Those that cannot be read are set aside, and more are read.

    The queue must not stop because everything at its head is unreadable.
    """
    while True:
        rows = transaction.execute(query, arguments).fetchall()
        jobs, corrupt = readable(rows)
        transaction.set_aside(corrupt)
        if jobs or not corrupt:
            return jobs


def still_leased(
    transaction: Transaction, known: Sequence[Lease]
) -> list[tuple[JobRecord, str | None]]:
    """Return the jobs of a former reply that are active under the fence that it gave."""
    rows: list[Row] = []
    before: dict[int, str | None] = {}
    for number, fence, lapsed in known:
        before[number] = lapsed
        rows += transaction.execute(STILL_LEASED, (number, fence))
    jobs, corrupt = readable(rows)
    transaction.set_aside(corrupt)
    return [(job, before[number]) for number, job in jobs]
