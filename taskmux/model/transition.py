"""Transitions: the only way a stored job changes state, as neutral data.

A driver applies a `Transition` without knowing its name: it checks the guard, writes the changes
and puts the job where `to`, `delay` and `place` say. The named constructors below are the only
places in taskmux that build one, so an edge that the state machine lacks cannot be written.

Counters are absolute values, never increments: applying a transition twice changes nothing more.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from taskmux.model.job import (
    PENDING,
    TERMINAL,
    Attempt,
    BlockedCause,
    ErrorInfo,
    JobRecord,
    Keep,
    Ref,
    State,
)

__all__ = ["Applied", "ApplyStatus", "Changes", "Guard", "Place", "Transition"]


class Place(StrEnum):
    """Where a job that becomes waiting stands within its priority."""

    BACK = "back"
    FRONT = "front"
    KEEP = "keep"


class Guard(msgspec.Struct, frozen=True, gc=False):
    """When a transition may be applied.

    With a `fence`: only while the job is active under exactly that fence.
    With `states`: only while the job is in one of them, and if it is BLOCKED, with a `cause`,
    only for that. Exactly one of `fence` and `states` is set.
    """

    fence: int | None = None
    states: frozenset[State] | None = None
    cause: BlockedCause | None = None


class Changes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Fields to write, each with its new absolute value; UNSET ones stay as they are."""

    attempts: int | UnsetType = UNSET
    crashes: int | UnsetType = UNSET
    started: bool | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    cause: BlockedCause | None | UnsetType = UNSET
    reason: str | None | UnsetType = UNSET
    result: bytes | None | UnsetType = UNSET
    error: ErrorInfo | None | UnsetType = UNSET
    history: tuple[Attempt, ...] | UnsetType = UNSET
    cancel_requested: bool | UnsetType = UNSET
    payload: bytes | UnsetType = UNSET


NO_CHANGES: Final = Changes()
_FOREVER: Final = Keep(2**52)


class Transition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One guarded change of one job.

    `to`: the target state; None keeps the state. `remove`: the record goes instead.
    `delay`: for DELAYED, milliseconds from the store's now until it is due.
    `run_at`: for DELAYED, an absolute instant instead, where the user gave one.
    `retention`: how long the record stays if it is terminal afterwards.
    `flag`: if the job is active and the guard refuses it for that, set `cancel_requested` and the
    `reason` of the changes, and answer REQUESTED.
    `hold`: keep the job's queue, or with `hold_line` its line, from giving jobs for so many
    milliseconds from the store's now.
    `tells`: JSON for the event of this change, which a driver with events passes on unread.
    """

    ref: Ref
    guard: Guard
    to: State | None = None
    delay: int = 0
    run_at: int | None = None
    place: Place = Place.BACK
    changes: Changes = NO_CHANGES
    retention: Keep = _FOREVER
    remove: bool = False
    flag: bool = False
    hold: int = 0
    hold_line: bool = False
    tells: bytes | None = None


class ApplyStatus(StrEnum):
    """What became of a transition."""

    APPLIED = "applied"
    REPEATED = "repeated"
    """This very operation applied it before."""
    STALE = "stale"
    """The guard refused: another fence or another state. Nothing was written."""
    GONE = "gone"
    """There is no such record."""
    CONFLICT = "conflict"
    """The job would need its deduplication key, which another job owns. Nothing was written."""
    REQUESTED = "requested"
    """The job is active and was asked to cancel."""


class Applied(msgspec.Struct, frozen=True, gc=False):
    """The answer for one transition, and the state the job is in now (None if it is gone)."""

    status: ApplyStatus
    state: State | None = None


_LONGEST_TOLD: Final = 500


def _told(changes: Changes) -> bytes:
    """Return what events tell of these changes: why, what was raised, and which attempt it was."""
    said: dict[str, str | int] = {}
    if isinstance(changes.reason, str):
        said["reason"] = changes.reason
    if isinstance(changes.error, ErrorInfo):
        said["error"] = f"{changes.error.type}: {changes.error.message}"[:_LONGEST_TOLD]
    if isinstance(changes.attempts, int):
        said["attempt"] = changes.attempts
    return msgspec.json.encode(said)


# -- of a running job: guarded by its fence -------------------------------------------------


def _held(job: JobRecord) -> Guard:
    return Guard(fence=job.fence)


def start(job: JobRecord) -> Transition:
    """Active and prefetched -> active and running."""
    return Transition(ref=job.ref, guard=_held(job), to=State.ACTIVE, changes=Changes(started=True))


def complete(job: JobRecord, result: bytes | None) -> Transition:
    """Active -> completed. Spends the attempt; wins over a cancel request."""
    changes = Changes(attempts=job.attempts + 1, result=result)
    if job.error is not None or job.reason is not None:
        changes = msgspec.structs.replace(changes, error=None, reason=None)
    return Transition(
        ref=job.ref,
        guard=_held(job),
        to=State.COMPLETED,
        changes=changes,
        retention=job.policy.completed,
    )


def again(job: JobRecord, changes: Changes, delay: int) -> Transition:
    """Active -> delayed, or waiting at the back if the delay is 0: a retry, snooze or redelivery.

    `changes` says what it cost. A job asked to cancel becomes cancelled instead.
    """
    return Transition(
        ref=job.ref,
        guard=_held(job),
        to=State.DELAYED if delay > 0 else State.WAITING,
        delay=delay,
        changes=changes,
        retention=job.policy.cancelled,
        tells=_told(changes),
    )


def release(job: JobRecord) -> Transition:
    """Active -> waiting in its own place: handed back unfinished, no attempt spent."""
    return Transition(
        ref=job.ref,
        guard=_held(job),
        to=State.WAITING,
        place=Place.KEEP,
        retention=job.policy.cancelled,
    )


def set_aside(job: JobRecord, reason: str) -> Transition:
    """Active -> blocked until somebody lets it go: it was not begun, so no attempt is spent."""
    return Transition(
        ref=job.ref,
        guard=_held(job),
        to=State.BLOCKED,
        changes=Changes(cause=BlockedCause.HOLD, reason=reason),
        retention=job.policy.cancelled,
    )


def limited(job: JobRecord, changes: Changes, hold: int, *, line: bool = False) -> Transition:
    """Active -> waiting in its own place, and its queue (or line) rests for `hold` milliseconds."""
    return Transition(
        ref=job.ref,
        guard=_held(job),
        to=State.WAITING,
        place=Place.KEEP,
        changes=changes,
        retention=job.policy.cancelled,
        hold=hold,
        hold_line=line,
        tells=_told(changes),
    )


def bury(job: JobRecord, changes: Changes) -> Transition:
    """Active -> dead, kept with its reason and history."""
    return Transition(
        ref=job.ref,
        guard=_held(job),
        to=State.DEAD,
        changes=changes,
        retention=job.policy.dead,
        tells=_told(changes),
    )


def cancelled(job: JobRecord, changes: Changes) -> Transition:
    """Active -> cancelled, by the worker that runs it."""
    return Transition(
        ref=job.ref,
        guard=_held(job),
        to=State.CANCELLED,
        changes=changes,
        retention=job.policy.cancelled,
        tells=_told(changes),
    )


# -- from outside: guarded by the states it may come from -----------------------------------


def _from(states: AbstractSet[State], cause: BlockedCause | None = None) -> Guard:
    return Guard(states=frozenset(states), cause=cause)


def cancel(ref: Ref, retention: Keep, reason: str = "on request") -> Transition:
    """Pending -> cancelled; an active job is asked to cancel instead. Both keep the reason."""
    changes = Changes(reason=reason)
    return Transition(
        ref=ref,
        guard=_from(PENDING),
        to=State.CANCELLED,
        changes=changes,
        retention=retention,
        tells=_told(changes),
        flag=True,
    )


def redrive(
    ref: Ref,
    states: AbstractSet[State] = frozenset({State.DEAD}),
    *,
    delay: int = 0,
    fresh: bool = True,
) -> Transition:
    """Dead (or another terminal state but moved) -> waiting, or delayed by some milliseconds.

    With fresh attempts and crashes, or else with what was spent.
    """
    changes = Changes(reason=None, error=None, result=None, cancel_requested=False)
    if fresh:
        changes = msgspec.structs.replace(changes, attempts=0, crashes=0)
    return Transition(
        ref=ref,
        guard=_from(states & (TERMINAL - {State.MOVED})),
        to=State.DELAYED if delay > 0 else State.WAITING,
        delay=delay,
        changes=changes,
    )


def promote(ref: Ref) -> Transition:
    """Delayed -> waiting now."""
    return Transition(ref=ref, guard=_from({State.DELAYED}), to=State.WAITING)


def postpone(ref: Ref, delay: int = 0, run_at: int | None = None) -> Transition:
    """Delayed or waiting -> delayed until a new time."""
    return Transition(
        ref=ref,
        guard=_from({State.DELAYED, State.WAITING}),
        to=State.DELAYED,
        delay=delay,
        run_at=run_at,
    )


def reprioritise(ref: Ref, priority: int) -> Transition:
    """Pending -> the same state at another priority; a waiting job keeps its sequence."""
    return Transition(
        ref=ref, guard=_from(PENDING), place=Place.KEEP, changes=Changes(priority=priority)
    )


def edit(ref: Ref, payload: bytes) -> Transition:
    """Pending, dead or cancelled -> the same state with other arguments."""
    return Transition(
        ref=ref,
        guard=_from(PENDING | {State.DEAD, State.CANCELLED}),
        place=Place.KEEP,
        changes=Changes(payload=payload),
    )


def hold(ref: Ref) -> Transition:
    """Delayed or waiting -> blocked until somebody lets it go."""
    return Transition(
        ref=ref,
        guard=_from({State.DELAYED, State.WAITING}),
        to=State.BLOCKED,
        changes=Changes(cause=BlockedCause.HOLD),
    )


def unblock(ref: Ref, cause: BlockedCause, run_at: int | None = None) -> Transition:
    """Blocked for that cause -> waiting, or delayed until an instant, which may have passed.

    Nobody lets a parent go before its children by hand.
    """
    return Transition(
        ref=ref,
        guard=_from({State.BLOCKED}, cause),
        to=State.WAITING if run_at is None else State.DELAYED,
        run_at=run_at,
        changes=Changes(cause=None, reason=None),
    )


def remove(ref: Ref, states: AbstractSet[State] = PENDING | TERMINAL) -> Transition:
    """Any state but active -> no record. Frees the deduplication key."""
    return Transition(ref=ref, guard=_from(states - {State.ACTIVE}), remove=True)


def erase(ref: Ref) -> Transition:
    """Any state, active too -> no record: what its run still writes is refused."""
    return Transition(ref=ref, guard=_from(frozenset(State)), remove=True)
