"""Fetching: claim as many jobs as the lanes want, and sleep when there are none."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taskmux.api.batch import Ops, resend
from taskmux.api.begin import begin
from taskmux.driver import ClaimAsk, Claimed
from taskmux.model.errors import StoreError
from taskmux.model.job import JobRecord, Ref
from taskmux.model.log import Log
from taskmux.worker.clock import monotonic
from taskmux.worker.damage import DAMAGED, Damage
from taskmux.worker.held import Held
from taskmux.worker.lanes import NONE, Lanes
from taskmux.worker.options import WorkerOptions
from taskmux.worker.outage import WAITED_OUT

if TYPE_CHECKING:
    from taskmux.worker.station import Station

__all__ = ["Fetcher"]

logger = Log("taskmux.worker")

DUTY = "fetching"
MAX_CLAIM = 250
MAX_BYTES = 8_388_608
LAST_TRIES = 8
LONGEST_PAUSE = 10.0
MOST_DOUBLINGS = 10

_WOKEN = frozenset({"paused", "concurrency"})
"""What keeps jobs back until somebody does something, which ends the wait."""


class Fetcher:
    """Fetches from one store for its queues, in their order of preference or by their weights.

    Args:
        station: the store, open.
        lanes: where the jobs go.
        options: the worker's settings.
    """

    def __init__(self, station: Station, lanes: Lanes, options: WorkerOptions) -> None:
        self._station = station
        self._driver = station.driver
        self._queues = station.queues
        self._lanes = lanes
        self._options = options
        self._ops = {queue: Ops() for queue in station.queues}
        self._limited: set[str] = set()
        """Queues that give nothing to prefetch, as far as their last claims said."""
        self._damage = Damage("fetching")
        self._sleep: asyncio.Task[bool] | None = None
        self._failures = 0
        self._mean_bytes = 1.0

    async def run(self) -> None:
        """Fetch until the lanes are closed."""
        while self._lanes.serving:
            if self._room <= 0:
                self._lanes.want.clear()
                await self._lanes.want.wait()
                continue
            try:
                found, next_in = await self._round()
                if not found:
                    await self._wait(next_in)
                self._failures = 0
                self._station.outage.over(DUTY)
            except Exception as error:  # noqa: BLE001 - a worker must not go deaf
                await self._pause(error)

    def stop(self) -> None:
        """End a sleep; a claim on the wire is let through, since its jobs would be stranded."""
        if self._sleep is not None:
            self._sleep.cancel()

    async def _round(self) -> tuple[bool, int | None]:
        """Claim from each queue while there is room; say if jobs came, or when more may come."""
        found, soonest = False, None
        for queue in self._turns():
            room = self._room
            if room <= 0:
                return True, None
            began, limit = monotonic(), self._bounded(room)
            try:
                claimed = await self._claim(queue, limit)
            except DAMAGED as error:
                self._damage.met(queue, error)
                self._limited.discard(queue)
                continue
            self._damage.well(queue)
            self._station.read_clock(claimed.now)
            until = began + self._options.lease_ms / 1000
            self._lanes.add(claimed.jobs, self._station, until, self._still_run(claimed.jobs))
            self._weigh(claimed.jobs)
            (self._limited.add if claimed.limited else self._limited.discard)(queue)
            found = found or bool(claimed.jobs)
            if len(claimed.jobs) == limit:  # it may have more, and lanes may be free by now
                return True, None
            if claimed.next_in is not None and claimed.blocked_by not in _WOKEN:
                soonest = claimed.next_in if soonest is None else min(soonest, claimed.next_in)
        if found:  # all there was: it begins before more is asked for
            await asyncio.sleep(0)
        return found, soonest

    @property
    def _room(self) -> int:
        """How many jobs to ask for: none to prefetch while one of the queues gives none to that.

        Prefetched jobs of another queue would keep every lane taken, and the limited one waiting.
        """
        room = self._lanes.room
        return min(room, self._lanes.free) if self._limited else room

    def _turns(self) -> Sequence[str]:
        """Return the queues in the order of this round: drawn by weight, if they have weights."""
        weights, queues = self._options.weights, self._damage.usable(self._queues)
        if not weights:
            return queues
        # the largest of u^(1/w) comes first with a chance in proportion to w (Efraimidis, Spirakis)
        drawn = {queue: random.random() ** (1 / weights[queue]) for queue in queues}  # noqa: S311
        return sorted(queues, key=drawn.__getitem__, reverse=True)

    def _bounded(self, room: int) -> int:
        """Return how many to ask for: not more bytes than one worker should hoard."""
        return max(1, min(room, MAX_CLAIM, int(MAX_BYTES / self._mean_bytes)))

    def _weigh(self, jobs: Sequence[JobRecord]) -> None:
        for job in jobs:
            self._mean_bytes += (len(job.payload) - self._mean_bytes) / 16
        self._mean_bytes = max(1.0, self._mean_bytes)

    def _still_run(self, jobs: Sequence[JobRecord]) -> Mapping[Ref, Held]:
        """Return what runs here, by job, if some of these jobs may do so under an earlier claim.

        A handler that cannot be stopped runs on when its lease is lost, and somebody else may give
        its job back; and a store that lost its last writes gives jobs out that it gave before.
        """
        is_calm = not self._station.outage.lately(self._options.lease_ms / 1000)
        if is_calm and all(job.fence == job.created_at + 1 for job in jobs):
            return NONE
        running = self._lanes.running_jobs()
        return {held.job.ref: held for held in running if held.station is self._station}

    async def _claim(self, queue: str, limit: int) -> Claimed:
        """Claim once; a claim whose reply was lost is sent again under its op, never anew.

        No job is marked as started: the lanes do that, when it is true.
        """
        strikes = self._station.strikes
        news = await strikes.before(queue)
        claimed = await self._claim_jobs(queue, limit)
        if news is not None:
            await asyncio.wait([news])  # somebody may have cancelled it
        if claimed.jobs:
            await strikes.after(queue)
        return claimed

    async def _claim_jobs(self, queue: str, limit: int) -> Claimed:
        op = self._ops[queue].next()
        prefetch = max(0, limit - self._lanes.free)
        ask = ClaimAsk(queue, self._options.name, limit, self._options.lease_ms, prefetch=prefetch)
        while True:
            try:
                return await self._driver.claim(op, ask)
            except WAITED_OUT as error:
                if not self._lanes.serving:  # its jobs must be given back if it came through
                    return await resend(lambda: self._driver.claim(op, ask), LAST_TRIES)
                await self._pause(error)

    async def _pause(self, error: Exception) -> None:
        self._failures = min(self._failures + 1, MOST_DOUBLINGS)
        pause = random.uniform(0, min(LONGEST_PAUSE, 0.1 * 2**self._failures))  # noqa: S311 - jitter
        if isinstance(error, WAITED_OUT):
            self._station.outage.met(error, DUTY)
        else:
            unexpected = None if isinstance(error, StoreError) else error
            logger.warning(
                "fetching failed, next try in %.1f s: %s", pause, error, exc_info=unexpected
            )
        await self._asleep(asyncio.sleep(pause, result=False))

    async def _wait(self, next_in: int | None) -> None:
        longest = self._options.idle_ms / 1000
        timeout = longest if next_in is None else min(longest, next_in / 1000)
        look = self._damage.next_in()
        if look is None:
            await self._asleep(self._driver.wait(self._queues, timeout))
            return
        timeout, queues = min(timeout, look), self._damage.usable(self._queues)
        if queues:
            await self._asleep(self._driver.wait(queues, timeout))
        else:
            await self._asleep(asyncio.sleep(timeout, result=False))

    async def _asleep(self, sleep: Coroutine[Any, Any, bool]) -> None:
        if not self._lanes.serving:
            sleep.close()
            return
        self._sleep = begin(sleep)
        try:
            await asyncio.wait([self._sleep])
            if not self._sleep.cancelled():
                self._sleep.result()
        finally:
            self._sleep.cancel()
            self._sleep = None
