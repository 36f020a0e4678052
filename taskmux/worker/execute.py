"""Execution: load, run, decide, settle. Each a short step over one held job."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

import msgspec

from taskmux.api.batch import Replies, resend
from taskmux.api.codec import encode_value
from taskmux.api.context import Context
from taskmux.api.task import Registry, Task
from taskmux.config import Limits
from taskmux.driver import Applied, Driver, LeaseStatus, Lines, Note
from taskmux.model import transition
from taskmux.model.backoff import DEFAULT_BACKOFF
from taskmux.model.errors import PayloadError
from taskmux.model.job import JobRecord
from taskmux.model.signals import Fail, RateLimited, Retry, Snooze
from taskmux.plugins.instrument import Hooks
from taskmux.policy.lifecycle import (
    Cancelled,
    Completed,
    Failed,
    Limited,
    Outcome,
    Released,
    Run,
    Snoozed,
    decide,
    describe,
    last_chance,
    outcome_of,
    timed_out,
    unknown_task,
)
from taskmux.worker.lanes import Held, Lane, Lanes, monotonic
from taskmux.worker.renew import extend
from taskmux.worker.settle import Settler

__all__ = ["Equipment", "Isolated", "Runner"]

logger = logging.getLogger("taskmux.worker")

AnyTask = Task[Any, Any, Any, Any]

TRIES = 3
PATIENCE = 5.0
"""Seconds that a job on its last chance waits to be alone."""


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
        self._context_vars = contextvars.copy_context()
        self._unrecorded = Run(worker=equipment.worker)  # a completed run leaves no history
        self._plain = not (equipment.hooks.started or equipment.hooks.wraps_runs)

    async def lane(self) -> None:
        """Take and run jobs until the lanes are closed.

        A handler can get hold of the lane's task and cancel it at any time; only the end of the
        worker ends a lane.
        """
        task = asyncio.current_task()  # a system call where Python is older than 3.12: once
        while True:
            try:
                held = await self._lanes.take()
                if held is None:
                    return
                await self._one(held, task)
            except asyncio.CancelledError:
                if self._lanes.ending:
                    raise
                await _forgive_cancellation()

    async def _one(self, held: Held, lane: Lane) -> None:
        try:
            await self._execute(held, lane)
        except Exception:
            logger.exception("job %s: taskmux itself failed; its lease will lapse", held.job.ref)
            self._lanes.forget(held)
        finally:
            self._lanes.done(held)

    async def _execute(self, held: Held, lane: Lane) -> None:
        job = held.job
        settler = self._with.settlers[held.link]
        alone = last_chance(job)
        if alone:
            await self._seclude(held)
            if self._lanes.closed:  # it is given back with all that never began
                return
        if not await self._may_start(held, settler):
            self._lanes.forget(held)
            return
        if self._lanes.cut:
            return
        task = self._with.registry.get(job.task)
        outcome: Outcome | None
        if task is None:
            outcome = unknown_task(job, self._with.worker)
        else:
            outcome = await self._run(held, task, lane)
        if outcome is None or held.stop == "lost":  # what is written now would be refused
            self._lanes.forget(held)
            return
        run = (
            self._unrecorded if isinstance(outcome, Completed) else self._circumstances(held, task)
        )
        settler.settle(held, decide(job, outcome, run, self._rng))
        if isinstance(outcome, Limited):
            self._rest(held, settler, line=outcome.line)
        if alone:  # what comes next must not take this one's outcome with it
            await self._quiet()

    def _rest(self, held: Held, settler: Settler, *, line: bool) -> None:
        """Give back what waits here of a queue, or line, that is to rest."""
        job, link = held.job, held.link
        for other in self._lanes.withdraw(
            lambda one: (
                one.link == link
                and one.job.queue == job.queue
                and (not line or one.job.group == job.group)
            )
        ):
            settler.settle(other, transition.release(other.job))

    def _circumstances(self, held: Held, task: AnyTask | None) -> Run:
        """Return what the history says about a run that did not complete."""
        now = self._with.now_ms()
        return Run(
            worker=self._with.worker,
            started_at=now - round((held.ended - held.began) * 1000),
            finished_at=now,
            backoff=DEFAULT_BACKOFF if task is None else task.backoff,
            history_limit=self._with.limits.history,
        )

    async def _seclude(self, held: Held) -> None:
        """Leave nothing that a crash could take along: outcomes, waiting jobs, other handlers.

        Handlers that run for long are not waited for: nobody would ever be alone then.
        """
        for other in self._lanes.seclude(held):
            self._with.settlers[other.link].settle(other, transition.release(other.job))
        await self._lanes.others_finish(PATIENCE)
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

    async def _run(self, held: Held, task: AnyTask, lane: Lane) -> Outcome | None:
        job = held.job
        try:
            args, named = task.signature.decode(job.payload)
        except PayloadError as error:
            return Failed(describe(error, self._with.limits), final=True, word="undecodable")
        if task.signature.takes_context:
            held.context = self._context(held)
            args.insert(0, held.context)
        held.threaded = not task.is_async
        held.lane = lane
        held.began = monotonic()
        try:
            value = await self._invoke(held, task, args, named)
        except (KeyboardInterrupt, GeneratorExit):  # meant for the process, or for the lane
            raise
        except BaseException as error:
            if self._lanes.ending:
                raise
            return self._ended_by(error, held)
        finally:
            held.lane = None
            held.ended = monotonic()
            if lane is not None and lane.cancelling() and not self._lanes.ending:
                await _forgive_cancellation()
        return self._completed(job, value)

    def _ended_by(self, error: BaseException, held: Held) -> Outcome | None:
        """Return what an exception means: what the handler says, or why it was stopped.

        A client library may turn a cancellation into an error of its own.
        """
        if isinstance(error, _Overran):
            return timed_out(held.job.policy.timeout_ms or 0)
        if held.stop is None or isinstance(error, Fail | RateLimited | Retry | Snooze):
            return self._possible(outcome_of(error, self._with.limits), held)
        match held.stop:
            case "cancel":
                return Cancelled()
            case "drain":
                return Released()
            case _:
                return None

    def _possible(self, outcome: Outcome, held: Held) -> Outcome:
        """Return what the store can do: without lines, a job that met a limit rests alone."""
        if not isinstance(outcome, Limited) or isinstance(self._with.drivers[held.link], Lines):
            return outcome
        logger.warning("job %s: this store cannot hold a queue, so the job waits", held.job.ref)
        return Snoozed(outcome.after_ms, outcome.reason)

    def _context(self, held: Held) -> Context:
        return Context(
            held.job,
            worker=self._with.worker,
            state=self._with.state,
            notes=self._with.notes[held.link],
            limits=self._with.limits,
        )

    async def _invoke(
        self, held: Held, task: AnyTask, args: list[Any], named: dict[str, Any]
    ) -> Any:
        job = held.job
        limit = job.policy.timeout_ms
        if self._plain and task.is_async and limit is None:
            return await Isolated(task.function(*args, **named), self._context_vars.copy())
        if self._with.hooks.started is not None:
            self._with.hooks.started(job, self._with.worker)
        with self._with.hooks.context(job):
            variables = self._variables()
            if not task.is_async:
                call = partial(variables.run, task.function, *args, **named)
                return await self._in_thread(held, call, variables)
            return await _within(limit, Isolated(task.function(*args, **named), variables))

    def _variables(self) -> contextvars.Context:
        """Return context variables for one run: the worker's own, or what plug-ins entered."""
        return (
            contextvars.copy_context()
            if self._with.hooks.wraps_runs
            else (self._context_vars.copy())
        )

    async def _in_thread(
        self, held: Held, call: Callable[[], Any], variables: contextvars.Context
    ) -> Any:
        """Run a sync handler in a thread and wait for its end, whatever its timeout.

        There is a thread for each lane, so it begins at once. Settling the job while its thread
        still runs would let the job run twice at once, with no lapsed lease.
        """
        loop = asyncio.get_running_loop()
        limit = held.job.policy.timeout_ms
        thread = loop.run_in_executor(self._with.threads, _caught, call)
        done, _ = await asyncio.wait([thread], timeout=None if limit is None else limit / 1000)
        if not done:
            if held.context is not None:
                held.context.ask_to_cancel()
            await asyncio.wait([thread])
            raise _Overran
        value, error = thread.result()
        if error is not None:
            raise error
        return await Isolated(value, variables) if asyncio.iscoroutine(value) else value

    def _completed(self, job: JobRecord, value: Any) -> Outcome:
        if not job.policy.keep_result or value is None:
            return Completed(None)
        what = f"The result of task {job.task!r}"
        try:
            return Completed(encode_value(value, what, self._with.limits.result))
        except PayloadError as error:
            return Failed(describe(error, self._with.limits), final=True)


class Isolated:
    """Awaits a handler's coroutine with context variables of its own.

    The lane goes on to other jobs in the same task; what one handler sets, the next must not see.
    """

    __slots__ = ("_coroutine", "_variables")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], variables: contextvars.Context) -> None:
        self._coroutine = coroutine
        self._variables = variables

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, run = self._coroutine, self._variables.run
        step: Callable[[Any], Any] = coroutine.send
        argument: Any = None
        while True:
            try:
                awaited = run(step, argument)
            except StopIteration as done:
                return done.value
            except GeneratorExit as error:  # the handler's own; ours comes from the yield below
                raise RuntimeError("the handler raised GeneratorExit") from error
            try:
                argument = yield awaited
                step = coroutine.send
            except GeneratorExit:
                run(coroutine.close)
                raise
            except BaseException as error:  # noqa: BLE001 - it goes into the handler
                step, argument = coroutine.throw, error


class _Overran(Exception):
    """The run reached its timeout."""


async def _within(limit: int | None, run: Awaitable[Any]) -> Any:
    """Await a run for at most `limit` milliseconds.

    Raises:
        _Overran: it was cancelled at its limit.
    """
    if limit is None:
        return await run
    scope = asyncio.timeout(limit / 1000)
    try:
        async with scope:
            return await run
    except TimeoutError:
        if scope.expired():
            raise _Overran from None
        raise  # the handler's own


def _caught(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Call it; return what it returned or raised. Futures cannot carry every exception."""
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001 - the lane raises it again
        return None, error


async def _forgive_cancellation() -> None:
    """Clear every cancellation of this lane: it stopped a handler, or came from one."""
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)  # one that was asked for and not delivered yet comes here
    while task.cancelling():
        task.uncancel()
