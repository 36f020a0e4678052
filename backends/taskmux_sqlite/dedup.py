"""Deduplication keys: who owns one, what a second job does, and who comes next.

A job that owns its key until it is finished has it in the column `dedup`, which is unique among
unfinished jobs. One that owns it for a time has it in `throttle`, and the table `throttles` says
until when; that outlives the job. The job that waits for an owner to end has the key in `follows`,
and its owner is marked `followed`, so that an end that nobody waits for costs nothing more.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace
from taskmux.driver import (
    JobRecord,
    Meeting,
    NewJob,
    Place,
    Pushed,
    PushStatus,
    State,
    What,
    meeting,
    replaced,
    succeeding,
)

from taskmux_sqlite.records import IN_JOBS, ROW, new_body, new_notes, readable, record, to_columns
from taskmux_sqlite.transaction import Transaction

__all__ = [
    "Owner",
    "dedup_owner",
    "due",
    "end_throttles",
    "free",
    "let_go",
    "meet",
    "owner_of",
    "owning",
    "release_dedup",
    "take_again",
]


class Owner(msgspec.Struct, gc=False):
    """The owner of a key: its id, and its row in `jobs`, if that is not pruned."""

    id: str
    number: int | None
    state: State | None


def owner_of(transaction: Transaction, queue: str, key: str) -> Owner | None:
    """Return who owns a key; one whose time is over makes way first."""
    row = transaction.execute(
        "SELECT id, number, state FROM jobs WHERE queue = ? AND dedup = ? AND expires_at IS NULL",
        (queue, key),
    ).fetchone()
    if row is not None:
        return Owner(row[0], row[1], State(row[2]))
    row = transaction.execute(
        "SELECT throttles.id, number, state, until FROM throttles"
        " LEFT JOIN jobs ON jobs.queue = throttles.queue AND jobs.id = throttles.id"
        " AND jobs.throttle = throttles.key WHERE throttles.queue = ? AND key = ?",
        (queue, key),
    ).fetchone()
    if row is None:
        return None
    *found, until = row
    if until <= transaction.now:
        free(transaction, queue, key)
        return owner_of(transaction, queue, key)
    return Owner(found[0], found[1], None if found[2] is None else State(found[2]))


def owning(transaction: Transaction, job: JobRecord) -> dict[str, Any]:
    """Let a job own its key from now on; return its columns that say so."""
    dedup = job.dedup
    if dedup is None:
        return {}
    if dedup.ttl is None:
        return {"dedup": dedup.key, "throttle": None}
    transaction.execute(
        "INSERT OR REPLACE INTO throttles (queue, key, id, until) VALUES (?, ?, ?, ?)",
        (job.queue, dedup.key, job.id, transaction.now + dedup.ttl),
    )
    return {"dedup": None, "throttle": dedup.key}


def free(transaction: Transaction, queue: str, key: str) -> None:
    """Let nobody own a key, or the job that waits for it."""
    transaction.execute(
        "UPDATE jobs SET dedup = NULL WHERE queue = ? AND dedup = ? AND expires_at IS NULL",
        (queue, key),
    )
    transaction.execute("DELETE FROM throttles WHERE queue = ? AND key = ?", (queue, key))
    _hand_over(transaction, queue, key)


def let_go(
    transaction: Transaction, queue: str, job_id: str, key: str, *, followed: bool, removed: bool
) -> None:
    """Let a job that is finished or removed keep its key no longer than it should."""
    if followed or removed:
        transaction.execute(
            "DELETE FROM throttles WHERE queue = ? AND key = ? AND id = ?", (queue, key, job_id)
        )
    if followed and owner_of(transaction, queue, key) is None:
        _hand_over(transaction, queue, key)


def take_again(transaction: Transaction, number: int) -> dict[str, Any] | None:
    """Return the columns by which a finished job owns its key again; None if it cannot."""
    query = f"SELECT {ROW} FROM records WHERE number = ?"  # noqa: S608 - made of constants
    job = record(transaction.execute(query, (number,)).fetchone())
    if job.dedup is None:
        return {}
    owner = owner_of(transaction, job.queue, job.dedup.key)
    if owner is None:
        return owning(transaction, job)
    return {} if owner.id == job.id else None


def meet(transaction: Transaction, new: NewJob, owner: Owner) -> Pushed | Meeting | None:
    """Answer a new job whose key has an owner.

    Returns:
        `Meeting.SUCCEEDS` if it is to be stored as the successor; None if the key is free after
        all: its owner could not be read and was set aside.
    """
    job = new.job
    assert job.dedup is not None
    successor = _successor(transaction, job.queue, job.dedup.key)
    met = meeting(job, owner.state, followed=successor is not None)
    if met is Meeting.REPLACES_SUCCESSOR and successor is not None:
        _replace(transaction, new, *successor, {})
        return Pushed(PushStatus.REPLACED, successor[1].id)
    if met is Meeting.REPLACES_OWNER and owner.number is not None:
        was = _read(transaction, "number = ?", (owner.number,))
        if was is None:
            return None
        query = "DELETE FROM throttles WHERE queue = ? AND key = ?"
        transaction.execute(query, (job.queue, job.dedup.key))
        _replace(transaction, new, *was, owning(transaction, replace(job, id=owner.id)))
        return Pushed(PushStatus.REPLACED, owner.id)
    if met is Meeting.SUCCEEDS:
        mark = "UPDATE jobs SET followed = 1 WHERE number = ?"
        transaction.execute(mark, (owner.number,))
        return met
    return Pushed(PushStatus.DEDUPLICATED, owner.id)


def due(transaction: Transaction, new: NewJob) -> int:
    """Return when a delayed job is due."""
    return transaction.now + new.delay if new.job.run_at is None else new.job.run_at


def end_throttles(transaction: Transaction, queue: str, limit: int) -> None:
    """Let keys go whose time is over, and jobs that wait for an owner that is none any more."""
    over = transaction.execute(
        "SELECT key FROM throttles WHERE queue = ? AND until <= ? LIMIT ?",
        (queue, transaction.now, limit),
    ).fetchall()
    left = transaction.execute(
        "SELECT follows FROM jobs WHERE queue = ? AND follows IS NOT NULL LIMIT ?", (queue, limit)
    ).fetchall()
    for (key,) in [*over, *left]:
        if owner_of(transaction, queue, key) is None:
            _hand_over(transaction, queue, key)


def dedup_owner(transaction: Transaction, queue: str, key: str) -> str | None:
    """See `Driver.dedup_owner`."""
    owner = owner_of(transaction, queue, key)
    return None if owner is None else owner.id


def release_dedup(transaction: Transaction, queue: str, key: str, owner: str) -> bool:
    """See `Driver.release_dedup`."""
    if dedup_owner(transaction, queue, key) != owner:
        return False
    free(transaction, queue, key)
    return True


def _read(
    transaction: Transaction, where: str, key: tuple[Any, ...]
) -> tuple[int, JobRecord] | None:
    """Return a job with its number; one that cannot be read is set aside, as if it were none."""
    query = f"SELECT {ROW} FROM records WHERE {where}"  # noqa: S608 - no user's text
    jobs, corrupt = readable(transaction.execute(query, key).fetchall())
    transaction.set_aside(corrupt)
    return jobs[0] if jobs else None


def _successor(transaction: Transaction, queue: str, key: str) -> tuple[int, JobRecord] | None:
    where = "number = (SELECT number FROM jobs WHERE queue = ? AND follows = ?)"
    return _read(transaction, where, (queue, key))


def _hand_over(transaction: Transaction, queue: str, key: str) -> None:
    """Let the job that waits for a key's owner own the key, and wait in line."""
    successor = _successor(transaction, queue, key)
    if successor is None:
        return
    number, job = successor
    state = succeeding(job, transaction.now)
    columns = to_columns({"state": state, "cause": None}) | owning(transaction, job)
    columns["follows"] = None
    if state is State.WAITING:
        columns["sequence"] = transaction.queue(queue).place(Place.BACK)
    _set(transaction, number, columns)
    transaction.tell(queue, What.STATE, job.id, state)
    transaction.brought = True


def _replace(
    transaction: Transaction, new: NewJob, number: int, was: JobRecord, keyed: dict[str, Any]
) -> None:
    """Give a stored job the content of a new one."""
    job = replaced(was, new.job, due(transaction, new))
    _set(transaction, number, to_columns({name: getattr(job, name) for name in IN_JOBS}) | keyed)
    body = (new_body(job), number)
    transaction.execute("UPDATE bodies SET body = ? WHERE number = ?", body)
    transaction.execute("DELETE FROM notes WHERE number = ?", (number,))
    notes = new_notes(job)
    if notes is not None:
        transaction.execute("INSERT INTO notes VALUES (?, ?, ?, ?)", (number, *notes))
    if job.state is not was.state:
        transaction.tell(job.queue, What.STATE, job.id, job.state)
    transaction.brought |= job.state is not State.BLOCKED


def _set(transaction: Transaction, number: int, columns: dict[str, Any]) -> None:
    named = ", ".join(f"{column} = ?" for column in columns)
    query = f"UPDATE jobs SET {named} WHERE number = ?"  # noqa: S608 - no user's text
    transaction.execute(query, (*columns.values(), number))
