"""Recovery: jobs whose lease lapsed are leased anew and decided about like any failure."""

from __future__ import annotations

import logging
import random

from msgspec import UNSET

from taskmux.api.batch import Ops, resend
from taskmux.driver import ApplyStatus, Driver, ReclaimAsk
from taskmux.model.job import JobRecord
from taskmux.policy.lifecycle import Run, decide
from taskmux.policy.outcome import Crashed
from taskmux.worker.clock import now_ms
from taskmux.worker.options import WorkerOptions
from taskmux.worker.report import Report

__all__ = ["Recoverer"]

logger = logging.getLogger("taskmux.worker")

BATCH = 100
TRIES = 3


class Recoverer:
    """Sweeps one store's queues for lapsed leases. Any worker does; each job goes to one."""

    def __init__(
        self,
        driver: Driver,
        queues: tuple[str, ...],
        options: WorkerOptions,
        report: Report,
    ) -> None:
        self._driver = driver
        self._queues = queues
        self._options = options
        self._report = report
        self._ops = {queue: Ops() for queue in queues}
        self._settle_ops = Ops()
        self._rng = random.Random()  # noqa: S311 - jitter

    async def sweep(self) -> None:
        """Recover everything that has lapsed by now, a bounded batch at a time."""
        for queue in self._queues:
            while len(await self._recover(queue)) == BATCH:
                pass

    async def _recover(self, queue: str) -> list[JobRecord]:
        op = self._ops[queue].next()
        ask = ReclaimAsk(queue, self._options.name, BATCH, self._options.lease_ms)
        jobs = list(await resend(lambda: self._driver.reclaim(op, ask), TRIES))
        if not jobs:
            return jobs
        now = now_ms()
        outcomes = [
            decide(job, Crashed(), Run(worker=job.worker or "unknown", finished_at=now), self._rng)
            for job in jobs
        ]
        settle = self._settle_ops.next()
        replies = await resend(lambda: self._driver.apply(settle, outcomes), TRIES)
        for job, outcome, reply in zip(jobs, outcomes, replies, strict=True):
            if reply.status not in (ApplyStatus.APPLIED, ApplyStatus.REPEATED):
                continue
            if outcome.changes.crashes is UNSET:
                logger.warning("job %s: the lease of %s lapsed; it goes on", job.ref, job.worker)
            self._report.settled(job, outcome, reply, 0.0)
        return jobs
