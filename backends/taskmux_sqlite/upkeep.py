"""Upkeep: retention, a queue's settings, and the registry of workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from taskmux.driver import Beat, BeatReply, Command, HeldLease, PruneAsk, QueueSettings, WorkerInfo

from taskmux_sqlite.rows import encode
from taskmux_sqlite.transaction import Transaction
from taskmux_sqlite.turns import readmit

__all__ = ["beat", "prune", "put_settings", "settings", "tell", "workers"]

MEMORY_MS: Final = 600_000
"""How long an operation's answer is remembered at least."""

EXPIRED: Final = """
DELETE FROM jobs WHERE number IN (
    SELECT number FROM jobs WHERE queue = ? AND expires_at <= ? ORDER BY expires_at LIMIT ?
)
"""

COUNTED: Final = """
SELECT DISTINCT state, keep_count FROM jobs
WHERE queue = ? AND keep_count IS NOT NULL AND typeof(keep_count) = 'integer'
"""

OLDEST_KEPT: Final = """
SELECT finished_at, number FROM jobs
WHERE queue = ? AND state = ? AND finished_at IS NOT NULL
ORDER BY finished_at DESC, number DESC LIMIT 1 OFFSET ?
"""

BEYOND: Final = """
DELETE FROM jobs WHERE number IN (
    SELECT number FROM jobs
    WHERE queue = ? AND state = ? AND keep_count = ?
    AND finished_at <= ? AND (finished_at, number) < (?, ?)
    ORDER BY finished_at, number LIMIT ?
)
"""

_AFTER_ALL: Final = (2**63 - 1, 0)

_told: Final = msgspec.msgpack.Decoder(list[Command]).decode
_worker: Final = msgspec.msgpack.Decoder(WorkerInfo).decode


def prune(transaction: Transaction, ask: PruneAsk) -> int:
    """See `Driver.prune`. Forgets old operations and empty gates, too."""
    forget = transaction.now - max(ask.memory, MEMORY_MS)
    transaction.execute("DELETE FROM operations WHERE at < ?", (forget,))
    transaction.execute("DELETE FROM gates WHERE empty_at <= ?", (transaction.now,))
    expired = (ask.queue, transaction.now, ask.limit)
    gone = transaction.execute(EXPIRED, expired).rowcount
    for state, count in transaction.execute(COUNTED, (ask.queue,)).fetchall():
        gone += _prune_beyond(transaction, ask, state, count, ask.limit - gone)
    return gone


def _prune_beyond(
    transaction: Transaction, ask: PruneAsk, state: str, count: int, limit: int
) -> int:
    """Remove jobs kept by this count that are not among the newest so many of their state."""
    edge = _AFTER_ALL
    if count > 0:
        query = (ask.queue, state, count - 1)
        edge = transaction.execute(OLDEST_KEPT, query).fetchone()
        if edge is None:  # there are not even that many
            return 0
    spared = transaction.now - ask.spare
    beyond = (ask.queue, state, count, spared, *edge, limit)
    return transaction.execute(BEYOND, beyond).rowcount


def settings(transaction: Transaction, queue: str) -> QueueSettings:
    """See `Driver.settings`."""
    return transaction.queue(queue).settings


def put_settings(transaction: Transaction, queue: str, new: QueueSettings) -> bool:
    """See `Driver.put_settings`."""
    row = transaction.queue(queue)
    if row.settings.rev != new.rev:
        return False
    transaction.execute(
        "INSERT INTO queues (name, sequence, settings) VALUES (?, 0, ?)"
        " ON CONFLICT (name) DO UPDATE SET settings = excluded.settings",
        (queue, encode(replace(new, rev=new.rev + 1))),
    )
    transaction.set_gate(queue, row.gate.let_go())
    transaction.execute("UPDATE gates SET held_until = 0 WHERE queue = ?", (queue,))
    readmit(transaction, queue)
    transaction.brought = True  # a queue that goes on may have jobs waiting
    return True


def beat(transaction: Transaction, beat: Beat) -> BeatReply:
    """See `Presence.beat`.

    A worker that fell silent is not listed, but what it was told is kept for it for a while.
    """
    now, worker = transaction.now, beat.worker
    query = "SELECT commands FROM workers WHERE id = ?"
    row = transaction.execute(query, (worker.id,)).fetchone()
    forgotten = (now - MEMORY_MS, worker.id)
    transaction.execute("DELETE FROM workers WHERE expires_at <= ? OR id = ?", forgotten)
    cancel = [held for held in beat.held if _asked(transaction, held)]
    if beat.last:
        return BeatReply(cancel)
    info = (worker.id, now + beat.ttl, encode(replace(worker, seen_at=now)))
    transaction.execute("INSERT INTO workers (id, expires_at, info) VALUES (?, ?, ?)", info)
    return BeatReply(cancel, _commands(row))


def tell(transaction: Transaction, worker: str, command: Command) -> bool:
    """See `Presence.tell`."""
    query = "SELECT commands FROM workers WHERE id = ? AND expires_at > ?"
    row = transaction.execute(query, (worker, transaction.now)).fetchone()
    if row is None:
        return False
    commands = encode([*_commands(row), command])
    transaction.execute("UPDATE workers SET commands = ? WHERE id = ?", (commands, worker))
    return True


def _commands(row: tuple[Any, ...] | None) -> list[Command]:
    """Return what a worker was told; nothing if that cannot be read: it may be told anew."""
    try:
        return [] if row is None or row[0] is None else _told(row[0])
    except (msgspec.MsgspecError, TypeError):
        return []


def _asked(transaction: Transaction, held: HeldLease) -> bool:
    row = transaction.execute(
        "SELECT cancel_requested FROM jobs"
        " WHERE queue = ? AND id = ? AND state = 'active' AND fence = ?",
        (held.ref.queue, held.ref.id, held.fence),
    ).fetchone()
    return row is not None and row[0] == 1


def workers(transaction: Transaction) -> Sequence[WorkerInfo]:
    """See `Presence.workers`."""
    query = "SELECT info FROM workers WHERE expires_at > ? ORDER BY id"
    return [_worker(info) for (info,) in transaction.execute(query, (transaction.now,))]
