"""The heartbeat: tell the store that this worker lives; learn what it is asked to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from taskmux.driver import Beat, Presence
from taskmux.model.errors import ConfigError
from taskmux.model.log import Log
from taskmux.model.workers import Command, WorkerInfo
from taskmux.worker.held import Stop
from taskmux.worker.lanes import Lanes

if TYPE_CHECKING:
    from taskmux.worker.station import Station

__all__ = ["Heart"]

logger = Log("taskmux.worker")

TTL_MS = 15_000


class Heart:
    """Beats for one station. Where the store has no `Presence`, renewal sees flags too."""

    def __init__(
        self,
        store: Presence,
        station: Station,
        lanes: Lanes,
        info: WorkerInfo,
        *,
        obey: Callable[[Command], None],
    ) -> None:
        self._store = store
        self._station = station
        self._lanes = lanes
        self._info = info
        self._obey = obey

    async def beat(self) -> None:
        """Beat once; stop the handlers of jobs that are asked to cancel, and do as told."""
        running = [held for held in self._lanes.running_jobs() if held.station is self._station]
        info = replace(
            self._info,
            running=self._lanes.running,
            concurrency=self._lanes.concurrency,
            paused=self._lanes.paused,
        )
        reply = await self._store.beat(Beat(info, [held.lease for held in running], TTL_MS))
        asked = {(lease.ref, lease.fence) for lease in reply.cancel}
        for held in running:
            if (held.job.ref, held.job.fence) in asked:
                held.interrupt(Stop.CANCEL)
        for command in reply.commands:
            try:
                self._obey(command)
            except ConfigError as error:  # a wrong one must not keep the next from being heard
                logger.warning("a command was refused: %s", error)

    async def last(self) -> None:
        """Say good-bye."""
        await self._store.beat(Beat(self._info, (), TTL_MS, last=True))
