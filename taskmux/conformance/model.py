"""The model: what a stored record becomes, as pure functions of the record and an instant.

Written from the contracts in `taskmux.driver`, not from any driver. The cases apply an operation,
read the record back and compare all of it with what these functions say.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from taskmux.driver import (
    TERMINAL,
    Applied,
    ApplyStatus,
    ClaimAsk,
    JobRecord,
    NewJob,
    Note,
    State,
    Transition,
)

__all__ = ["answer", "differences", "leased", "moved", "noted", "pushed", "replaced"]


def pushed(new: NewJob, now: int, *, fence: int) -> JobRecord:
    """Return the record of a job created at `now` (P1). The fence is the store's to choose."""
    job = new.job
    run_at = job.run_at
    if job.state is State.DELAYED and run_at is None:
        run_at = now + new.delay
    return replace(job, created_at=now, fence=fence, run_at=run_at)


def replaced(owner: JobRecord, new: NewJob, now: int) -> JobRecord:
    """Return the record of an owner or a successor that got a new job's content at `now` (P9)."""
    stays = ("id", "created_at", "fence", "group", "state", "cause", "run_at")
    record = replace(new.job, **{name: getattr(owner, name) for name in stays})
    dedup = new.job.dedup
    if dedup is None or not dedup.extend or new.job.state is not State.DELAYED:
        return record
    due = now + new.delay if new.job.run_at is None else new.job.run_at
    is_blocked = owner.state is State.BLOCKED
    return replace(record, run_at=due, state=State.BLOCKED if is_blocked else State.DELAYED)


def leased(job: JobRecord, ask: ClaimAsk, now: int, *, fence: int) -> JobRecord:
    """Return a record claimed at `now` (C3). The fence is the store's to choose."""
    return replace(
        job,
        state=State.ACTIVE,
        worker=ask.worker,
        lease_until=now + ask.lease,
        fence=fence,
        started=False,
    )


def answer(job: JobRecord, one: Transition) -> Applied:
    """Return the answer for a transition of a stored job (A1, A3, A7, A8, A9)."""
    if one.flag and job.state is State.ACTIVE:
        return Applied(ApplyStatus.REQUESTED, State.ACTIVE)
    if not _holds(job, one):
        return Applied(ApplyStatus.STALE, job.state)
    return Applied(ApplyStatus.APPLIED, None if one.remove else _target(job, one))


def moved(job: JobRecord, one: Transition, now: int) -> JobRecord | None:
    """Return what a transition applied at `now` leaves of a record (A1, A3, A7, A8, A9)."""
    match answer(job, one).status:
        case ApplyStatus.STALE:
            return job
        case ApplyStatus.REQUESTED:
            asked = replace(job, cancel_requested=True)
            return replace(asked, **{k: v for k, v in _given(one).items() if k == "reason"})
    if one.remove:
        return None
    target = _target(job, one)
    result = replace(job, state=target, **_given(one))
    if job.state is State.ACTIVE and job.cancel_requested:
        result = replace(result, reason=_reason(job, result, one))
    if job.state is State.ACTIVE and target is not State.ACTIVE:
        result = replace(result, worker=None, lease_until=None, started=False)
    if target is not State.BLOCKED:
        result = replace(result, cause=None)
    if target is State.DELAYED and one.to is State.DELAYED:
        result = replace(result, run_at=now + one.delay if one.run_at is None else one.run_at)
    if target not in TERMINAL:
        return replace(result, finished_at=None)
    return result if target is job.state else replace(result, finished_at=now)


def noted(job: JobRecord, note: Note) -> JobRecord:
    """Return what a note leaves of a record (N2)."""
    if note.progress is not None:
        job = replace(job, progress=note.progress)
    if note.log is not None and note.log_index >= len(job.logs):
        job = replace(job, logs=(*job.logs, note.log))
    return replace(job, steps=job.steps | (note.steps or {}))


def differences(actual: JobRecord, low: JobRecord, high: JobRecord) -> dict[str, str]:
    """Return the fields that are wrong, in words.

    `low` and `high` are the expected record at the first and the last instant at which the store
    may have written it: a field that depends on the instant lies between, any other is equal.
    """
    wrong = {}
    for field in JobRecord.__struct_fields__:
        value, first, last = (getattr(record, field) for record in (actual, low, high))
        if first == last:
            if value != first or type(value) is not type(first):
                wrong[field] = f"is {value!r}, not {first!r}"
        elif not (isinstance(value, int) and first <= value <= last):
            wrong[field] = f"is {value!r}, not from {first!r} to {last!r}"
    return wrong


def _holds(job: JobRecord, one: Transition) -> bool:
    if one.guard.fence is not None:
        return job.state is State.ACTIVE and job.fence == one.guard.fence
    wrong_cause = one.guard.cause not in (None, job.cause)
    return job.state in (one.guard.states or ()) and not (
        job.state is State.BLOCKED and wrong_cause
    )


def _target(job: JobRecord, one: Transition) -> State:
    target = one.to or job.state
    leaves = job.state is State.ACTIVE and target is not State.ACTIVE
    if leaves and job.cancel_requested and target not in TERMINAL:
        return State.CANCELLED
    return target


def _reason(job: JobRecord, result: JobRecord, one: Transition) -> str | None:
    """Return why a job is where it is that was asked to cancel (A7)."""
    if result.state is State.COMPLETED:
        return None
    return job.reason if result.state is State.CANCELLED is not one.to else result.reason


def _given(one: Transition) -> dict[str, object]:
    fields = msgspec.structs.asdict(one.changes)
    return {name: value for name, value in fields.items() if value is not msgspec.UNSET}
