"""Push: creating jobs, and saying who is there already."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from taskmux.driver import (
    BlockedCause,
    JobRecord,
    Meeting,
    NewJob,
    Op,
    Place,
    Pushed,
    PushStatus,
    State,
    StoreFull,
    What,
)

from taskmux_sqlite.dedup import due, meet, owner_of, owning
from taskmux_sqlite.records import new_body, new_columns, new_notes
from taskmux_sqlite.transaction import Transaction

__all__ = ["push"]

RESERVE: Final = 16 * 1024 * 1024
"""Bytes of disk that new jobs leave free, so that the log has room while stored ones drain."""

IN_LINE: Final = "SELECT 1 FROM jobs WHERE queue = ? AND state = 'waiting' AND line IS ?"

_replies: Final = msgspec.msgpack.Decoder(dict[int, Pushed]).decode


def push(transaction: Transaction, op: Op, jobs: Sequence[NewJob]) -> Sequence[Pushed]:
    """See `Driver.push`.

    Remembered are only the answers that are not CREATED: the others follow from the jobs, which a
    repeat brings along.
    """
    known = transaction.recall(op, "push", _replies)
    if known is not None:
        return [known.get(index) or _created(new.job) for index, new in enumerate(jobs)]
    _require_room(transaction)
    bodies: list[tuple[int, bytes]] = []
    replies = [_push(transaction, new, bodies) for new in jobs]
    _write_bodies(transaction, bodies)
    others = {
        index: reply
        for index, reply in enumerate(replies)
        if reply.status is not PushStatus.CREATED
    }
    transaction.remember(op, "push", msgspec.msgpack.encode(others))
    return replies


def _write_bodies(transaction: Transaction, bodies: list[tuple[int, bytes]]) -> None:
    transaction.executemany("INSERT INTO bodies VALUES (?, ?)", bodies)
    bodies.clear()


def _require_room(transaction: Transaction) -> None:
    disk = shutil.disk_usage(transaction.directory)
    if disk.free < RESERVE and disk.total > 0:  # some file systems say nothing
        raise StoreFull(
            f"Less than {RESERVE >> 20} MiB are free on the disk of {transaction.directory}. Make "
            f"room: new jobs are refused until then, and stored ones go on."
        )


def _push(transaction: Transaction, new: NewJob, bodies: list[tuple[int, bytes]]) -> Pushed:
    """Create one job, or say why not; its body is left to the caller."""
    queue = transaction.queue(new.job.queue)
    if queue.settings.moved_to is not None:
        return Pushed(PushStatus.MOVED, queue.settings.moved_to)
    keyed: dict[str, Any] = {}
    if new.job.dedup is not None:
        met = _met(transaction, new, new.job.dedup.key, bodies)
        if isinstance(met, Pushed):
            return met
        if met is Meeting.SUCCEEDS:
            keyed = {"follows": new.job.dedup.key}
            new = _following(transaction, new)
    if _is_full(transaction, new.job, queue.settings.size(new.job.group)):
        return _in_place_of(transaction, new.job) or Pushed(PushStatus.FULL, new.job.id)
    job, sequence = _stored(new, transaction.now, queue.fence_of_removed), 0
    if job.state is State.WAITING:
        sequence = queue.place(Place.FRONT if job.lifo else Place.BACK)
    keyed = keyed or owning(transaction, job)
    columns = new_columns(job, sequence) | keyed
    cursor = transaction.execute(_insert(tuple(columns)), tuple(columns.values()))
    if cursor.rowcount == 0:
        known = _in_place_of(transaction, job)
        assert known is not None  # nothing else keeps a job out
        return known
    transaction.tell(job.queue, What.ADDED, job.id, job.state)
    transaction.brought |= job.state in (State.WAITING, State.DELAYED)
    queue.changed = True  # a queue is known from its first job on, even if that is not waiting
    number = cursor.lastrowid
    assert number is not None
    bodies.append((number, new_body(job)))
    notes = new_notes(job)
    if notes is not None:
        transaction.execute("INSERT INTO notes VALUES (?, ?, ?, ?)", (number, *notes))
    return _created(job)


def _met(
    transaction: Transaction, new: NewJob, key: str, bodies: list[tuple[int, bytes]]
) -> Pushed | Meeting | None:
    """Say who has the id, or how the job meets the owner of its key; None: there is neither."""
    known = _in_place_of(transaction, new.job)
    owner = None if known else owner_of(transaction, new.job.queue, key)
    if owner is None:
        return known
    _write_bodies(transaction, bodies)  # the owner may be of this batch
    return meet(transaction, new, owner)


def _is_full(transaction: Transaction, job: JobRecord, size: int | None) -> bool:
    """Return whether the job's group has as many waiting jobs as it may have."""
    if size is None or job.state is not State.WAITING:
        return False
    query = f"SELECT count(*) FROM ({IN_LINE} LIMIT ?)"  # noqa: S608 - made of constants
    (waiting,) = transaction.execute(query, (job.queue, job.group, size)).fetchone()
    return bool(waiting >= size)


@cache
def _insert(columns: tuple[str, ...]) -> str:
    """Return the statement that creates a job, unless its id is taken."""
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    return f"INSERT INTO jobs ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608 - no user's text


def _stored(new: NewJob, now: int, fence_of_removed: int) -> JobRecord:
    run_at = new.job.run_at
    if new.job.state is State.DELAYED and run_at is None:
        run_at = now + new.delay
    fence = max(now, fence_of_removed + 1)
    return replace(new.job, created_at=now, fence=fence, run_at=run_at)


def _created(job: JobRecord) -> Pushed:
    return Pushed(PushStatus.CREATED, job.id)


def _following(transaction: Transaction, new: NewJob) -> NewJob:
    """Return a new job as it waits for the owner of its key to end."""
    run_at = due(transaction, new) if new.job.state is State.DELAYED else new.job.run_at
    return NewJob(replace(new.job, state=State.BLOCKED, cause=BlockedCause.DEDUP, run_at=run_at))


def _in_place_of(transaction: Transaction, job: JobRecord) -> Pushed | None:
    """Say who has the id."""
    query = "SELECT 1 FROM jobs WHERE queue = ? AND id = ?"
    found = transaction.execute(query, (job.queue, job.id)).fetchone()
    return None if found is None else Pushed(PushStatus.DUPLICATE, job.id)
