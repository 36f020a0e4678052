"""Policy, as pure functions: given a job and how its run ended, which transition follows.

Everything that decides between retry and dead, or how long a job waits, is in this file. Drivers
apply what it says; workers only report what happened.
"""

from __future__ import annotations

from random import Random

import msgspec

from taskmux.model import transition
from taskmux.model.backoff import DEFAULT_BACKOFF, Backoff, BackoffFunction, ExponentialPolicy
from taskmux.model.job import Attempt, ErrorInfo, JobRecord
from taskmux.model.transition import Changes, Transition
from taskmux.model.units import milliseconds, storable
from taskmux.policy.outcome import (
    CUT_OFF_WAIT_MS,
    Cancelled,
    Completed,
    Crashed,
    CutOff,
    Expired,
    Failed,
    Limited,
    Outcome,
    Released,
    Snoozed,
    Struck,
)

__all__ = ["Run", "decide", "last_chance"]

CRASH_BACKOFF = ExponentialPolicy(first_ms=1_000, cap_ms=60_000)
"""Redelivery after a crash: full jitter, so that a poison job's neighbours do not meet again."""


class Run(msgspec.Struct, frozen=True):
    """The circumstances of a run: who, when (store time, milliseconds), under which policy."""

    worker: str
    started_at: int | None = None
    finished_at: int | None = None
    backoff: Backoff | BackoffFunction = DEFAULT_BACKOFF
    history_limit: int = 20


def last_chance(job: JobRecord) -> bool:
    """Say whether one more crash kills the job: such a job runs alone in its process."""
    return job.crashes > 0 and job.crashes + 1 >= job.policy.max_crashes


def decide(job: JobRecord, outcome: Outcome, run: Run, rng: Random) -> Transition:  # noqa: C901, PLR0911 - one each
    """Return the transition that follows from how a run of the job ended."""
    match outcome:
        case Completed(result):
            return transition.complete(job, result)
        case Failed():
            return _failed(job, outcome, run, rng)
        case Snoozed():
            return _snoozed(job, outcome, run)
        case Limited():
            return _limited(job, outcome, run)
        case Crashed():
            return _crashed(job, outcome, run, rng)
        case Cancelled():
            changes = Changes(history=_history(job, run, "cancelled", None))
            return transition.cancelled(job, changes)  # the reason is that of the request
        case Expired(reason):
            return _expired(job, reason)
        case Struck(reason):
            return transition.set_aside(job, reason)
        case Released():
            return _stopped(job, run, "its worker stopped while it ran") or transition.release(job)
        case CutOff():
            why = "its run was cancelled by other code in its worker's process"
            again = transition.again(job, Changes(reason=why), CUT_OFF_WAIT_MS)
            return _stopped(job, run, why) or again


def _stopped(job: JobRecord, run: Run, why: str) -> Transition | None:
    """Bury a begun job that may start only once; None: it may be given back."""
    if job.policy.max_attempts > 1 or job.policy.max_crashes > 0:
        return None
    changes = Changes(history=_history(job, run, "stopped", None))
    return _bury(job, changes, f"{why}, and it may start only once")


def _snoozed(job: JobRecord, snoozed: Snoozed, run: Run) -> Transition:
    changes = Changes(reason=snoozed.reason)
    if snoozed.record:
        error = snoozed.error or ErrorInfo("Snooze", snoozed.reason)
        history = _history(job, run, "snoozed", error)
        changes = Changes(reason=snoozed.reason, history=history)
    return transition.again(job, changes, max(snoozed.after_ms, 1))


def _limited(job: JobRecord, limited: Limited, run: Run) -> Transition:
    changes = Changes(reason=limited.reason)
    if limited.error is not None:
        history = _history(job, run, "rate limited", limited.error)
        changes = Changes(reason=limited.reason, history=history)
    return transition.limited(job, changes, limited.after_ms, line=limited.line)


def _failed(job: JobRecord, failed: Failed, run: Run, rng: Random) -> Transition:
    attempts = job.attempts + 1
    changes = Changes(
        attempts=attempts,
        error=failed.error,
        history=_history(job, run, failed.word, failed.error),
    )
    if failed.final:
        return _bury(job, changes, f"failed for good: {failed.error.message or failed.error.type}")
    if attempts >= job.policy.max_attempts:
        return _bury(job, changes, f"failed {attempts} of {job.policy.max_attempts} attempts")
    delay = failed.after_ms
    if delay is None:
        delay = _backoff_ms(job, failed.exception, attempts, run, rng)
    reason = f"attempt {attempts} of {job.policy.max_attempts} {failed.word}"
    return transition.again(job, msgspec.structs.replace(changes, reason=reason), delay)


def _backoff_ms(
    job: JobRecord, error: BaseException | None, attempts: int, run: Run, rng: Random
) -> int:
    policy = job.policy.backoff or run.backoff
    if isinstance(policy, Backoff):
        return policy.delay_ms(attempts, rng)
    try:
        return milliseconds(policy(attempts, Exception() if error is None else error), "backoff")
    except BaseException:  # noqa: BLE001 - the user's function; the job must go on without it
        return DEFAULT_BACKOFF.delay_ms(attempts, rng)


def _crashed(job: JobRecord, crashed: Crashed, run: Run, rng: Random) -> Transition:
    """Decide about a lapsed lease. The record's fence is the recoverer's, one above the lost."""
    if job.cancel_requested:
        return transition.cancelled(
            job, Changes(reason=f"{job.reason or 'cancelled'}; its worker was lost")
        )
    late = crashed.expired
    if not job.started:
        return transition.release(job) if late is None else _expired(job, late)
    crashes = job.crashes + 1
    error = ErrorInfo("Crashed", f"its lease lapsed: worker {job.worker} died, hung or was cut off")
    changes = Changes(
        crashes=crashes, error=error, history=_history(job, run, "crashed", error, lost=1)
    )
    if crashes >= job.policy.max_crashes:
        return _bury(job, changes, f"crashed its worker {crashes} times (max_crashes)")
    if late is not None:
        return transition.cancelled(job, msgspec.structs.replace(changes, reason=late))
    reason = f"redelivered after crash {crashes} of {job.policy.max_crashes}"
    delay = max(1, CRASH_BACKOFF.delay_ms(crashes, rng))  # never at once
    return transition.again(job, msgspec.structs.replace(changes, reason=reason), delay)


def _expired(job: JobRecord, reason: str) -> Transition:
    return transition.cancelled(job, Changes(reason=reason))


def _bury(job: JobRecord, changes: Changes, reason: str) -> Transition:
    return transition.bury(job, msgspec.structs.replace(changes, reason=storable(reason, 500)))


def _history(
    job: JobRecord, run: Run, outcome: str, error: ErrorInfo | None, lost: int = 0
) -> tuple[Attempt, ...]:
    attempt = Attempt(
        number=job.attempts + 1,
        fence=job.fence - lost,
        worker=run.worker,
        outcome=outcome,
        started_at=run.started_at,
        finished_at=run.finished_at,
        error=error,
    )
    return (*job.history, attempt)[-run.history_limit :] if run.history_limit else ()
