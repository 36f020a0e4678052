"""Execution: one pipeline over one held job. Load, run, decide, settle: each a short step."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from taskmux.api.codec import encode_value
from taskmux.driver import Lines
from taskmux.model.backoff import DEFAULT_BACKOFF
from taskmux.model.errors import NotEncodable, PayloadError
from taskmux.model.job import JobRecord
from taskmux.model.log import Log
from taskmux.policy.expiry import expired
from taskmux.policy.lifecycle import Run, decide, last_chance
from taskmux.policy.outcome import (
    Cancelled,
    Completed,
    CutOff,
    Expired,
    Failed,
    Limited,
    Outcome,
    Released,
    Snoozed,
    Struck,
    describe,
    free,
    outcome_of,
    signal_in,
    timed_out,
)
from taskmux.policy.strikes import Strike, strike_of
from taskmux.worker import forks
from taskmux.worker.clock import monotonic, now_ms
from taskmux.worker.held import Held, Stop
from taskmux.worker.invocation import Lane, Raised
from taskmux.worker.lanes import Lanes, Phase
from taskmux.worker.load import AnyTask, Equipment, Loaded, load

if TYPE_CHECKING:
    from taskmux.worker.station import Station

__all__ = ["Runner"]

logger = Log("taskmux.worker")

PATIENCE = 5.0
"""Seconds that a job on its last chance waits to be alone."""


class Runner:
    """Runs held jobs in lanes."""

    def __init__(self, lanes: Lanes, stations: Sequence[Station], equipment: Equipment) -> None:
        self._lanes = lanes
        self._stations = stations
        self._with = equipment
        self._hooks = equipment.hooks
        self._generation = forks.count
        self._rng = random.Random()  # noqa: S311 - jitter
        self._context_vars = contextvars.copy_context()
        self._unrecorded = Run(worker=equipment.worker)  # a completed run leaves no history
        self._plain = not (self._hooks.started or self._hooks.wraps_runs)

    async def lane(self) -> None:
        """Take and run jobs until the lanes are closed.

        Raises:
            CancelledError: somebody cancelled this lane, as a handler can at any time. Another
                one is to take its place.
        """
        lane = asyncio.current_task()  # a system call where Python is older than 3.12: once
        assert isinstance(lane, Lane)
        while (held := await self._lanes.take()) is not None:
            if forks.count != self._generation:  # other code forked, and the child came here
                forks.leave(1)
            policy, strikes = held.job.policy, held.station.strikes.in_force
            plain = policy.expires_ms is None and policy.deadline is None and not strikes
            if plain or (barred := self._barred(held)) is None:
                await self._one(held, lane)
            else:
                self._settle(held, None, barred)
                self._lanes.done(held)
            held = None  # an idle lane keeps nothing alive
            if lane.cancelling():
                raise asyncio.CancelledError

    async def _one(self, held: Held, lane: Lane) -> None:
        """Bring one job from its claim to its outcome: load, run, decide, settle."""
        alone = last_chance(held.job)
        try:
            if alone:
                await self._seclude(held)
            at_once = not alone and held.station.starts_at_once(held)
            if not at_once and not await self._may_begin(held, alone=alone):
                return
            task = self._with.registry.get(held.job.task)
            loaded = load(held, task, self._with)
            if isinstance(loaded, Loaded):
                ended = await self._run(held, loaded, lane)
                if forks.count != self._generation:
                    forks.leave(ended.error if type(ended) is Raised else None)
                held.invocation, held.ended = None, monotonic()
                self._settle(held, task, self._meaning(held, loaded.task, ended))
                if type(ended) is Raised:
                    free(ended.error)
            else:
                self._settle(held, task, loaded)
            if alone:  # what comes next must not take this one's outcome with it
                await self._quiet()
        except asyncio.CancelledError:
            if held.outcome is None and not held.began:  # its handler was not called
                held.station.give_back(held)
            raise
        except Exception:
            self._lanes.forget(held)  # first, since a log may be what fails
            logger.exception("job %s: taskmux itself failed; its lease will lapse", held.job.ref)
        finally:
            lane.runs += 1
            held.invocation = None
            self._lanes.done(held)

    def _barred(self, held: Held) -> Outcome | None:
        """Return the outcome of a job that is not to be begun at all; None: it may be."""
        late = expired(held.job, held.station.store_now())
        if late is not None:
            return Expired(late)
        strikes = held.station.strikes.in_force
        return (
            self._struck(held.job, strikes[held.job.queue]) if held.job.queue in strikes else None
        )

    def _struck(self, job: JobRecord, strikes: Sequence[Strike]) -> Struck | None:
        task = self._with.registry.get(job.task)
        strike = strike_of(strikes, job, {} if task is None else task.signature.defaults)
        return None if strike is None else Struck(str(strike))

    async def _may_begin(self, held: Held, *, alone: bool) -> bool:
        """Say whether a handler may be called for which the store must be asked.

        What may not because the worker stops is given back when handlers have been stopped.
        """
        if alone and not self._lanes.serving:
            return False
        if not await held.station.may_start(held):
            self._lanes.forget(held)
            return False
        return self._lanes.phase < Phase.CUTTING

    # -- run ----------------------------------------------------------------------------------

    def _run(self, held: Held, loaded: Loaded, lane: Lane) -> Awaitable[Any]:
        """Call the handler; awaited, it gives what the handler returned, or `Raised`."""
        held.began = monotonic()
        if self._plain and loaded.task.is_async and held.job.policy.timeout_ms is None:
            held.invocation = loaded.invocation(self._context_vars.copy(), lane)
            return held.invocation
        return self._attended(held, loaded, lane)

    async def _attended(self, held: Held, loaded: Loaded, lane: Lane) -> Any:
        """Run what somebody observes, what has a timeout, and what needs a thread."""
        job, hooks = held.job, self._hooks
        if hooks.started is not None:
            hooks.started(job, self._with.worker)
        contexts = hooks.context(job)
        variables = contextvars.copy_context() if hooks.wraps_runs else self._context_vars.copy()
        held.invocation = (
            loaded.invocation(variables, lane)
            if loaded.task.is_async
            else loaded.in_thread(variables, lane, self._with.threads, self._given_up)
        )
        timer, limit = None, job.policy.timeout_ms
        if limit is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(limit / 1000, held.interrupt, Stop.TIMEOUT)
        ended = None
        try:
            ended = await held.invocation
        finally:
            if timer is not None:
                timer.cancel()
            hooks.leave(contexts, ended.error if type(ended) is Raised else None)
        return ended

    def _given_up(self) -> bool:
        return self._lanes.phase is Phase.ENDING

    # -- decide -------------------------------------------------------------------------------

    def _meaning(self, held: Held, task: AnyTask, ended: Any) -> Outcome | None:
        """Return how a run ended, or None if nobody is to be told.

        What the handler says counts, then why it was stopped, then what it raised: a client
        library may turn a cancellation into an error of its own.
        """
        if type(ended) is not Raised:
            if held.stop is None or task.is_async or held.stop is not Stop.TIMEOUT:
                return self._completed(held.job, task, ended)
            return timed_out(held.job.policy.timeout_ms or 0, cancelled=False)
        if signal_in(ended.error) is None:
            if held.stop is not None:
                return _stopped(held.job, held.stop, cancelled=task.is_async)
            if self._from_outside(ended):
                return CutOff() if self._lanes.serving else Released()
        return self._possible(outcome_of(ended.error, self._with.limits), held)

    def _from_outside(self, raised: Raised) -> bool:
        """Say whether a run ended by something that its handler did not do.

        That is a cancellation by other code, as when the event loop is cancelled as a whole; and
        while the worker stops an interrupt, which is somebody's second Ctrl-C.
        """
        kind = type(raised.error)
        if issubclass(kind, KeyboardInterrupt):
            return not self._lanes.serving
        return raised.cut_off and issubclass(kind, asyncio.CancelledError)

    def _completed(self, job: JobRecord, task: AnyTask, value: Any) -> Outcome:
        if not job.policy.keep_result or value is None:
            return Completed(None)
        what, limits = task.signature.what_returns, self._with.limits
        encode = encode_value if task.signature.result is None else task.signature.result.encode
        try:
            return Completed(encode(value, what, limits.result))
        except PayloadError as error:
            return Failed(describe(error, limits), final=True)
        except RecursionError:
            return Failed(
                describe(NotEncodable(f"{what} is nested too deeply."), limits), final=True
            )
        except BaseException as error:  # noqa: BLE001 - a user's type may raise anything
            return outcome_of(error, limits)

    def _possible(self, outcome: Outcome, held: Held) -> Outcome:
        """Return what the store can do: without lines, a job that met a limit rests alone."""
        if not isinstance(outcome, Limited) or isinstance(held.station.driver, Lines):
            return outcome
        logger.warning("job %s: this store cannot hold a queue, so the job waits", held.job.ref)
        return Snoozed(outcome.after_ms, outcome.reason)

    # -- settle -------------------------------------------------------------------------------

    def _settle(self, held: Held, task: AnyTask | None, outcome: Outcome | None) -> None:
        if outcome is None or held.stop is Stop.LOST:  # what is written now would be refused
            self._lanes.forget(held)
            return
        completed = isinstance(outcome, Completed)
        run = self._unrecorded if completed else self._circumstances(held, task)
        held.station.settler.settle(held, decide(held.job, outcome, run, self._rng))
        if isinstance(outcome, Limited):
            self._rest(held, line=outcome.line)

    def _circumstances(self, held: Held, task: AnyTask | None) -> Run:
        """Return what the history says about a run that did not complete."""
        now = now_ms()
        return Run(
            worker=self._with.worker,
            started_at=now - round((held.ended - held.began) * 1000),
            finished_at=now,
            backoff=DEFAULT_BACKOFF if task is None else task.backoff,
            history_limit=self._with.limits.history,
        )

    def _rest(self, held: Held, *, line: bool) -> None:
        """Give back what waits here of a queue, or line, that is to rest."""
        job, station = held.job, held.station
        for other in self._lanes.withdraw(
            lambda one: (
                one.station is station
                and one.job.queue == job.queue
                and (not line or one.job.group == job.group)
            )
        ):
            station.give_back(other)

    # -- alone --------------------------------------------------------------------------------

    async def _seclude(self, held: Held) -> None:
        """Leave nothing that a crash could take along: outcomes, waiting jobs, other handlers.

        Handlers that run for long are not waited for: nobody would ever be alone then.
        """
        for other in self._lanes.seclude(held):
            other.station.give_back(other)
        await self._lanes.others_finish(PATIENCE)
        await self._quiet()

    async def _quiet(self) -> None:
        for station in self._stations:
            await station.settler.quiet()


def _stopped(job: JobRecord, stop: Stop, *, cancelled: bool) -> Outcome | None:
    """Return what a run means that ended because it was stopped; None: nothing to anybody."""
    match stop:
        case Stop.TIMEOUT:
            return timed_out(job.policy.timeout_ms or 0, cancelled=cancelled)
        case Stop.CANCEL:
            return Cancelled()
        case Stop.DRAIN:
            return Released()
        case Stop.LOST:
            return None
