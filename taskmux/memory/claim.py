"""Claim: which jobs a worker gets, after pauses, limits and the turns of lines."""

from __future__ import annotations

import math

from msgspec.structs import replace

from taskmux.driver import PROMOTE_LIMIT, ClaimAsk, Claimed, JobRecord, Place, State, What
from taskmux.memory.store import MemoryStore, QueueStore

__all__ = ["Claims"]


class Claims:
    """How a claim goes. The driver holds the lock."""

    store: MemoryStore

    def _claim(self, ask: ClaimAsk) -> Claimed:
        now = self.store.clock()
        queue = self.store.queues.get(ask.queue)
        if queue is None:
            return Claimed([], now)
        settings, lines = queue.settings, queue.lines
        limited = settings.limited
        if settings.paused:
            return Claimed([], now, self._next_in(queue, now), "paused", limited)
        self._promote(queue, now)
        free = math.inf
        if settings.concurrency is not None:
            free = settings.concurrency - len(queue.leases)
        if free <= 0:
            lines.is_full = True
            return Claimed([], now, self._next_in(queue, now), "concurrency", limited)
        room = lines.queue.room(settings.rate, now)
        if room <= 0:
            next_in = _sooner(self._next_in(queue, now), lines.queue.opens_in(settings.rate, now))
            return Claimed([], now, next_in, "rate", limited)
        most = min(ask.limit - (ask.prefetch if limited else 0), free, room)
        jobs = self._take(queue, ask, now, most)
        if settings.rate is not None and jobs:
            lines.queue = lines.queue.spent(settings.rate, now, len(jobs))
        next_in = self._next_in(queue, now)
        kept, opens_in = (False, None) if jobs or most <= 0 else lines.kept(now)
        return Claimed(jobs, now, _sooner(next_in, opens_in), "lines" if kept else None, limited)

    def _take(self, queue: QueueStore, ask: ClaimAsk, now: int, most: float) -> list[JobRecord]:
        queue.lines.begin(now)
        jobs: list[JobRecord] = []
        while len(jobs) < most:
            job_id = queue.lines.next(queue.settings, now)
            if job_id is None:
                break
            stored = queue.jobs[job_id]
            job = replace(
                stored.job,
                state=State.ACTIVE,
                fence=stored.job.fence + 1,
                worker=ask.worker,
                lease_until=now + ask.lease,
                started=False,
            )
            queue.write(stored, job)
            self.store.tell(queue, What.STATE, job)
            jobs.append(job)
        return jobs

    def _promote(self, queue: QueueStore, now: int) -> None:
        for _ in range(PROMOTE_LIMIT):
            stored = queue.first_delayed()
            if stored is None or (stored.job.run_at or 0) > now:
                return
            self.store.place(stored, Place.FRONT if stored.job.lifo else Place.BACK)
            queue.write(stored, replace(stored.job, state=State.WAITING))
            self.store.tell(queue, What.STATE, stored.job)

    def _next_in(self, queue: QueueStore, now: int) -> int | None:
        stored = queue.first_delayed()
        return None if stored is None else max(0, (stored.job.run_at or 0) - now)


def _sooner(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)
