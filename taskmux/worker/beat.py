"""The heartbeat: tell the store that this worker lives; learn what it is asked to do."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec.structs import replace

from taskmux.driver import Beat, Presence
from taskmux.model.errors import ConfigError
from taskmux.model.workers import Command, WorkerInfo
from taskmux.worker.lanes import Lanes

__all__ = ["Heart"]

logger = logging.getLogger("taskmux.worker")

TTL_MS = 15_000


class Heart:
    """Beats for one store. Does nothing in a store without `Presence`: renewal sees flags too."""

    def __init__(
        self,
        driver: object,
        link: int,
        lanes: Lanes,
        info: WorkerInfo,
        *,
        turn: Callable[[], None],
        obey: Callable[[Command], None],
    ) -> None:
        self._driver = driver
        self._link = link
        self._lanes = lanes
        self._info = info
        self._turn = turn
        self._obey = obey

    async def beat(self) -> None:
        """Beat once; stop the handlers of jobs that are asked to cancel, and do as told."""
        self._turn()
        if not isinstance(self._driver, Presence):
            return
        running = [held for held in self._lanes.running_jobs() if held.link == self._link]
        info = replace(
            self._info,
            running=self._lanes.running,
            concurrency=self._lanes.concurrency,
            paused=self._lanes.paused,
        )
        reply = await self._driver.beat(Beat(info, [held.lease for held in running], TTL_MS))
        asked = {(lease.ref, lease.fence) for lease in reply.cancel}
        for held in running:
            if (held.job.ref, held.job.fence) in asked:
                held.interrupt("cancel")
        for command in reply.commands:
            try:
                self._obey(command)
            except ConfigError as error:  # a wrong one must not keep the next from being heard
                logger.warning("a command was refused: %s", error)

    async def last(self) -> None:
        """Say good-bye."""
        if isinstance(self._driver, Presence):
            await self._driver.beat(Beat(self._info, (), TTL_MS, last=True))
