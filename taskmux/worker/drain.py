"""Draining: what runs may finish, what does not in time is given back, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from taskmux.api.begin import begin
from taskmux.model.errors import StoreError
from taskmux.model.job import Ref, State
from taskmux.model.log import Log
from taskmux.worker.clock import monotonic
from taskmux.worker.duties import Crew
from taskmux.worker.held import Held, Stop
from taskmux.worker.lanes import Lanes, Phase
from taskmux.worker.options import WorkerOptions
from taskmux.worker.station import Station

__all__ = ["GRACE", "Drain"]

logger = Log("taskmux.worker")

GRACE = 5.0
"""Seconds after the drain deadline in which cancelled handlers end and the last writes are made."""

HANDLERS_SHARE = 0.6
"""How much of them handlers may take."""


class Drain:
    """The end of a worker, from its last claim to its last write.

    Args:
        lanes: what the worker holds.
        stations: its stores; filled when it begins.
        crew: its lanes' tasks.
        options: its settings.
    """

    def __init__(
        self, lanes: Lanes, stations: Sequence[Station], crew: Crew, options: WorkerOptions
    ) -> None:
        self._lanes = lanes
        self._stations = stations
        self._crew = crew
        self._options = options
        self.hurry = asyncio.Event()
        """Set by whoever does not want to wait for handlers any longer."""
        self.cut_off: tuple[Ref, ...] = ()
        """The jobs whose handlers still ran at the deadline, and did not complete then."""

    async def run(self) -> None:
        """Drain; in a hurry where this very task is cancelled, as its whole event loop may be."""
        for _ in range(2):
            try:
                return await self._drain()
            except (asyncio.CancelledError, KeyboardInterrupt):
                self.hurry.set()
        return await self._drain()

    async def _drain(self) -> None:
        self._give_back_unstarted()
        fetching = [
            task
            for station in self._stations
            for task in station.stop_fetching(self._give_back_unstarted)
        ]
        await self._until_idle(self._options.drain_ms / 1000)
        deadline = monotonic() + GRACE
        self._lanes.go_on_to(Phase.CUTTING)
        running = self._lanes.running_jobs()
        late = not self.hurry.is_set()
        if late:
            self._tell_late(running)
        for held in running:
            held.interrupt(Stop.DRAIN)
        await self._handlers_end([*self._crew.tasks, *fetching])
        if late:
            self.cut_off = tuple(held.job.ref for held in running if not _completed(held))
        for held in list(self._lanes.held):
            if held.outcome is None and held.invocation is None:
                held.station.give_back(held)
        await self._flush(deadline)

    def _tell_late(self, running: Sequence[Held]) -> None:
        for held in running:
            logger.warning(
                "job %s (%s): its handler is told to stop, for the drain deadline has passed",
                held.job.ref,
                held.job.task,
                extra={"queue": held.job.queue, "job": held.job.id, "task": held.job.task},
            )

    async def _handlers_end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=GRACE * HANDLERS_SHARE)
        if not late:
            return
        for held in self._lanes.running_jobs():
            logger.error(
                "job %s (%s): its handler ignores that it is stopped; its lease will lapse, which "
                "counts as a crash (max_crashes)",
                held.job.ref,
                held.job.task,
            )
        if not self._lanes.running_jobs():
            logger.error("the store does not answer")

    def _give_back_unstarted(self) -> None:
        for held in self._lanes.drain():
            held.station.give_back(held)

    async def _until_idle(self, limit: float) -> None:
        """Wait until no handler runs, the drain deadline passes, or somebody is in a hurry."""
        idle = begin(self._lanes.idle())
        hurry = begin(self.hurry.wait())
        try:
            await asyncio.wait([idle, hurry], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            idle.cancel()
            hurry.cancel()

    async def _flush(self, deadline: float) -> None:
        for station in self._stations:
            if not await station.settler.flush(max(0.1, deadline - monotonic())):
                logger.error("some outcomes could not be stored; their leases will lapse")
        for station in self._stations:
            try:
                async with asyncio.timeout(1):
                    await station.say_goodbye()
            except (StoreError, TimeoutError) as error:
                logger.warning("the last heartbeat failed: %s", error)


def _completed(held: Held) -> bool:
    """Say whether a handler came to its end all the same, as one in a thread may."""
    return held.outcome is not None and held.outcome.to is State.COMPLETED
