"""Settings: what a queue is told, changed by compare-and-set."""

from __future__ import annotations

from msgspec.structs import replace
from taskmux.driver import QueueSettings, What

from taskmux_sqlite import events
from taskmux_sqlite.lines import readmit
from taskmux_sqlite.records import encode
from taskmux_sqlite.transaction import Transaction

__all__ = ["put_settings", "settings"]


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
    was_paused, row.settings = row.settings.paused, new
    if not new.events:
        events.forget(transaction.connection, queue, transaction.now)
    elif new.paused is not was_paused:
        transaction.tell(queue, What.PAUSED if new.paused else What.RESUMED)
    transaction.set_gate(queue, row.gate.let_go())
    transaction.execute("UPDATE gates SET held_until = 0 WHERE queue = ?", (queue,))
    readmit(transaction, queue)
    transaction.brought = True  # a queue that goes on may have jobs waiting
    return True
