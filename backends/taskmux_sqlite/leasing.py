"""Leases: claiming, renewing and reclaiming."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

import msgspec
from msgspec.structs import replace
from taskmux.driver import (
    PROMOTE_LIMIT,
    ClaimAsk,
    Claimed,
    Extended,
    HeldLease,
    JobRecord,
    LeaseStatus,
    Op,
    Place,
    ReclaimAsk,
    State,
)

from taskmux_sqlite.rows import Row, encode, readable
from taskmux_sqlite.transaction import Transaction
from taskmux_sqlite.turns import Turns, kept
from taskmux_sqlite.watch import ACTIVE

__all__ = ["claim", "extend", "reclaim"]

DUE: Final = """
SELECT number, lifo FROM jobs
WHERE queue = ? AND state = 'delayed' AND run_at <= ? ORDER BY run_at, number LIMIT ?
"""

NEXT_DUE: Final = """
SELECT CAST(min(run_at) AS INTEGER) FROM jobs
WHERE queue = ? AND state = 'delayed' AND run_at < ''
"""
"""Numbers come before texts, so less than the empty text is what is a number."""

LAPSED: Final = """
SELECT * FROM records
WHERE queue = ? AND state = 'active' AND lease_until <= ? ORDER BY lease_until, number LIMIT ?
"""

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

CHUNK: Final = 1000
"""How many jobs one statement makes active at most."""

_Lease = tuple[int, int, str | None]
"""A job's number, its fence, and who held it before, as an operation's reply remembers it."""

_leases: Final = msgspec.msgpack.Decoder(list[_Lease]).decode


def claim(transaction: Transaction, op: Op, ask: ClaimAsk) -> Claimed:
    """See `Driver.claim`."""
    known = transaction.recall(op, "claim", _leases, ask.queue)
    if known is None:
        claimed = _claim(transaction, op, ask)
    else:
        jobs = [job for job, _ in _still_held(transaction, known)]
        claimed = Claimed(jobs, transaction.now, limited=transaction.queue(ask.queue).limited)
    (due,) = transaction.execute(NEXT_DUE, (ask.queue,)).fetchone()
    queue = transaction.queue(ask.queue)
    shut = (queue.settings.rev, queue.gate) if claimed.blocked_by == "rate" else None
    transaction.watch.claimed(ask.queue, due, shut)
    if due is None:
        return claimed
    next_in = max(0, due - transaction.now)
    if claimed.next_in is not None:
        next_in = min(next_in, claimed.next_in)
    return replace(claimed, next_in=next_in)


def _claim(transaction: Transaction, op: Op, ask: ClaimAsk) -> Claimed:
    """Claim anew. The answer's `next_in` does not know of delayed jobs."""
    now, queue = transaction.now, transaction.queue(ask.queue)
    settings = queue.settings
    if settings.paused:
        return Claimed([], now, None, "paused", queue.limited)
    _promote(transaction, ask.queue)
    free = ask.limit
    if settings.concurrency is not None:
        counted = (ask.queue, settings.concurrency)
        (active,) = transaction.execute(ACTIVE, counted).fetchone()
        free = settings.concurrency - active
        if free <= 0:
            return Claimed([], now, None, "concurrency", queue.limited)
    room = queue.gate.room(settings.rate, now)
    if room <= 0:
        opens_in = queue.gate.opens_in(settings.rate, now)
        return Claimed([], now, opens_in, "rate", queue.limited)
    most = ask.limit - ask.prefetch if queue.limited else ask.limit
    return _lease(transaction, op, ask, min(most, free, room))


def _promote(transaction: Transaction, queue: str) -> None:
    due = transaction.execute(DUE, (queue, transaction.now, PROMOTE_LIMIT)).fetchall()
    row = transaction.queue(queue)
    transaction.executemany(
        "UPDATE jobs SET state = 'waiting', sequence = ? WHERE number = ?",
        [(row.place(Place.FRONT if lifo else Place.BACK), number) for number, lifo in due],
    )
    transaction.brought |= bool(due)


def _lease(transaction: Transaction, op: Op, ask: ClaimAsk, most: int) -> Claimed:
    """Lease up to so many jobs in the order of turns."""
    queue, now = transaction.queue(ask.queue), transaction.now
    turns = Turns(transaction, ask.queue, queue.settings)
    taken = turns.take(most)
    leases = [
        (
            number,
            replace(
                job,
                state=State.ACTIVE,
                fence=job.fence + 1,
                worker=ask.worker,
                lease_until=now + ask.lease,
                started=False,
            ),
        )
        for number, job in taken
    ]
    _activate(transaction, ask, [number for number, _ in leases])
    turns.finish()
    if not leases:
        shut, opens_in = kept(transaction, ask.queue) if most > 0 else (False, None)
        return Claimed([], now, opens_in, "lines" if shut else None, queue.limited)
    reply = [(number, job.fence, None) for number, job in leases]
    transaction.remember(op, "claim", encode(reply), ask.queue)
    if queue.settings.rate is not None:
        spent = queue.gate.spent(queue.settings.rate, now, len(leases))
        transaction.set_gate(ask.queue, spent)
    return Claimed([job for _, job in leases], now, limited=queue.limited)


def _activate(transaction: Transaction, ask: ClaimAsk, numbers: list[int]) -> None:
    """Make jobs active by few statements: one for each job makes a claim a quarter slower."""
    for first in range(0, len(numbers), CHUNK):
        some = numbers[first : first + CHUNK]
        lease = (ask.worker, transaction.now + ask.lease)
        transaction.execute(_activation(len(some)), (*lease, *some))


@cache
def _activation(count: int) -> str:
    return (
        "UPDATE jobs SET state = 'active', fence = fence + 1, worker = ?, lease_until = ?,"  # noqa: S608 - no user's text
        f" started = 0 WHERE number IN ({', '.join('?' * count)})"
    )


def reclaim(transaction: Transaction, op: Op, ask: ReclaimAsk) -> Claimed:
    """See `Driver.reclaim`."""
    return Claimed(_reclaim(transaction, op, ask), transaction.now)


def _reclaim(transaction: Transaction, op: Op, ask: ReclaimAsk) -> list[JobRecord]:
    known = transaction.recall(op, "reclaim", _leases, ask.queue)
    if known is not None:
        return [replace(job, worker=lapsed) for job, lapsed in _still_held(transaction, known)]
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


def _still_held(
    transaction: Transaction, known: Sequence[_Lease]
) -> list[tuple[JobRecord, str | None]]:
    """Return the jobs of a former reply that are active under the fence that it gave."""
    rows: list[Row] = []
    before: dict[int, str | None] = {}
    for number, fence, lapsed in known:
        before[number] = lapsed
        rows += transaction.execute(
            "SELECT * FROM records WHERE number = ? AND state = 'active' AND fence = ?",
            (number, fence),
        )
    jobs, corrupt = readable(rows)
    transaction.set_aside(corrupt)
    return [(job, before[number]) for number, job in jobs]
