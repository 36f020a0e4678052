"""Deduplication keys of one queue: who owns one, what a second job does, and who comes next."""

from __future__ import annotations

from msgspec.structs import replace
from taskmux.driver import (
    BlockedCause,
    JobRecord,
    Meeting,
    NewJob,
    Place,
    Pushed,
    PushStatus,
    State,
    meeting,
    replaced,
    succeeding,
)

from taskmux_files.files import Owner, Queue, Stored


def owner_of(queue: Queue, key: str) -> Owner | None:
    """Return who owns a key; one whose time is over makes way first."""
    owner = queue.saved.owners.get(key)
    if owner is None:
        return None
    unreadable = owner.id in queue.saved.corrupt and owner.id not in queue.jobs
    if unreadable or (owner.until is not None and owner.until <= queue.now):
        _free(queue, key)
        return queue.saved.owners.get(key)
    return owner


def own(queue: Queue, job: JobRecord) -> None:
    """Let a job own its key from now on, if it has one."""
    if job.dedup is not None:
        until = None if job.dedup.ttl is None else queue.now + job.dedup.ttl
        queue.saved.owners[job.dedup.key] = Owner(job.id, until)


def meet(queue: Queue, new: NewJob) -> Pushed | Meeting | None:
    """Let a new job meet the owner of its key (P3, P9, P10).

    Returns:
        The answer; `Meeting.SUCCEEDS` if it is to be stored as the owner's successor; None if the
        key is free.
    """
    job = new.job
    owner = None if job.dedup is None else owner_of(queue, job.dedup.key)
    if job.dedup is None or owner is None:
        return None
    stored, successor = queue.jobs.get(owner.id), _successor(queue, job.dedup.key)
    state = None if stored is None else stored.job.state
    met = meeting(job, state, followed=successor is not None)
    if met is Meeting.REPLACES_SUCCESSOR and successor is not None:
        _replace(queue, successor, new)
        return Pushed(PushStatus.REPLACED, successor.job.id)
    if met is Meeting.REPLACES_OWNER and stored is not None:
        _replace(queue, stored, new)
        own(queue, stored.job)
        queue.saved.owners[job.dedup.key].successor = owner.successor
        return Pushed(PushStatus.REPLACED, owner.id)
    if met is Meeting.SUCCEEDS:
        owner.successor = job.id
        return met
    return Pushed(PushStatus.DEDUPLICATED, owner.id)


def following(queue: Queue, new: NewJob) -> NewJob:
    """Return a new job as it waits for the owner of its key to end (P10)."""
    run_at = due(queue, new) if new.job.state is State.DELAYED else new.job.run_at
    return NewJob(replace(new.job, state=State.BLOCKED, cause=BlockedCause.DEDUP, run_at=run_at))


def due(queue: Queue, new: NewJob) -> int:
    """Return when a delayed job is due."""
    return queue.now + new.delay if new.job.run_at is None else new.job.run_at


def may_go_on(queue: Queue, job: JobRecord) -> bool:
    """Say whether a finished job may have its key again, and let it (A6)."""
    owner = None if job.dedup is None else owner_of(queue, job.dedup.key)
    if owner is None:
        own(queue, job)
    return owner is None or owner.id == job.id


def let_go(queue: Queue, job: JobRecord, *, removed: bool) -> None:
    """Let a job that is finished or removed keep its key no longer than it should."""
    owner = None if job.dedup is None else owner_of(queue, job.dedup.key)
    if job.dedup is None or owner is None or owner.id != job.id:
        return
    if removed or owner.until is None or _successor(queue, job.dedup.key) is not None:
        _free(queue, job.dedup.key)


def dedup_owner(queue: Queue, key: str) -> str | None:
    """See `Driver.dedup_owner`."""
    owner = owner_of(queue, key)
    return None if owner is None else owner.id


def release_dedup(queue: Queue, key: str, owner: str) -> bool:
    """See `Driver.release_dedup`."""
    if dedup_owner(queue, key) != owner:  # D2
        return False
    _free(queue, key)
    return True


def _free(queue: Queue, key: str) -> None:
    """Let nobody own a key, or the successor, which may go then (P11)."""
    successor = _successor(queue, key)
    del queue.saved.owners[key]
    if successor is None:
        return
    own(queue, successor.job)
    state = succeeding(successor.job, queue.now)
    successor.job = replace(successor.job, state=state, cause=None)
    place(queue, successor, Place.BACK if state is State.WAITING else Place.KEEP)


def place(queue: Queue, stored: Stored, where: Place) -> None:
    """Give a job its place in line, and wake who waits (W1)."""
    tick = queue.tick()
    if where is not Place.KEEP or (not stored.sequence and stored.job.state is State.WAITING):
        stored.sequence = -tick if where is Place.FRONT else tick


def _successor(queue: Queue, key: str) -> Stored | None:
    owner = queue.saved.owners.get(key)
    stored = None if owner is None else queue.jobs.get(owner.successor or "")
    if stored is None or stored.job.cause is not BlockedCause.DEDUP:
        return None
    return stored if stored.job.dedup is not None and stored.job.dedup.key == key else None


def _replace(queue: Queue, stored: Stored, new: NewJob) -> None:
    stored.job = replaced(stored.job, new.job, due(queue, new))
    queue.tick()
