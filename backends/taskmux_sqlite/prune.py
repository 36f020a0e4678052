"""Prune: finished jobs past their retention go, and what is remembered too long."""

from __future__ import annotations

from typing import Any, Final

from taskmux.driver import PruneAsk, What

from taskmux_sqlite.dedup import end_throttles
from taskmux_sqlite.transaction import Transaction

__all__ = ["prune"]

MEMORY_MS: Final = 600_000
"""How long an operation's answer is remembered at least."""

EXPIRED: Final = """
DELETE FROM jobs WHERE number IN (
    SELECT number FROM jobs WHERE queue = ? AND expires_at <= ? ORDER BY expires_at LIMIT ?
) RETURNING fence, id
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
) RETURNING fence, id
"""

_AFTER_ALL: Final = (2**63 - 1, 0)


def prune(transaction: Transaction, ask: PruneAsk) -> int:
    """See `Driver.prune`. Forgets old operations and empty gates, too."""
    forget = transaction.now - max(ask.memory, MEMORY_MS)
    transaction.execute("DELETE FROM operations WHERE at < ?", (forget,))
    transaction.execute("DELETE FROM gates WHERE empty_at <= ?", (transaction.now,))
    end_throttles(transaction, ask.queue, ask.limit)
    expired = (ask.queue, transaction.now, ask.limit)
    gone = _delete(transaction, ask.queue, EXPIRED, expired)
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
    return _delete(transaction, ask.queue, BEYOND, beyond)


def _delete(transaction: Transaction, queue: str, query: str, arguments: tuple[Any, ...]) -> int:
    gone = transaction.execute(query, arguments).fetchall()
    transaction.removed(queue, [fence for fence, _ in gone])
    for _, job_id in gone:
        transaction.tell(queue, What.REMOVED, job_id)
    return len(gone)
