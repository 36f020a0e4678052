"""Presence: the registry of workers, and what they are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from taskmux.driver import Beat, BeatReply, Command, HeldLease, WorkerInfo

from taskmux_sqlite.records import encode
from taskmux_sqlite.transaction import Transaction

__all__ = ["beat", "tell", "workers"]

TOLD_MS: Final = 600_000
"""How long what a silent worker was told is kept for it."""

_told: Final = msgspec.msgpack.Decoder(list[Command]).decode
_worker: Final = msgspec.msgpack.Decoder(WorkerInfo).decode


def beat(transaction: Transaction, beat: Beat) -> BeatReply:
    """See `Presence.beat`.

    A worker that fell silent is not listed, but what it was told is kept for it for a while.
    """
    now, worker = transaction.now, beat.worker
    query = "SELECT commands FROM workers WHERE id = ?"
    row = transaction.execute(query, (worker.id,)).fetchone()
    forgotten = (now - TOLD_MS, worker.id)
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
