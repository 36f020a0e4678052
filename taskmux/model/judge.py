"""How a transition goes: the one interpreter of the rules A1 to A9, as a pure function.

A driver finds the record, asks `judge`, and persists the `Move` that comes back. `apply.lua` of
the Redis driver is the only other copy of these rules, and the kit's model is independent of
both on purpose, so that an error here shows.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from taskmux.model.job import TERMINAL, JobRecord, State
from taskmux.model.transition import Applied, ApplyStatus, Changes, Guard, Place, Transition

__all__ = ["Move", "given", "holds", "judge"]


class Move(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is to be written about one job, and what to answer.

    Attributes:
        answer: APPLIED, or REQUESTED where a running job is only asked to cancel.
        state: the state afterwards; the one before, if the record goes.
        fields: the other fields that get a new value, but for those that depend on the store's
            now, which `delay` and `ended` tell.
        removes: the record goes; nothing else of this counts then, but `left_active`.
        place: where it stands in line from now on; None: it takes no new place.
        delay: it becomes due so many milliseconds after the store's now (`run_at`).
        ended: it is finished now: `finished_at` = now, and its retention counts from now.
        revived: it was finished and is not any more: what the store keeps about its retention
            goes, and it needs its deduplication key again.
        left_active: its lease ended.
    """

    answer: Applied
    state: State
    fields: dict[str, Any] = {}
    removes: bool = False
    place: Place | None = None
    delay: int | None = None
    ended: bool = False
    revived: bool = False
    left_active: bool = False

    def record(self, job: JobRecord, now: int) -> JobRecord:
        """Return the record as it is after this move at `now` (milliseconds, the store's)."""
        fields = {"state": self.state, **self.fields}
        if self.delay is not None:
            fields["run_at"] = now + self.delay
        if self.ended:
            fields["finished_at"] = now
        return replace(job, **fields)


def judge(one: Transition, job: JobRecord | None) -> Move | Applied:
    """Return what a transition does to a stored job, or the refusal to answer.

    A refusal is GONE or STALE. Whether a revived job gets its deduplication key again is the
    store's to find out: it answers CONFLICT where another job owns it (A6).
    """
    if job is None:
        return Applied(ApplyStatus.GONE)
    if one.flag and job.state is State.ACTIVE:
        asked = Applied(ApplyStatus.REQUESTED, State.ACTIVE)
        fields: dict[str, Any] = {"cancel_requested": True}
        if one.changes.reason is not UNSET:
            fields["reason"] = one.changes.reason
        return Move(answer=asked, state=job.state, fields=fields)
    if not holds(one.guard, job):
        return Applied(ApplyStatus.STALE, job.state)
    if one.remove:
        return Move(
            answer=Applied(ApplyStatus.APPLIED),
            state=job.state,
            removes=True,
            left_active=job.state is State.ACTIVE,
        )
    return _move(one, job)


def holds(guard: Guard, job: JobRecord) -> bool:
    """Say whether a guard lets a transition of this job through (A1)."""
    if guard.fence is not None:
        return job.state is State.ACTIVE and job.fence == guard.fence
    if guard.states is None or job.state not in guard.states:
        return False
    return guard.cause is None or job.state is not State.BLOCKED or job.cause is guard.cause


def given(changes: Changes) -> dict[str, Any]:
    """Return the fields that are set."""
    fields = msgspec.structs.asdict(changes)
    return {name: value for name, value in fields.items() if value is not UNSET}


def _move(one: Transition, job: JobRecord) -> Move:
    was, target = job.state, one.to or job.state
    left = was is State.ACTIVE and target is not State.ACTIVE
    fields, delay = given(one.changes), None
    if left and job.cancel_requested:  # A7
        if target not in TERMINAL:
            target = State.CANCELLED
            fields.pop("reason", None)
        elif target is State.COMPLETED:
            fields["reason"] = None
    if left:
        fields.update(worker=None, lease_until=None, started=False)
    if target is not State.BLOCKED and (was is State.BLOCKED or fields.get("cause") is not None):
        fields["cause"] = None
    if target is State.DELAYED and one.to is State.DELAYED:
        if one.run_at is None:
            delay = one.delay
        else:
            fields["run_at"] = one.run_at
    revived = was in TERMINAL and target not in TERMINAL
    if revived:
        fields["finished_at"] = None
    return Move(
        answer=Applied(ApplyStatus.APPLIED, target),
        state=target,
        fields=fields,
        place=one.place if target is State.WAITING and one.to is State.WAITING else None,
        delay=delay,
        ended=target in TERMINAL and target is not was,
        revived=revived,
        left_active=left,
    )
