"""Claim: jobs that wait go to a worker, under leases."""

from __future__ import annotations

from functools import cache
from typing import Final

from msgspec.structs import replace
from taskmux.driver import PROMOTE_LIMIT, ClaimAsk, Claimed, Op, Place, State, What

from taskmux_sqlite.leases import decode_leases, still_leased
from taskmux_sqlite.lines import Turns, kept_back
from taskmux_sqlite.records import encode
from taskmux_sqlite.transaction import Transaction
from taskmux_sqlite.wait import ACTIVE

__all__ = ["claim"]

DUE: Final = """
SELECT number, lifo, id FROM jobs
WHERE queue = ? AND state = 'delayed' AND run_at <= ? ORDER BY run_at, number LIMIT ?
"""

NEXT_DUE: Final = """
SELECT CAST(min(run_at) AS INTEGER) FROM jobs
WHERE queue = ? AND state = 'delayed' AND run_at < ''
"""
"""Numbers come before texts, so less than the empty text is what is a number."""

CHUNK: Final = 1000
"""How many jobs one statement makes active at most."""


def claim(transaction: Transaction, op: Op, ask: ClaimAsk) -> Claimed:
    """See `Driver.claim`."""
    known = transaction.recall(op, "claim", decode_leases, ask.queue)
    if known is None:
        claimed = _claim(transaction, op, ask)
    else:
        jobs = [job for job, _ in still_leased(transaction, known)]
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
        [(row.place(Place.FRONT if lifo else Place.BACK), number) for number, lifo, _ in due],
    )
    for *_, job_id in due:
        transaction.tell(queue, What.STATE, job_id, State.WAITING)
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
    for _, job in leases:
        transaction.tell(ask.queue, What.STATE, job.id, State.ACTIVE)
    turns.finish()
    if not leases:
        shut, opens_in = kept_back(transaction, ask.queue) if most > 0 else (False, None)
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
