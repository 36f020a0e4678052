"""Renewal: a thread of its own keeps the leases, so that a blocked event loop does not lose them.

The thread has an event loop and a fork of each driver. It stops renewing when the worker's loop
has not turned for `max_block_ms`: a handler that hangs for good must give its jobs up.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from taskmux.api.begin import begin
from taskmux.driver import Driver, LeaseStatus
from taskmux.model.errors import StoreError
from taskmux.model.log import Log
from taskmux.worker.clock import monotonic
from taskmux.worker.damage import DAMAGED, Damage
from taskmux.worker.held import Held
from taskmux.worker.lanes import Lanes
from taskmux.worker.options import WorkerOptions
from taskmux.worker.outage import WAITED_OUT
from taskmux.worker.watch import Watch

if TYPE_CHECKING:
    from taskmux.worker.station import Station

__all__ = ["Renewer", "extend", "extend_sound"]

logger = Log("taskmux.worker")

MAX_EXTEND = 1000
LOOK_EVERY = 0.5
LAST_WAIT = 1.0
LONGEST_PAUSE = 0.5
"""Seconds between two tries while a store is away, at most."""
DUTY = "renewing leases"

Notify = Callable[[Held, LeaseStatus], None]


class Renewer:
    """Renews the leases of everything the lanes hold.

    Args:
        stations: the stores; the thread uses forks of their drivers.
        lanes: what is held. Only read here; the thread takes snapshots.
        options: the worker's settings.
        watch: knows whether the worker's loop turns.
        notify: called in the worker's loop for leases that are lost or asked to cancel.
    """

    def __init__(
        self,
        stations: Sequence[Station],
        lanes: Lanes,
        options: WorkerOptions,
        watch: Watch,
        notify: Notify,
    ) -> None:
        self._drivers = {station: station.driver.fork() for station in stations}
        self._lanes = lanes
        self._options = options
        self._watch = watch
        self._notify = notify
        self._damage = Damage(DUTY)
        self._home = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._wake: Callable[[], None] = self._stop.set
        self._thread = threading.Thread(target=self._main, name="taskmux-renew", daemon=True)
        self._here: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Start the thread; or a task here, where a driver is bound to this event loop."""
        if any(driver.bound for driver in self._drivers.values()):
            self._here = begin(self._run())
        else:
            self._thread.start()

    async def stop(self) -> None:
        """Stop the thread and wait for it, but not long: it may wait for a store that is away."""
        self._stop.set()
        self._wake()
        if self._here is not None:
            await asyncio.wait([self._here], timeout=LAST_WAIT)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WAIT):
                    await self._ended.wait()

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        finally:
            _call_soon(self._home, self._ended.set)

    async def _run(self) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: _call_soon(loop, stopped.set)
        watching = begin(self._look()) if loop is not self._home else None
        try:
            while not self._stop.is_set():
                pause = self._options.lease_ms / 4000
                try:
                    if not await self._renew():  # the leases may lapse meanwhile: soon again
                        pause = min(pause / 4, LONGEST_PAUSE)
                except Exception:  # the leases depend on this thread
                    logger.exception("renewing leases failed, trying again")
                try:
                    async with asyncio.timeout(pause):
                        await stopped.wait()
                except TimeoutError:
                    continue
        finally:
            if watching is not None:
                watching.cancel()
            for driver in self._drivers.values():
                await driver.close()

    async def _look(self) -> None:
        while True:
            self._watch.look()
            await asyncio.sleep(LOOK_EVERY)

    async def _renew(self) -> bool:
        """Renew what is due; say whether every store answered."""
        now, blocked = monotonic(), self._watch.blocked
        if blocked > self._options.max_block_ms / 1000:
            logger.error(
                "the event loop has been blocked for %.0f s: its leases are given up", blocked
            )
            return True
        lease = self._options.lease_ms / 1000
        due = [held for held in tuple(self._lanes.held) if held.until - now < lease * 0.7]
        well = True
        for station, driver in self._drivers.items():
            mine = [held for held in due if held.station is station]
            parts = [mine[at : at + MAX_EXTEND] for at in range(0, len(mine), MAX_EXTEND)]
            renewed = [await self._extend(station, driver, part) for part in parts]
            if all(renewed):
                _call_soon(self._home, station.outage.over, DUTY)
            else:
                well = False
        return well

    async def _extend(self, station: Station, driver: Driver, batch: Sequence[Held]) -> bool:
        try:
            await driver.open()
            answers = await extend_sound(driver, batch, self._options.lease_ms, self._damage)
        except WAITED_OUT as error:
            _call_soon(self._home, station.outage.met, error, DUTY)
            return False
        except StoreError as error:
            logger.warning("renewing %d leases failed, trying again: %s", len(batch), error)
            return False
        except Exception:
            logger.exception("renewing %d leases failed, trying again", len(batch))
            return False
        for held, status in answers:
            if status is not LeaseStatus.HELD:
                _call_soon(self._home, self._notify, held, status)
        return True


async def extend(driver: Driver, batch: Sequence[Held], lease_ms: int) -> list[LeaseStatus]:
    """Renew leases and note until when they hold; a lost one holds no more."""
    began = monotonic()
    answers = await driver.extend([held.lease for held in batch], lease_ms)
    for held, answer in zip(batch, answers, strict=True):
        lost = answer.status is LeaseStatus.LOST
        held.until = -math.inf if lost else began + lease_ms / 1000
    return [answer.status for answer in answers]


async def extend_sound(
    driver: Driver, batch: Sequence[Held], lease_ms: int, damage: Damage
) -> list[tuple[Held, LeaseStatus]]:
    """Renew leases of any queues, and return what became of them; of a damaged queue, nothing.

    Its leases are not lost: they can be renewed when it is mended, lapsed or not.
    """
    if not damage.queues:
        with suppress(*DAMAGED):
            return list(zip(batch, await extend(driver, batch, lease_ms), strict=True))
    queues: dict[str, list[Held]] = {}
    for held in batch:
        queues.setdefault(held.job.queue, []).append(held)
    told: list[tuple[Held, LeaseStatus]] = []
    for queue, mine in queues.items():
        try:
            told += zip(mine, await extend(driver, mine, lease_ms), strict=True)
        except DAMAGED as error:
            damage.met(queue, error)
        else:
            damage.well(queue)
    return told


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> None:
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:  # that loop is closed; nobody is left to tell
        return
