"""Why a job does not run: every reason that holds now, each in a sentence. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from taskmux.model.job import PENDING, TERMINAL, BlockedCause, JobRecord, Ref, State
from taskmux.model.queue import LineSettings, QueueSettings, Standing
from taskmux.model.units import show_ms
from taskmux.model.workers import WorkerInfo
from taskmux.policy.expiry import begins_by, expired
from taskmux.policy.strikes import read_strikes, set_aside_by, strike_of

__all__ = ["Cause", "Explanation", "Reason", "explain"]


class Cause(StrEnum):
    """What a reason is, for machines."""

    FINISHED = "finished"
    RUNNING = "running"
    LAPSED = "lapsed"
    """Its lease lapsed: its worker died, hangs or is cut off, and nobody took over yet."""
    DELAYED = "delayed"
    BLOCKED = "blocked"
    MOVED = "moved"
    PAUSED = "paused"
    LINE_PAUSED = "line paused"
    RATE = "rate"
    LINE_RATE = "line rate"
    CONCURRENCY = "concurrency"
    LINE_CONCURRENCY = "line concurrency"
    TURN = "turn"
    NO_WORKER = "no worker"
    UNKNOWN_TASK = "unknown task"
    WORKERS_PAUSED = "workers paused"
    WORKERS_BUSY = "workers busy"
    STRUCK = "struck"
    """A strike sets it aside when its turn comes."""
    EXPIRED = "expired"
    """It is too late to begin: the worker that claims it next cancels it."""
    READY = "ready"
    """Nothing keeps it: the next claim takes it."""


class Reason(msgspec.Struct, frozen=True):
    """One reason. `until`: when it ends by itself, in epoch milliseconds, where that is known."""

    cause: Cause
    text: str
    until: int | None = None


class Explanation(msgspec.Struct, frozen=True):
    """A job's state and every reason why it does not run now, the firmest first."""

    ref: Ref
    state: State
    reasons: tuple[Reason, ...]

    def __str__(self) -> str:
        return f"{self.ref} is {self.state}. " + " ".join(reason.text for reason in self.reasons)

    @property
    def causes(self) -> tuple[Cause, ...]:
        """The causes alone."""
        return tuple(reason.cause for reason in self.reasons)


def explain(
    job: JobRecord,
    settings: QueueSettings,
    standing: Standing | None,
    workers: Sequence[WorkerInfo] | None,
    now: int,
) -> Explanation:
    """Say why a job does not run.

    Args:
        job: the record.
        settings: its queue's.
        standing: what it stands behind; None if it does not wait, or the store cannot tell.
        workers: the live workers of its store; None if the store keeps no registry.
        now: the store's time in epoch milliseconds, as well as it is known.
    """
    reasons = [*_of_expiry(job, now), *_of_state(job, now)]
    if job.state in {State.WAITING, State.DELAYED, State.BLOCKED}:
        reasons += _of_queue(job, settings)
        if standing is not None:
            reasons += _of_limits(job, settings, standing, now)
        if workers is not None:
            reasons += _of_workers(job, workers)
        if standing is not None:
            reasons += _of_turn(job, standing)
    if not reasons:
        reasons.append(Reason(Cause.READY, "Nothing keeps it: the next claim takes it."))
    return Explanation(job.ref, job.state, tuple(reasons))


def _of_expiry(job: JobRecord, now: int) -> Iterator[Reason]:
    late = expired(job, now)
    if late is not None and job.state in PENDING:
        text = f"It has {late}. The worker that claims it next cancels it."
        yield Reason(Cause.EXPIRED, text, begins_by(job))


def _of_state(job: JobRecord, now: int) -> Iterator[Reason]:
    why = f": {job.reason}" if job.reason else ""
    if job.state in TERMINAL:
        yield Reason(Cause.FINISHED, f"It finished {_at(job.finished_at)}{why}.")
    elif job.state is State.ACTIVE:
        until = job.lease_until or 0
        if until <= now:
            text = (
                f"Its lease lapsed {_at(until)}: worker {job.worker} died, hangs or is cut off. "
                f"Any worker of its queue takes it over soon."
            )
            yield Reason(Cause.LAPSED, text)
        else:
            asked = ", and is asked to cancel" if job.cancel_requested else ""
            text = f"Worker {job.worker} holds it until {_clock(until)} at least{asked}."
            yield Reason(Cause.RUNNING, text)
    elif job.state is State.DELAYED:
        due = job.run_at or 0
        text = f"It is not due before {_clock(due)}{why}."
        if due <= now:
            text = f"It has been due since {_clock(due)} and waits for a worker to claim{why}."
        yield Reason(Cause.DELAYED, text, due)
    elif job.state is State.BLOCKED:
        if set_aside_by(job) is not None:
            yield Reason(
                Cause.BLOCKED, f"It was set aside by {job.reason}. Lift that to let it go."
            )
            return
        yield Reason(Cause.BLOCKED, _BLOCKED[job.cause].format(children=job.children))


_BLOCKED = {
    None: "It is blocked.",
    BlockedCause.CHILDREN: "It waits for {children} unfinished children.",
    BlockedCause.HOLD: "It is held back by hand until somebody lets it go.",
    BlockedCause.STAGED: "It is staged: its flow is not complete yet.",
    BlockedCause.DEDUP: "It waits for an unfinished job with the same deduplication key.",
}


def _of_queue(job: JobRecord, settings: QueueSettings) -> Iterator[Reason]:
    if settings.moved_to is not None:
        yield Reason(Cause.MOVED, f"Queue {job.queue} has moved to {settings.moved_to}.")
    strike = None if job.state is State.BLOCKED else strike_of(read_strikes(settings.strikes), job)
    if strike is not None:
        yield Reason(Cause.STRUCK, f"When its turn comes, it is set aside by {strike}.")
    if settings.paused:
        yield Reason(Cause.PAUSED, f"Queue {job.queue} is paused.")
    if settings.line(job.group).paused:
        yield Reason(Cause.LINE_PAUSED, f"{_line(job.group)} is paused.")


def _of_limits(
    job: JobRecord, settings: QueueSettings, standing: Standing, now: int
) -> Iterator[Reason]:
    both = (
        (Cause.CONCURRENCY, f"Queue {job.queue}", settings, standing.active),
        (Cause.LINE_CONCURRENCY, _line(job.group), settings.line(job.group), standing.line_active),
    )
    for cause, what, limits, active in both:
        if limits.concurrency is not None and active >= limits.concurrency:
            text = f"{what} runs {active} of at most {limits.concurrency} jobs at once."
            yield Reason(cause, text)
    for cause, what, limits, opens_in in (
        (Cause.RATE, f"Queue {job.queue}", settings, standing.opens_in),
        (Cause.LINE_RATE, _line(job.group), settings.line(job.group), standing.line_opens_in),
    ):
        if opens_in > 0:
            until = now + opens_in
            rate = f" ({_rate(limits)})" if limits.rate else ""
            text = f"{what} is rate limited{rate}: nothing starts before {_clock(until)}."
            yield Reason(cause, text, until)


def _of_workers(job: JobRecord, workers: Sequence[WorkerInfo]) -> Iterator[Reason]:
    serving = [worker for worker in workers if job.queue in worker.queues]
    able = [worker for worker in serving if job.task in worker.tasks]
    if not serving:
        text = f"No live worker serves queue {job.queue}: start one with --queues {job.queue}."
        yield Reason(Cause.NO_WORKER, text)
    elif not able:
        text = (
            f"None of the {len(serving)} live workers of queue {job.queue} has task {job.task!r}: "
            f"start one that imports it."
        )
        yield Reason(Cause.UNKNOWN_TASK, text)
    elif all(worker.paused for worker in able):
        text = f"Every live worker of queue {job.queue} that has the task is paused."
        yield Reason(Cause.WORKERS_PAUSED, text)
    elif all(worker.paused or worker.running >= worker.concurrency for worker in able):
        busy = sum(worker.running for worker in able)
        text = f"The {len(able)} live workers that could run it are busy with {busy} jobs."
        yield Reason(Cause.WORKERS_BUSY, text)


def _of_turn(job: JobRecord, standing: Standing) -> Iterator[Reason]:
    others = standing.lines - 1
    if standing.ahead or others:
        jobs = "1 job is" if standing.ahead == 1 else f"{standing.ahead} jobs are"
        where = f"{jobs} before it" if standing.ahead else "It is the first"
        lines = "1 other line" if others == 1 else f"{others} other lines"
        turns = f", which takes turns with {lines}" if others else ""
        yield Reason(Cause.TURN, f"{where} in {_line(job.group, capital=False)}{turns}.")


def _line(group: str | None, *, capital: bool = True) -> str:
    if group is None:
        name = "the queue's common line"
    elif group.startswith("@"):
        name = f"task {group[1:]}"
    else:
        name = f"group {group}"
    return name[0].upper() + name[1:] if capital else name


def _rate(limits: QueueSettings | LineSettings) -> str:
    rate = limits.rate
    assert rate is not None
    return f"{rate.count} per {show_ms(rate.per)}"


def _at(ms: int | None) -> str:
    return f"at {_clock(ms or 0)}"


def _clock(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
