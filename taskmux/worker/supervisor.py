"""The worker: starts the duties, and stops them in an order that loses nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Self

from taskmux.api.batch import Replies
from taskmux.api.task import Registry
from taskmux.config import Limits
from taskmux.driver import Applied, ApplyStatus, Driver, LeaseStatus, Note, Op
from taskmux.model import transition
from taskmux.model.errors import ConfigError, StoreError
from taskmux.model.transition import Transition
from taskmux.model.workers import Command, WorkerInfo
from taskmux.plugins.instrument import Hooks
from taskmux.worker.beat import Heart
from taskmux.worker.declare import store_declared
from taskmux.worker.duties import repeat
from taskmux.worker.execute import Equipment, Runner
from taskmux.worker.fetch import Fetcher
from taskmux.worker.lanes import Held, Lanes, monotonic
from taskmux.worker.options import MAX_CONCURRENCY, Link, WorkerOptions, check_concurrency
from taskmux.worker.prune import Pruner
from taskmux.worker.recover import Recoverer
from taskmux.worker.renew import Renewer
from taskmux.worker.settle import Settler

__all__ = ["Worker"]

logger = logging.getLogger("taskmux.worker")

BEAT_EVERY = 1.0
PRUNE_EVERY = 60.0
GRACE = 5.0
"""Seconds that cancelled handlers and the last writes get after the drain deadline."""

MakeLifespan = Callable[[], AbstractAsyncContextManager[Any]]


class Worker:
    """Runs handlers for some queues, inside `async with worker: ...`.

    Made by `Taskmux.worker`. It can be started once.

    Args:
        registry: the tasks it knows.
        links: the stores it serves, each with its queues; the worker owns these drivers.
        options: how it works.
        hooks: observers.
        limits: sizes of what handlers may store.
        lifespan: makes a context manager around the whole work; what it yields is `ctx.state`.
    """

    def __init__(
        self,
        registry: Registry,
        links: Sequence[Link],
        options: WorkerOptions,
        *,
        hooks: Hooks,
        limits: Limits,
        lifespan: MakeLifespan | None = None,
    ) -> None:
        self._registry = registry
        self._links = links
        self.options = options
        self._hooks = hooks
        self._limits = limits
        self._lifespan = lifespan
        self._runner: Runner | None = None
        self._lanes = Lanes(options.concurrency, options.prefetch, options.unsettled)
        self._resources = AsyncExitStack()
        self._duties: list[asyncio.Task[None]] = []
        self._fetching: list[asyncio.Task[None]] = []
        self._runners: list[asyncio.Task[None]] = []
        self._fetchers: list[Fetcher] = []
        self._settlers: list[Settler] = []
        self._hearts: list[Heart] = []
        self._stopping: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._told = asyncio.Event()
        self._begun = False
        self._thread_prefix = f"taskmux-{options.name}"

    @property
    def name(self) -> str:
        """The worker's id: host, process and a random part."""
        return self.options.name

    @property
    def running(self) -> int:
        """How many handlers run now."""
        return self._lanes.running

    @property
    def left_behind(self) -> bool:
        """Whether handlers still run after the worker stopped: they ignore their cancellation."""
        lanes = any(not runner.done() for runner in self._runners)
        return lanes or any(
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
        drivers = [link.driver for link in self._links]
        for driver in drivers:
            enter.push_async_callback(driver.close)
            await driver.open()
        state = None
        if self._lifespan is not None:
            state = await enter.enter_async_context(self._lifespan())
        # a thread is made when a lane needs one, so no more than there are lanes
        threads = ThreadPoolExecutor(MAX_CONCURRENCY, self._thread_prefix)
        enter.callback(threads.shutdown, wait=False, cancel_futures=True)
        self._settlers = [Settler(driver, self._stored) for driver in drivers]
        equipment = Equipment(
            registry=self._registry,
            hooks=self._hooks,
            limits=self._limits,
            worker=self.name,
            threads=threads,
            drivers=drivers,
            settlers=self._settlers,
            notes=[_notes(driver) for driver in drivers],
            now_ms=_now_ms,
            lease_ms=self.options.lease_ms,
            state=state,
        )
        renewer = Renewer(drivers, self._lanes, self.options, self._lease_news)
        renewer.start()
        enter.push_async_callback(renewer.stop)
        await store_declared(self._registry, self._links)
        self._runner = Runner(self._lanes, equipment)
        self.resize(self.options.concurrency)
        self._start_duties(renewer)

    def resize(self, concurrency: int) -> None:
        """Run more or fewer handlers at once from now on; none that runs is stopped.

        Raises:
            DeclarationError: it is no number in range.
            ConfigError: the worker has not begun.
        """
        if self._runner is None or self._lanes.closed:
            raise ConfigError("A worker can be resized while it works: in `async with worker:`.")
        more = self._lanes.resize(check_concurrency(concurrency))
        spawn = asyncio.get_running_loop().create_task
        self._runners = [runner for runner in self._runners if not runner.done()]
        self._runners += [spawn(self._runner.lane()) for _ in range(more)]

    def pause(self) -> None:
        """Claim nothing more until `resume`; what was claimed is run."""
        self._lanes.paused = True

    def resume(self) -> None:
        """Claim again."""
        self._lanes.paused = False
        self._lanes.want.set()

    def _obey(self, command: Command) -> None:
        logger.info("told to %s %s", command.verb, command.value or "")
        match command.verb:
            case "pause":
                self.pause()
            case "resume":
                self.resume()
            case "concurrency":
                self.resize(command.value)
            case "stop":
                self._begin_to_stop()

    def _start_duties(self, renewer: Renewer) -> None:
        spawn = asyncio.get_running_loop().create_task
        sweep_every = min(max(self.options.lease_ms / 2000, 0.1), 5.0)
        for number, (driver, queues) in enumerate((one.driver, one.queues) for one in self._links):
            fetcher = Fetcher(driver, queues, number, self._lanes, self.options)
            recoverer = Recoverer(driver, queues, self.options, _now_ms)
            info = self._info(queues)
            heart = Heart(driver, number, self._lanes, info, turn=renewer.turn, obey=self._obey)
            pruner = Pruner(driver, queues)
            self._fetchers.append(fetcher)
            self._hearts.append(heart)
            self._fetching.append(spawn(fetcher.run()))
            self._duties += [
                spawn(repeat("recovery", recoverer.sweep, sweep_every)),
                spawn(repeat("the heartbeat", heart.beat, BEAT_EVERY)),
                spawn(repeat("pruning", pruner.sweep, PRUNE_EVERY)),
            ]

    def _info(self, queues: tuple[str, ...]) -> WorkerInfo:
        return WorkerInfo(
            id=self.name,
            host=platform.node()[:255] or "unknown",
            pid=os.getpid(),
            queues=queues,
            tasks=self._registry.names(),
            concurrency=self.options.concurrency,
            started_at=_now_ms(),
        )

    # -- what comes back ----------------------------------------------------------------------

    def _stored(self, held: Held, what: Transition, applied: Applied) -> None:
        self._lanes.forget(held)
        if applied.status in (ApplyStatus.STALE, ApplyStatus.GONE):
            logger.warning(
                "job %s: this run's outcome was refused, its lease had lapsed (fence %d)",
                held.job.ref,
                held.job.fence,
            )
            self._lost(held)
        elif self._hooks.settled is not None:
            self._hooks.settled(held.job, what, max(0.0, held.ended - held.began))

    def _lease_news(self, held: Held, status: LeaseStatus) -> None:
        if held.outcome is not None:  # on its way to the store, whose answer decides
            return
        if held.stop == "lost":  # told already; its handler takes its time to stop
            return
        if status is LeaseStatus.CANCEL:
            held.interrupt("cancel")
        elif held.lane is not None:
            logger.warning("job %s: its lease is lost; its handler is stopped", held.job.ref)
            held.interrupt("lost")
            self._lost(held)

    def _lost(self, held: Held) -> None:
        if self._hooks.lease_lost is not None:
            self._hooks.lease_lost(held.job, self.name)

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
        if not self._runners:  # it has not begun, so there is nothing to drain
            return
        stopping = self._begin_to_stop()
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            # The caller has no more time, but what runs must still be given back.
            self.abort()
            await asyncio.wait([stopping], timeout=2 * GRACE)
            raise

    def _begin_to_stop(self) -> asyncio.Task[None]:
        self._told.set()
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop())
        return self._stopping

    def abort(self) -> None:
        """End the drain now: running handlers are cancelled and their jobs released."""
        self._hurry.set()

    async def _stop(self) -> None:
        try:
            await self._drain()
        finally:
            self._lanes.ending = True
            await _end([*self._duties, *self._fetching, *self._runners])
            await self._resources.aclose()
            if self._hooks.worker_stopped is not None:
                self._hooks.worker_stopped(self.name)

    async def _drain(self) -> None:
        self._give_back_unstarted()
        for fetcher in self._fetchers:
            fetcher.stop()
        # A claim on the wire is let through: its jobs would be stranded otherwise.
        for fetching in self._fetching:
            fetching.add_done_callback(lambda _: self._give_back_unstarted())
        await self._until_idle(self.options.drain_ms / 1000)
        self._lanes.cut = True
        for held in self._lanes.running_jobs():
            held.interrupt("drain")
        _, late = await asyncio.wait([*self._runners, *self._fetching], timeout=GRACE)
        if late:
            logger.error("handlers ignore their cancellation, or the store does not answer")
        for held in list(self._lanes.held):
            if held.outcome is None and held.lane is None:
                self._give_back(held)
        await self._flush()

    def _give_back_unstarted(self) -> None:
        for held in self._lanes.drain():
            self._give_back(held)

    def _give_back(self, held: Held) -> None:
        self._settlers[held.link].settle(held, transition.release(held.job))

    async def _until_idle(self, limit: float) -> None:
        """Wait until no handler runs, the drain deadline passes, or somebody is in a hurry."""
        idle = asyncio.ensure_future(self._lanes.idle())
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait([idle, hurry], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        await _end([idle, hurry])

    async def _flush(self) -> None:
        deadline = monotonic() + GRACE
        for settler in self._settlers:
            if not await settler.flush(max(0.1, deadline - monotonic())):
                logger.error("some outcomes could not be stored; their leases will lapse")
        for heart in self._hearts:
            try:
                await asyncio.wait_for(heart.last(), 1)
            except (StoreError, TimeoutError) as error:
                logger.warning("the last heartbeat failed: %s", error)


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel tasks and let them go; one that ignores it is left behind after a second."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1)


def _notes(driver: Driver) -> Replies[Note, Applied]:
    async def send(_op: Op, notes: Sequence[Note]) -> Sequence[Applied]:
        return await driver.annotate(notes)

    return Replies(send)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
