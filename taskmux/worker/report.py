"""What became of runs, told to observers and to the log: `taskmux.worker`.

Every line has its facts as `extra` fields too (`queue`, `job`, `task`, `attempt`, `seconds`, ...),
for logs that machines read.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from taskmux.driver import Applied
from taskmux.model.job import ErrorInfo, JobRecord, State
from taskmux.model.judge import Move, judge
from taskmux.model.log import Log
from taskmux.model.transition import Transition
from taskmux.model.units import show_ms
from taskmux.plugins.instrument import Hooks
from taskmux.worker.clock import monotonic, now_ms

__all__ = ["Report"]

logger = Log("taskmux.worker")

CLOCK_MS = 1_000
"""What instants of one store may differ by without meaning anything."""
REMIND_EVERY = 60.0
"""Seconds between two warnings about the same unknown task."""

FAIL = "taskmux.Fail"
"""The error that a handler raises on purpose, as histories name it."""


class Report:
    """Tells what became of runs.

    Args:
        hooks: the observers.
        worker: the worker's id.
        lease_ms: how long its claims hold; by it a record says when it was claimed.
    """

    def __init__(self, hooks: Hooks, worker: str, lease_ms: int) -> None:
        self._hooks = hooks
        self._worker = worker
        self._lease_ms = lease_ms
        self._unknown: dict[str, float] = {}
        self._talks = False
        self.on_completion = hooks.settled is not None
        """Whether anybody wants to hear of a job that was done. The log is asked every second."""

    async def listen(self) -> None:
        """Ask the log every second whether it takes INFO."""
        while True:
            self._talks = logger.takes(logging.INFO)
            self.on_completion = self._talks or self._hooks.settled is not None
            await asyncio.sleep(1)

    def settled(self, job: JobRecord, what: Transition, applied: Applied, seconds: float) -> None:
        """A run's outcome was stored; `job` is the record as it was claimed."""
        if self._hooks.settled is not None:
            self._hooks.settled(_after(job, what, applied), what, seconds)
        state = applied.state or what.to
        if state is State.COMPLETED:
            if self._talks:
                self._done(job, seconds)
        elif state is State.DEAD:
            self._dead(job, what, seconds)
            if self._hooks.dead is not None:
                self._hooks.dead(_after(job, what, applied))
        elif what.changes.attempts is not UNSET or what.changes.crashes is not UNSET:
            self._retried(job, what, seconds)
        elif self._talks and not _is_unknown(what):
            reason = what.changes.reason or "given back"
            logger.info("job %s (%s): %s", job.ref, job.task, reason, extra=_facts(job, seconds))

    def refused(self, job: JobRecord) -> None:
        """A run's outcome was refused: the job was no longer this worker's."""
        logger.warning(
            "job %s (%s): this run's outcome was refused, its lease had lapsed (fence %d)",
            job.ref,
            job.task,
            job.fence,
            extra=_facts(job),
        )
        self.lost(job)

    def lost(self, job: JobRecord) -> None:
        """A running job's lease was lost."""
        if self._hooks.lease_lost is not None:
            self._hooks.lease_lost(job, self._worker)

    def unknown_task(self, job: JobRecord) -> None:
        """A job came whose task this worker does not have."""
        now = monotonic()
        if self._unknown.get(job.task, 0.0) > now:
            return
        self._unknown[job.task] = now + REMIND_EVERY
        logger.warning(
            "job %s: this worker has no task %r; such jobs wait for one that imports it",
            job.ref,
            job.task,
            extra=_facts(job),
        )

    def _done(self, job: JobRecord, seconds: float) -> None:
        waited = self._waited(job)
        logger.info(
            "job %s (%s): attempt %d done in %.3f s, waited %.3f s",
            job.ref,
            job.task,
            job.attempts + 1,
            seconds,
            waited,
            extra=_facts(job, seconds) | {"waited": waited},
        )

    def _waited(self, job: JobRecord) -> float:
        """Return how long it waited since it was due, until this claim, in seconds.

        One that was promoted is claimed before that, and from when it waited is not known: it is
        counted from its creation.
        """
        if job.lease_until is None:
            return 0.0
        claimed = job.lease_until - self._lease_ms
        due = max(job.created_at, job.run_at or 0)
        since = job.created_at if due > claimed + CLOCK_MS else due
        return max(0, claimed - since) / 1000

    def _retried(self, job: JobRecord, what: Transition, seconds: float) -> None:
        logger.warning(
            "job %s (%s): %s: %s; next in %s",
            job.ref,
            job.task,
            what.changes.reason or "failed",
            _last_line(what.changes.error),
            show_ms(what.delay),
            extra=_facts(job, seconds, what.changes.error) | {"next_in": what.delay / 1000},
        )

    def _dead(self, job: JobRecord, what: Transition, seconds: float) -> None:
        error = what.changes.error
        text = str(what.changes.reason)
        if not isinstance(error, ErrorInfo) or error.type != FAIL:  # whose reason says it already
            text = f"{text}: {_last_line(error)}"
        if isinstance(error, ErrorInfo) and error.traceback:
            text = f"{text}\n{error.traceback.rstrip()}"
        logger.error(
            "job %s (%s) is dead: %s",
            job.ref,
            job.task,
            text,
            extra=_facts(job, seconds, error),
        )


def _is_unknown(what: Transition) -> bool:
    """Say whether a job waits for a worker that has its task: that is told of by itself."""
    return what.to is State.DELAYED and what.changes.history is UNSET


def _after(job: JobRecord, what: Transition, applied: Applied) -> JobRecord:
    """Return the record as the store has it now, its instants by this machine's clock."""
    move = judge(what, job)
    record = move.record(job, now_ms()) if isinstance(move, Move) else job
    if applied.state is None or applied.state is record.state:
        return record
    return replace(record, state=applied.state)  # it was asked to cancel meanwhile


def _last_line(error: Any) -> str:
    if not isinstance(error, ErrorInfo):
        return "no error"
    lines = error.message.strip().splitlines()
    return f"{error.type}: {lines[-1]}" if lines else error.type


def _facts(job: JobRecord, seconds: float | None = None, error: Any = None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "queue": job.queue,
        "job": job.id,
        "task": job.task,
        "attempt": job.attempts + 1,
    }
    if seconds is not None:
        facts["seconds"] = round(seconds, 6)
    if isinstance(error, ErrorInfo):
        facts["error"] = error.type
    return facts
