"""Strikes as a worker keeps to them: what it knows of each queue, and what was lifted."""

from __future__ import annotations

import asyncio
import math
from functools import partial

from msgspec.structs import replace

from taskmux.api.begin import begin
from taskmux.api.connection import change_settings
from taskmux.api.strikes import let_go
from taskmux.driver import Driver
from taskmux.model.errors import StoreError
from taskmux.model.log import Log
from taskmux.model.queue import QueueSettings
from taskmux.policy.strikes import Strike, forgotten, read_strikes
from taskmux.worker.clock import monotonic
from taskmux.worker.damage import DAMAGED, Damage

__all__ = ["Strikes"]

logger = Log("taskmux.worker")

FRESH = 2.0
"""Seconds that a worker goes by what it knows."""

WALKS = (0.0, 5.0, 30.0, 120.0, 600.0)
"""Seconds after a worker heard of a lifting at which it lets go what that strike set aside. Then
the strike is forgotten: by now no worker sets jobs aside for it any more."""

LOOK_EVERY = 60.0
"""Seconds after which settings are read for this alone, where no claim has them read."""


class _Walks:
    """How far the letting go is for one lifted strike."""

    __slots__ = ("done", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.done = 0

    def due(self, now: float) -> bool:
        return self.done < len(WALKS) and now >= self.since + WALKS[self.done]


class Strikes:
    """The strikes of one store's queues.

    Attributes:
        in_force: by queue, of those alone that have any.
    """

    def __init__(self, driver: Driver, queues: tuple[str, ...]) -> None:
        self.in_force: dict[str, tuple[Strike, ...]] = {}
        self._driver = driver
        self._queues = queues
        self._read_at: dict[str, float] = {}
        self._lifted: dict[str, dict[str, _Walks]] = {}
        self._damage = Damage("lifting strikes")

    # -- knowing ------------------------------------------------------------------------------

    async def before(self, queue: str) -> asyncio.Task[None] | None:
        """Before a claim: return what brings this up to date beside it; None where nothing must.

        Only the first reading is waited for here, and may raise what a claim may: before it is
        known what is struck, nothing may be begun.
        """
        read_at = self._read_at.get(queue)
        if read_at is None:
            await self._read(queue)
        elif queue not in self.in_force and monotonic() - read_at >= FRESH:
            return begin(self._read_again(queue))
        return None

    async def after(self, queue: str) -> None:
        """After a claim that gave jobs: read a struck queue again.

        So no job is set aside for a strike whose lifting has just let that job go.
        """
        if queue in self.in_force:
            await self._read_again(queue)

    async def _read_again(self, queue: str) -> None:
        try:
            await self._read(queue)
        except Exception as error:  # noqa: BLE001 - what was claimed meanwhile must be taken in
            logger.warning("the strikes of queue %s are those of a while ago: %s", queue, error)

    async def _read(self, queue: str) -> None:
        asked = monotonic()
        strikes = read_strikes((await self._driver.settings(queue)).strikes)
        self._read_at[queue] = asked
        if now := tuple(one for one in strikes if not one.lifted):
            self.in_force[queue] = now
        else:
            self.in_force.pop(queue, None)
        known = self._lifted.get(queue, {})
        self._lifted[queue] = {
            one.id: known.get(one.id) or _Walks(asked) for one in strikes if one.lifted
        }

    # -- lifting ------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Let go what lifted strikes still hold back, and forget those that were lifted long ago.

        So whoever lifts one may be killed half-way.
        """
        for queue in self._damage.usable(self._queues):
            try:
                if monotonic() - self._read_at.get(queue, -math.inf) >= LOOK_EVERY:
                    await self._read(queue)
                await self._finish(queue)
            except DAMAGED as error:
                self._damage.met(queue, error)
            except StoreError:
                self._lifted.clear()  # outcomes may wait for the store as long: begin anew
                self._read_at.clear()
                raise
            else:
                self._damage.well(queue)

    async def _finish(self, queue: str) -> None:
        lifted, now = self._lifted.get(queue, {}), monotonic()
        due = {one: walks for one, walks in lifted.items() if walks.due(now)}
        if not due:
            return
        await let_go(self._driver, queue, due)
        for walks in due.values():
            walks.done += 1
        if over := {one for one, walks in due.items() if walks.done == len(WALKS)}:
            await change_settings(self._driver, queue, partial(_without, over))
            self._lifted[queue] = {one: walks for one, walks in lifted.items() if one not in over}


def _without(ids: set[str], settings: QueueSettings) -> QueueSettings:
    return replace(settings, strikes=forgotten(settings.strikes, ids))
