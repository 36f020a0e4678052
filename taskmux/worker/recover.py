"""Recovery: jobs whose lease lapsed are leased anew and decided about like any failure."""

from __future__ import annotations

import math
import random
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import UNSET
from msgspec.structs import replace

from taskmux.api.batch import Ops, resend
from taskmux.driver import ApplyStatus, Guard, Op, ReclaimAsk, Transition
from taskmux.model.errors import StoreUnavailable
from taskmux.model.job import TERMINAL, JobRecord, Ref
from taskmux.model.log import Log
from taskmux.policy.expiry import expired
from taskmux.policy.lifecycle import Run, decide
from taskmux.policy.outcome import Crashed
from taskmux.worker.clock import monotonic, now_ms
from taskmux.worker.damage import DAMAGED, Damage
from taskmux.worker.held import Held, Stop
from taskmux.worker.lanes import Lanes
from taskmux.worker.options import WorkerOptions
from taskmux.worker.outage import WAITED_OUT
from taskmux.worker.renew import MAX_EXTEND, extend_sound
from taskmux.worker.report import Report

if TYPE_CHECKING:
    from taskmux.worker.station import Station

__all__ = ["Recoverer"]

logger = Log("taskmux.worker")

BATCH = 100
TRIES = 3


class Recoverer:
    """Sweeps one store's queues for lapsed leases. Any worker does; each job goes to one.

    A store that was away, or froze, lets leases lapse that their holders would have renewed. So
    each sweep first renews what this worker holds; and if that took long, or the store was away,
    nothing is reclaimed for the time of a lease, in which the other holders come back. So too when
    this machine's clock jumped: it may be the store's, and the whole machine may have slept.
    """

    def __init__(
        self, station: Station, lanes: Lanes, options: WorkerOptions, report: Report
    ) -> None:
        self._station = station
        self._driver = station.driver
        self._queues = station.queues
        self._lanes = lanes
        self._options = options
        self._report = report
        self._damage, self._renewal = Damage("recovery"), Damage("renewing leases")
        self._grace_until = -math.inf
        self._offset = now_ms() / 1000 - monotonic()
        self._ops = {queue: Ops() for queue in station.queues}
        self._settle_ops = Ops()
        self._unanswered: tuple[Op, list[tuple[JobRecord, Transition]]] | None = None
        self._rng = random.Random()  # noqa: S311 - jitter

    async def sweep(self) -> None:
        """Recover everything that has lapsed by now, a bounded batch at a time."""
        if not await self._holders_had_time():
            return
        await self._settle()
        for queue in self._damage.usable(self._queues):
            try:
                while await self._recover(queue) == BATCH:
                    pass
            except DAMAGED as error:
                self._damage.met(queue, error)
            else:
                self._damage.well(queue)

    async def _holders_had_time(self) -> bool:
        """Renew what this worker holds; say whether the other holders could do that, too."""
        lease = self._options.lease_ms / 1000
        began = monotonic()
        try:
            await self._renew()
        except WAITED_OUT:
            self._grace_until = monotonic() + lease
            raise
        now = monotonic()
        offset = now_ms() / 1000 - now
        if max(now - began, abs(offset - self._offset)) > lease / 4:
            self._grace_until = now + lease
        self._offset = offset
        return now >= max(self._grace_until, self._station.outage.back_at + lease)

    async def _renew(self) -> None:
        """Renew every lease that this worker has in the store, or ask for something small."""
        mine = [held for held in tuple(self._lanes.held) if held.station is self._station]
        for start in range(0, len(mine), MAX_EXTEND):
            some = mine[start : start + MAX_EXTEND]
            await extend_sound(self._driver, some, self._options.lease_ms, self._renewal)
        if not mine:
            with suppress(*DAMAGED):  # it answered
                await self._driver.get([Ref(self._queues[0], "-")])

    async def _recover(self, queue: str) -> int:
        """Reclaim once, decide about each job, and return how many there were."""
        op = self._ops[queue].next()
        ask = ReclaimAsk(queue, self._options.name, BATCH, self._options.lease_ms)
        jobs = list(await resend(lambda: self._driver.reclaim(op, ask), TRIES))
        if not jobs:
            return 0
        held = {one.job.ref: one for one in self._lanes.held if one.station is self._station}
        pairs = [(job, self._outcome(job, held.get(job.ref))) for job in jobs]
        decided = [(job, outcome) for job, outcome in pairs if outcome is not None]
        self._unanswered = self._settle_ops.next(), decided
        await self._settle()
        return len(jobs)

    async def _settle(self) -> None:
        """Store what was decided and tell of it, also where a sweep before heard no answer.

        So a job that was buried then is told of all the same: it will not be reclaimed again.
        """
        if self._unanswered is None:
            return
        op, decided = self._unanswered
        outcomes = [outcome for _, outcome in decided]
        try:
            replies = await resend(lambda: self._driver.apply(op, outcomes), TRIES)
        except StoreUnavailable:
            raise
        except BaseException:
            self._unanswered = None  # it was refused: these jobs will lapse again
            raise
        self._unanswered = None
        for (job, outcome), reply in zip(decided, replies, strict=True):
            if reply.status not in (ApplyStatus.APPLIED, ApplyStatus.REPEATED):
                continue
            if outcome.changes.crashes is UNSET and outcome.to not in TERMINAL:
                logger.warning("job %s: the lease of %s lapsed; it goes on", job.ref, job.worker)
            self._report.settled(job, outcome, reply, 0.0)

    def _outcome(self, job: JobRecord, held: Held | None) -> Transition | None:
        """Return what becomes of a lapsed job; None: nothing yet.

        One that still runs in this process is not started beside itself: its handler is stopped,
        and what follows is decided when the new lease has lapsed. One whose outcome is known ends
        with that: this worker holds it again, under the fence of now.
        """
        if held is not None and held.outcome is not None:
            return replace(held.outcome, guard=Guard(fence=job.fence))
        if held is not None and held.invocation is not None:
            held.interrupt(Stop.LOST)
            return None
        run = Run(worker=job.worker or "unknown", finished_at=now_ms())
        reclaimed_at = (job.lease_until or 0) - self._options.lease_ms  # by the store's clock
        return decide(job, Crashed(expired(job, reclaimed_at)), run, self._rng)
