"""How a new job meets the owner of its deduplication key: the rules P3, P9 and P10, as functions.

`push.lua` of the Redis driver is the only other copy; the kit's model is independent of both.
"""

from __future__ import annotations

from enum import Enum

from msgspec.structs import replace

from taskmux.model.job import JobRecord, State

__all__ = ["Meeting", "meeting", "replaced", "succeeding"]


class Meeting(Enum):
    """What becomes of a new job whose key has an owner."""

    REFUSED = "refused"
    """It is not stored: DEDUPLICATED, with the owner's id."""
    REPLACES_OWNER = "replaces owner"
    """The owner gets its content: REPLACED, with the owner's id."""
    REPLACES_SUCCESSOR = "replaces successor"
    """The owner's successor gets its content: REPLACED, with the successor's id."""
    SUCCEEDS = "succeeds"
    """It is stored as the owner's successor: CREATED."""


def meeting(new: JobRecord, owner: State | None, *, followed: bool) -> Meeting:
    """Return how a new job meets the owner of its key.

    Args:
        new: the new job.
        owner: the owner's state; None if its record was pruned.
        followed: whether the owner has a successor.
    """
    dedup = new.dedup
    if dedup is None or new.state is State.BLOCKED:
        return Meeting.REFUSED
    if dedup.latest and followed:
        return Meeting.REPLACES_SUCCESSOR
    if (dedup.latest or dedup.replace) and owner in {State.WAITING, State.DELAYED}:
        return Meeting.REPLACES_OWNER
    if dedup.latest and owner is State.ACTIVE:
        return Meeting.SUCCEEDS
    return Meeting.REFUSED


def replaced(was: JobRecord, new: JobRecord, due: int) -> JobRecord:
    """Return what a job is that gets the content of a new one (P9).

    Args:
        was: the record before.
        new: the new job, as it was asked for.
        due: when the new job would be due, in epoch milliseconds, if it is delayed.
    """
    state, run_at = was.state, was.run_at
    if new.dedup is not None and new.dedup.extend and new.state is State.DELAYED:
        run_at = due
        state = state if state is State.BLOCKED else State.DELAYED
    return replace(
        new,
        id=was.id,
        created_at=was.created_at,
        fence=was.fence,
        group=was.group,
        state=state,
        cause=was.cause,
        run_at=run_at,
    )


def succeeding(job: JobRecord, now: int) -> State:
    """Return the state of a successor that its owner has made way for (P11)."""
    return State.DELAYED if job.run_at is not None and job.run_at > now else State.WAITING
