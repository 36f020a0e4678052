"""Notes: progress, steps and log lines of running jobs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from taskmux.driver import Applied, ApplyStatus, Guard, Note, What, holds

from taskmux_sqlite.apply import find_job
from taskmux_sqlite.records import decode_logs, decode_steps, encode
from taskmux_sqlite.transaction import Transaction

__all__ = ["annotate"]


def annotate(transaction: Transaction, notes: Sequence[Note]) -> Sequence[Applied]:
    """See `Driver.annotate`."""
    return [_annotate(transaction, note) for note in notes]


def _annotate(transaction: Transaction, note: Note) -> Applied:
    found = find_job(transaction, note.ref)
    if found is None:
        return Applied(ApplyStatus.GONE)
    if not holds(Guard(fence=note.fence), found.job):
        return Applied(ApplyStatus.STALE, found.job.state)
    try:
        _add(transaction, found.number, note)
    except (msgspec.MsgspecError, TypeError):  # the notes so far cannot be read
        transaction.set_aside([found.number])
        return Applied(ApplyStatus.GONE)
    if note.progress is not None:
        transaction.tell(note.ref.queue, What.PROGRESS, note.ref.id, None, note.progress)
    return Applied(ApplyStatus.APPLIED, found.job.state)


def _add(transaction: Transaction, number: int, note: Note) -> None:
    query = "SELECT progress, steps, logs FROM notes WHERE number = ?"
    row = transaction.execute(query, (number,)).fetchone()
    progress, steps, logs = row or (None, None, None)
    if note.progress is not None:
        progress = note.progress
    if note.steps:
        steps = encode(decode_steps(steps) | note.steps)
    if note.log is not None and note.log_index >= len(lines := decode_logs(logs)):
        logs = encode((*lines, note.log))
    transaction.execute(
        "INSERT OR REPLACE INTO notes (number, progress, steps, logs) VALUES (?, ?, ?, ?)",
        (number, progress, steps, logs),
    )
