"""The worker: starts what it consists of, and stops it in an order that loses nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Self

from taskmux.api.begin import begin
from taskmux.api.task import Registry
from taskmux.config import Limits
from taskmux.driver import Driver, LeaseStatus
from taskmux.model.errors import ConfigError
from taskmux.model.job import Ref
from taskmux.model.log import Log
from taskmux.model.workers import Command
from taskmux.plugins.instrument import Hooks
from taskmux.worker.clock import monotonic
from taskmux.worker.declare import store_declared
from taskmux.worker.drain import GRACE, Drain
from taskmux.worker.duties import Crew
from taskmux.worker.execute import Runner
from taskmux.worker.hang import what_hangs
from taskmux.worker.held import Held, Stop
from taskmux.worker.invocation import Lane
from taskmux.worker.lanes import Lanes, Phase
from taskmux.worker.load import Equipment
from taskmux.worker.options import MAX_CONCURRENCY, WorkerOptions, check_concurrency
from taskmux.worker.renew import Renewer
from taskmux.worker.report import Report
from taskmux.worker.station import Station
from taskmux.worker.watch import Watch

__all__ = ["Worker"]

logger = Log("taskmux.worker")

MakeLifespan = Callable[[], AbstractAsyncContextManager[Any]]


class Worker:
    """Runs handlers for some queues, inside `async with worker: ...`.

    Made by `Taskmux.worker`. It can be started once.

    Args:
        registry: the tasks it knows.
        stores: the stores it serves, each with its queues; the worker owns these drivers.
        options: how it works.
        hooks: observers.
        limits: sizes of what handlers may store.
        lifespan: makes a context manager around the whole work; what it yields is `ctx.state`.
    """

    def __init__(
        self,
        registry: Registry,
        stores: Sequence[tuple[Driver, tuple[str, ...]]],
        options: WorkerOptions,
        *,
        hooks: Hooks,
        limits: Limits,
        lifespan: MakeLifespan | None = None,
    ) -> None:
        self._registry = registry
        self._stores = stores
        self.options = options
        self._hooks = hooks
        self._limits = limits
        self._lifespan = lifespan
        self._runner: Runner | None = None
        self._lanes = Lanes(options.concurrency, options.prefetch, options.unsettled)
        self._resources = AsyncExitStack()
        self._report = Report(hooks, options.name, options.lease_ms)
        self._stations: list[Station] = []
        self._crew = Crew(Lane.begin)
        self._duties = Crew()
        self._stopping: asyncio.Task[None] | None = None
        self._told = asyncio.Event()
        self._begun = False
        self._watch: Watch | None = None
        self.in_lifespan: str | None = None
        """What the app's lifespan does just now, as the end of a sentence; None: nothing."""
        self.lifespan_error: BaseException | None = None
        """What it raised at its end; `stop` raises it again when all has stopped."""
        self._thread_prefix = f"taskmux-{options.name}"
        self._drain = Drain(self._lanes, self._stations, self._crew, options)

    @property
    def name(self) -> str:
        """The worker's id: host, process and a random part."""
        return self.options.name

    @property
    def places(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The stores that it serves, by their URLs without credentials, and its queues there."""
        return tuple((driver.url, queues) for driver, queues in self._stores)

    @property
    def running(self) -> int:
        """How many handlers run now."""
        return self._lanes.running

    @property
    def cut_off(self) -> tuple[Ref, ...]:
        """The jobs whose handlers were stopped at the drain deadline, and did not complete."""
        return self._drain.cut_off

    @property
    def left_behind(self) -> bool:
        """Whether handlers still run after the worker stopped: they ignore their cancellation."""
        return bool(self._crew.tasks) or any(
            thread.name.startswith(self._thread_prefix) for thread in threading.enumerate()
        )

    # -- starting -----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the stores and begin to work.

        Raises:
            ConfigError: it was started before.
            StoreError: a store cannot be reached or does not fit.
        """
        if self._begun:
            raise ConfigError("A worker can be started once. Ask mux.worker(...) for another.")
        self._begun = True
        try:
            await self._start()
        except BaseException:
            await self._resources.aclose()
            raise
        if self._hooks.worker_started is not None:
            self._hooks.worker_started(self.name, self.options.queues)
        return self

    async def _start(self) -> None:
        enter = self._resources
        self._stations += [
            Station(driver, queues, self._lanes, self.options, self._report, limits=self._limits)
            for driver, queues in self._stores
        ]
        for station in self._stations:
            enter.push_async_callback(station.driver.close)
            await station.driver.open()
        state = None
        if self._lifespan is not None:
            state = await self._enter(self._lifespan())
        self._runner = Runner(self._lanes, self._stations, self._equipment(state))
        watch = self._watch = Watch(self._lanes.running_jobs)
        self._duties.keep(watch.turn)
        self._duties.keep(self._report.listen)
        renewer = Renewer(self._stations, self._lanes, self.options, watch, self._lease_news)
        renewer.start()
        enter.push_async_callback(renewer.stop)
        await store_declared(self._registry, self._stations)
        self.resize(self.options.concurrency)
        for station in self._stations:
            station.begin(self._duties, self._registry.names(), self._obey)

    async def _enter(self, lifespan: AbstractAsyncContextManager[Any]) -> Any:
        """Begin the app's lifespan, and have it ended with all else."""
        self.in_lifespan = "the lifespan does not come to its yield"
        try:
            state = await lifespan.__aenter__()
        finally:
            self.in_lifespan = None
        self._resources.push_async_callback(self._leave, lifespan)
        return state

    async def _leave(self, lifespan: AbstractAsyncContextManager[Any]) -> None:
        """End the lifespan. What it raises is its own: the rest is stopped all the same."""
        self.in_lifespan = "the lifespan does not end after its yield"
        here = asyncio.current_task()
        asked = here.cancelling() if here else 0
        try:
            await lifespan.__aexit__(None, None, None)
        except BaseException as error:
            if here is not None and here.cancelling() > asked:  # the one who stops us did that
                raise
            self.lifespan_error = error
            logger.exception("the lifespan failed at its end")
        finally:
            self.in_lifespan = None

    def _equipment(self, state: Any) -> Equipment:
        # a thread is made when a lane needs one, so no more than there are lanes
        threads = ThreadPoolExecutor(MAX_CONCURRENCY, self._thread_prefix)
        self._resources.callback(threads.shutdown, wait=False, cancel_futures=True)
        return Equipment(
            registry=self._registry,
            hooks=self._hooks,
            limits=self._limits,
            worker=self.name,
            threads=threads,
            report=self._report,
            state=state,
        )

    def resize(self, concurrency: int) -> None:
        """Run more or fewer handlers at once from now on; none that runs is stopped.

        Raises:
            DeclarationError: it is no number in range.
            ConfigError: the worker has not begun.
        """
        if self._runner is None or not self._lanes.serving:
            raise ConfigError("A worker can be resized while it works: in `async with worker:`.")
        more = self._lanes.resize(check_concurrency(concurrency))
        for _ in range(more):
            self._crew.keep(self._runner.lane)

    def pause(self) -> None:
        """Claim nothing more until `resume`; what was claimed is run."""
        self._lanes.paused = True

    def resume(self) -> None:
        """Claim again."""
        self._lanes.paused = False
        self._lanes.want.set()

    def _obey(self, command: Command) -> None:
        logger.info("told to %s", command)
        match command.verb:
            case "pause":
                self.pause()
            case "resume":
                self.resume()
            case "concurrency":
                self.resize(command.value)
            case "stop":
                self._begin_to_stop()

    def _lease_news(self, held: Held, status: LeaseStatus) -> None:
        if held.outcome is not None:  # on its way to the store, whose answer decides
            return
        if held.stop is Stop.LOST:  # told already; its handler takes its time to stop
            return
        if status is LeaseStatus.CANCEL:
            held.interrupt(Stop.CANCEL)
        elif held.invocation is not None:
            logger.warning("job %s: its lease is lost; its handler is stopped", held.job.ref)
            held.interrupt(Stop.LOST)
            self._report.lost(held.job)

    # -- stopping -----------------------------------------------------------------------------

    async def __aexit__(self, *_: object) -> None:
        """Drain and stop."""
        await self.stop()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._told.is_set()

    async def stopping_began(self) -> None:
        """Wait until it is told to stop: the body of `async with worker` in a worker process."""
        await self._told.wait()

    def stop_soon(self) -> None:
        """Begin to drain, without waiting: for signal handlers."""
        self._told.set()

    async def stop(self) -> None:
        """Drain: fetch no more, give unstarted jobs back, let handlers finish until the deadline.

        What still runs then is cancelled and released; nothing of this spends an attempt.
        """
        self._told.set()
        if self._runner is None:  # it has not begun, so there is nothing to drain
            return
        caller = asyncio.current_task()
        asked = caller.cancelling() if caller else 0
        while True:
            try:
                await asyncio.shield(self._begin_to_stop())
                break  # outside of this try, for the lifespan may have raised CancelledError
            except asyncio.CancelledError:
                if caller is None or caller.cancelling() > asked:
                    # The caller has no more time, but what runs must still be given back.
                    self.abort()
                    await self._stopped_within(2 * GRACE)
                    raise
                # else somebody cancelled the task that stops it: another one goes on
        if self.lifespan_error is not None:
            raise self.lifespan_error

    async def _stopped_within(self, limit: float) -> None:
        deadline = monotonic() + limit
        while (left := deadline - monotonic()) > 0:
            stopping = self._begin_to_stop()
            await asyncio.wait([stopping], timeout=left)
            if stopping.done() and not stopping.cancelled():
                return

    def _begin_to_stop(self) -> asyncio.Task[None]:
        """Return the task that stops it; one that was cancelled before it began is none."""
        self._told.set()
        if self._stopping is None or self._stopping.cancelled():
            self._stopping = begin(self._stop())
        return self._stopping

    def abort(self) -> None:
        """End the drain now: running handlers are cancelled and their jobs released."""
        self._drain.hurry.set()

    def what_hangs(self, *, blocked: bool) -> str:
        """Return what keeps it from stopping, as a clause. May be called in another thread.

        Args:
            blocked: the event loop does not turn.
        """
        return what_hangs(self.in_lifespan, self._lanes, self._watch, blocked=blocked)

    async def _stop(self) -> None:
        try:
            await self._drain.run()
        finally:
            self._lanes.go_on_to(Phase.ENDING)
            ends = [self._duties.end(), self._crew.end()]
            ends += [station.end() for station in self._stations]
            await asyncio.gather(*map(begin, ends))
            await self._resources.aclose()
            if self._hooks.worker_stopped is not None:
                self._hooks.worker_stopped(self.name)
