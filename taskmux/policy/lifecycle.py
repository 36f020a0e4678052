"""Policy, as pure functions: given a job and how its run ended, which transition follows.

Everything that decides between retry and dead, or how long a job waits, is in this file. Drivers
apply what it says; workers only report what happened.
"""

from __future__ import annotations

import traceback
from random import Random

import msgspec

from taskmux.config import Limits
from taskmux.model import transition
from taskmux.model.backoff import DEFAULT_BACKOFF, Backoff, BackoffFunction, ExponentialPolicy
from taskmux.model.job import Attempt, ErrorInfo, JobRecord
from taskmux.model.signals import Fail, RateLimited, Retry, Snooze
from taskmux.model.transition import Changes, Transition
from taskmux.model.units import milliseconds, show_ms, storable

__all__ = [
    "Cancelled",
    "Completed",
    "Crashed",
    "Failed",
    "Limited",
    "Outcome",
    "Released",
    "Run",
    "Snoozed",
    "decide",
    "describe",
    "last_chance",
    "outcome_of",
]

CRASH_BACKOFF = ExponentialPolicy(first_ms=1_000, cap_ms=60_000)
"""Redelivery after a crash: full jitter, so that a poison job's neighbours do not meet again."""

UNKNOWN_TASK_WAIT_MS = 15_000
"""How long a job rests when the worker that claimed it has no such task."""


# -- how a run ended -----------------------------------------------------------------------------


class Completed(msgspec.Struct, frozen=True, gc=False):
    """The handler returned; `result` is its encoded value."""

    result: bytes | None


class Failed(msgspec.Struct, frozen=True):
    """The handler raised, ran too long, or could not be run.

    `final`: no attempt may mend it. `after_ms`: the wait that the handler asked for. `exception`
    is for backoff functions only; it is never stored.
    """

    error: ErrorInfo
    final: bool = False
    after_ms: int | None = None
    exception: BaseException | None = None
    word: str = "failed"


class Snoozed(msgspec.Struct, frozen=True):
    """The job is to come back later, at no cost."""

    after_ms: int
    reason: str
    record: bool = True
    """Whether the history keeps it: a handler's wish is kept, an unknown task is not."""


class Limited(msgspec.Struct, frozen=True):
    """The handler met a limit: its queue, or with `line` its line, is to rest."""

    after_ms: int
    reason: str
    line: bool


class Released(msgspec.Struct, frozen=True):
    """The worker gave the job back unfinished."""


class Crashed(msgspec.Struct, frozen=True):
    """The lease lapsed: the worker died, hung or was cut off."""


class Cancelled(msgspec.Struct, frozen=True):
    """The handler stopped because the job was asked to cancel."""


Outcome = Completed | Failed | Snoozed | Limited | Released | Crashed | Cancelled


class Run(msgspec.Struct, frozen=True):
    """The circumstances of a run: who, when (store time, milliseconds), under which policy."""

    worker: str
    started_at: int | None = None
    finished_at: int | None = None
    backoff: Backoff | BackoffFunction = DEFAULT_BACKOFF
    history_limit: int = 20


def describe(error: BaseException, limits: Limits) -> ErrorInfo:
    """Return an exception as data, with message and traceback cut to their limits.

    The traceback keeps its end: the frames nearest to the failure.
    """
    text = "".join(traceback.format_exception(error))
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the failure
        message = "(its message cannot be shown)"
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else (f"{kind.__module__}.{kind.__qualname__}")
    )
    end = text if len(text) <= limits.traceback else "…" + text[1 - limits.traceback :]
    return ErrorInfo(name, storable(message, limits.message), storable(end, limits.traceback))


def outcome_of(error: BaseException, limits: Limits) -> Outcome:
    """Return what an exception that left a handler means."""
    match error:
        case Snooze():
            message = describe(error, limits).message
            return Snoozed(error.after_ms, message or "snoozed by its handler")
        case RateLimited():
            message = describe(error, limits).message
            return Limited(error.after_ms, message or "rate limited by its handler", error.group)
        case Retry():
            info = describe(error, limits)
            return Failed(info, after_ms=error.after_ms, exception=error, word="retried")
        case Fail():
            return Failed(describe(error, limits), final=True)
        case _:
            return Failed(describe(error, limits), exception=error)


def last_chance(job: JobRecord) -> bool:
    """Say whether one more crash kills the job: such a job runs alone in its process."""
    return job.crashes > 0 and job.crashes + 1 >= job.policy.max_crashes


def decide(job: JobRecord, outcome: Outcome, run: Run, rng: Random) -> Transition:  # noqa: PLR0911 - one each
    """Return the transition that follows from how a run of the job ended."""
    match outcome:
        case Completed(result):
            return transition.complete(job, result)
        case Failed():
            return _failed(job, outcome, run, rng)
        case Snoozed(after_ms, reason, record):
            changes = Changes(reason=reason)
            if record:
                history = _history(job, run, "snoozed", ErrorInfo("Snooze", reason))
                changes = Changes(reason=reason, history=history)
            return transition.again(job, changes, max(after_ms, 1))
        case Limited(after_ms, reason, line):
            return transition.limited(job, Changes(reason=reason), after_ms, line=line)
        case Crashed():
            return _crashed(job, run, rng)
        case Cancelled():
            changes = Changes(
                reason="cancelled while it ran", history=_history(job, run, "cancelled", None)
            )
            return transition.cancelled(job, changes)
        case Released():
            return _released(job, run)


def _released(job: JobRecord, run: Run) -> Transition:
    """Give a begun job back, unless it may start only once."""
    if job.policy.max_attempts > 1 or job.policy.max_crashes > 0:
        return transition.release(job)
    changes = Changes(history=_history(job, run, "stopped", None))
    return _bury(job, changes, "its worker stopped while it ran, and it may start only once")


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
        return milliseconds(policy(attempts, error or Exception()), "backoff")
    except Exception:  # noqa: BLE001 - the user's function; the job must go on without it
        return DEFAULT_BACKOFF.delay_ms(attempts, rng)


def _crashed(job: JobRecord, run: Run, rng: Random) -> Transition:
    """Decide about a lapsed lease. The record's fence is the recoverer's, one above the lost."""
    if job.cancel_requested:
        return transition.cancelled(job, Changes(reason="cancelled; its worker was lost"))
    if not job.started:
        return transition.release(job)
    crashes = job.crashes + 1
    error = ErrorInfo("Crashed", f"its lease lapsed: worker {job.worker} died, hung or was cut off")
    changes = Changes(
        crashes=crashes, error=error, history=_history(job, run, "crashed", error, lost=1)
    )
    if crashes >= job.policy.max_crashes:
        return _bury(job, changes, f"crashed its worker {crashes} times (max_crashes)")
    reason = f"redelivered after crash {crashes} of {job.policy.max_crashes}"
    delay = CRASH_BACKOFF.delay_ms(crashes, rng)
    return transition.again(job, msgspec.structs.replace(changes, reason=reason), delay)


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


def timed_out(timeout_ms: int) -> Failed:
    """Return the outcome of a run that was stopped at its timeout."""
    message = f"ran longer than its timeout of {show_ms(timeout_ms)} and was cancelled"
    return Failed(
        ErrorInfo("TimeoutError", message), exception=TimeoutError(message), word="timed out"
    )


def unknown_task(job: JobRecord, worker: str) -> Snoozed:
    """Return the outcome for a job whose task this worker does not have."""
    return Snoozed(
        UNKNOWN_TASK_WAIT_MS,
        f"worker {worker} has no task {job.task!r}: start a worker that imports it",
        record=False,
    )


def undecodable(error: ErrorInfo) -> Failed:
    """Return the outcome for a job whose arguments this worker cannot read.

    A deployment may be under way, and a newer worker may read them: each try spends an attempt,
    with a wait as for an unknown task in between.
    """
    return Failed(error, after_ms=UNKNOWN_TASK_WAIT_MS, word="undecodable")


def unstorable(error: ErrorInfo) -> Failed:
    """Return the outcome for a job whose own outcome the store refused, such as for its size.

    The run is over and another would come to the same, so the job is dead, without the result.
    """
    return Failed(error, final=True, word="unstorable")
