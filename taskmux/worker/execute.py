"""Execution: load, run, decide, settle. Each a short step over one held job."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

import msgspec

from taskmux import transition
from taskmux.batch import Replies, resend
from taskmux.codec import encode_value
from taskmux.config import Limits
from taskmux.context import Context
from taskmux.driver import Driver
from taskmux.errors import PayloadError
from taskmux.instrument import Hooks
from taskmux.job import JobRecord
from taskmux.lifecycle import (
    Cancelled,
    Completed,
    Failed,
    Outcome,
    Released,
    Run,
    decide,
    describe,
    last_chance,
    outcome_of,
    timed_out,
    unknown_task,
)
from taskmux.messages import Applied, LeaseStatus, Note
from taskmux.retry import DEFAULT_BACKOFF
from taskmux.task import Registry, Task
from taskmux.worker.lanes import Held, Lanes, monotonic
from taskmux.worker.renew import extend
from taskmux.worker.settle import Settler

__all__ = ["Equipment", "Runner"]

logger = logging.getLogger("taskmux.worker")

AnyTask = Task[Any, Any, Any, Any]

TRIES = 3


class Equipment(msgspec.Struct, frozen=True):
    """What every run shares.

    `drivers`, `settlers` and `notes` are by the number of the job's store. `now_ms` returns the
    store's time, as well as this process knows it; it is for histories only, never for decisions.
    """

    registry: Registry
    hooks: Hooks
    limits: Limits
    worker: str
    threads: Executor
    drivers: Sequence[Driver]
    settlers: Sequence[Settler]
    notes: Sequence[Replies[Note, Applied]]
    now_ms: Callable[[], int]
    lease_ms: int
    state: Any = None


class Runner:
    """Runs held jobs in a lane."""

    def __init__(self, lanes: Lanes, equipment: Equipment) -> None:
        self._lanes = lanes
        self._with = equipment
        self._rng = random.Random()  # noqa: S311 - jitter
        self._plain = not (equipment.hooks.started or equipment.hooks.wraps_runs)

    async def lane(self) -> None:
        """Take and run jobs until the lanes are closed."""
        while (held := await self._lanes.take()) is not None:
            try:
                await self._execute(held)
            except Exception:
                logger.exception(
                    "job %s: taskmux itself failed; the lease will lapse", held.job.ref
                )
                self._lanes.forget(held)
            finally:
                self._lanes.done(held)

    async def _execute(self, held: Held) -> None:
        job = held.job
        settler = self._with.settlers[held.link]
        alone = last_chance(job)
        if alone:
            await self._seclude()
        if not await self._may_start(held, settler):
            self._lanes.forget(held)
            return
        if self._lanes.cut:  # it is given back with all that never began
            return
        began = self._with.now_ms()
        task = self._with.registry.get(job.task)
        outcome: Outcome | None
        if task is None:
            outcome = unknown_task(job, self._with.worker)
        else:
            outcome = await self._run(held, task)
        if outcome is None or held.stop == "lost":  # what is written now would be refused
            self._lanes.forget(held)
            return
        run = Run(
            worker=self._with.worker,
            started_at=began,
            finished_at=self._with.now_ms(),
            backoff=DEFAULT_BACKOFF if task is None else task.backoff,
            history_limit=self._with.limits.history,
        )
        settler.settle(held, decide(job, outcome, run, self._rng))
        if alone:  # nor may what comes next take this one's outcome with it
            await self._quiet()

    async def _seclude(self) -> None:
        """Leave nothing that a crash could take along: neither outcomes nor waiting jobs."""
        for other in await self._lanes.seclude():
            self._with.settlers[other.link].settle(other, transition.release(other.job))
        await self._quiet()

    async def _quiet(self) -> None:
        for settler in self._with.settlers:
            await settler.quiet()

    async def _may_start(self, held: Held, settler: Settler) -> bool:
        """Say whether the run may begin: the store is told, and the lease holds."""
        if not held.started:
            first = held.job.fence == held.job.created_at + 1
            if first and held.job.policy.max_crashes > 1:  # one uncounted crash does no harm
                settler.mark_started(held)
            elif not await settler.confirm_started(held):
                return False
        return held.until > monotonic() or await self._still_held(held)

    async def _still_held(self, held: Held) -> bool:
        """Renew a lease that has lapsed by this process's clock; False if it is lost.

        A process that was stopped or swapped out wakes up with jobs that others may have run.
        """
        driver = self._with.drivers[held.link]
        while held.until <= monotonic():
            (status,) = await resend(lambda: extend(driver, [held], self._with.lease_ms), TRIES)
            if status is LeaseStatus.LOST:
                return False
        return True

    async def _run(self, held: Held, task: AnyTask) -> Outcome | None:
        job = held.job
        try:
            args, named = task.signature.decode(job.payload)
        except PayloadError as error:
            return Failed(describe(error, self._with.limits), final=True, word="undecodable")
        if task.signature.takes_context:
            held.context = self._context(held)
            args.insert(0, held.context)
        held.lane = asyncio.current_task()
        held.began = monotonic()
        try:
            value = await self._invoke(job, task, args, named)
        except asyncio.CancelledError as error:
            if held.stop is not None:
                return _stopped(held, task)
            if _being_cancelled():  # the lane itself, since the worker ends
                raise
            return outcome_of(error, self._with.limits)  # what the handler awaited was cancelled
        except _Overran:
            return timed_out(job.policy.timeout_ms or 0)
        except (KeyboardInterrupt, GeneratorExit):  # meant for the process and for the lane
            raise
        except BaseException as error:  # noqa: BLE001 - what a handler raises is its outcome
            return outcome_of(error, self._with.limits)
        finally:
            held.lane = None
            held.ended = monotonic()
            if held.stop is not None:
                _forgive_cancellation()
        return self._completed(job, value)

    def _context(self, held: Held) -> Context:
        return Context(
            held.job,
            worker=self._with.worker,
            state=self._with.state,
            notes=self._with.notes[held.link],
            limits=self._with.limits,
        )

    async def _invoke(
        self, job: JobRecord, task: AnyTask, args: list[Any], named: dict[str, Any]
    ) -> Any:
        if self._plain and task.is_async and job.policy.timeout_ms is None:
            return await task.function(*args, **named)
        if self._with.hooks.started is not None:
            self._with.hooks.started(job, self._with.worker)
        with self._with.hooks.context(job):
            limit = job.policy.timeout_ms
            if limit is None:
                return await self._call(task, args, named)
            scope = asyncio.timeout(limit / 1000)
            try:
                async with scope:
                    return await self._call(task, args, named)
            except TimeoutError:
                if scope.expired():
                    raise _Overran from None
                raise  # the handler's own

    async def _call(self, task: AnyTask, args: list[Any], named: dict[str, Any]) -> Any:
        if task.is_async:
            return await task.function(*args, **named)
        call = partial(contextvars.copy_context().run, task.function, *args, **named)
        result = await asyncio.get_running_loop().run_in_executor(self._with.threads, call)
        return await result if asyncio.iscoroutine(result) else result

    def _completed(self, job: JobRecord, value: Any) -> Outcome:
        if not job.policy.keep_result or value is None:
            return Completed(None)
        what = f"The result of task {job.task!r}"
        try:
            return Completed(encode_value(value, what, self._with.limits.result))
        except PayloadError as error:
            return Failed(describe(error, self._with.limits), final=True)


class _Overran(Exception):
    """The run reached its timeout."""


def _stopped(held: Held, task: AnyTask) -> Outcome | None:
    """Return the outcome of an interrupted run; None: say nothing and let the lease lapse.

    A thread cannot be stopped. Releasing its job while it still runs would let the job run twice
    under no lapsed lease, so a sync handler that outlives the drain is left to lapse instead.
    """
    match held.stop:
        case "cancel":
            return Cancelled()
        case "drain" if task.is_async:
            return Released()
        case _:
            return None


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _forgive_cancellation() -> None:
    """The lane was cancelled to stop its handler; the lane itself goes on."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
