"""Broken drivers: guards, places, retention, due times, fields and what ends a wait."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace
from taskmux.driver import (
    TERMINAL,
    Applied,
    ApplyStatus,
    Claimed,
    Keep,
    Place,
    State,
)
from taskmux.memory import MemoryDriver


class PromotesOneEarly(MemoryDriver):
    def _promote(self, queue, now):
        super()._promote(queue, now + 1)


class PromotesThirtyEarly(MemoryDriver):
    def _promote(self, queue, now):
        super()._promote(queue, now + 30)


class PromotesByName(MemoryDriver):
    def _promote(self, queue, now):
        due = [one for one in queue.jobs.values() if one.job.state is State.DELAYED]
        for stored in sorted(due, key=lambda one: one.job.id):
            if stored.job.run_at <= now:
                self.store.place(stored, Place.BACK)
                queue.write(stored, replace(stored.job, state=State.WAITING))


class PromotesToOnePlace(MemoryDriver):
    """Leaves the order of those that become due together to their ids."""

    def _promote(self, queue, now):
        self.store.sequence += 1
        for stored in tuple(queue.jobs.values()):
            if stored.job.state is State.DELAYED and stored.job.run_at <= now:
                stored.sequence = self.store.sequence
                queue.write(stored, replace(stored.job, state=State.WAITING))


class GivesNothingOnceMoved(MemoryDriver):
    async def claim(self, op, ask):
        await asyncio.sleep(0)
        return await super().claim(op, ask)

    def _claim(self, ask):
        moved = self.store.queue(ask.queue).settings.moved_to is not None
        return Claimed([], self.store.clock()) if moved else super()._claim(ask)


class IgnoresCause(MemoryDriver):
    def _judge(self, one, job):
        return super()._judge(replace(one, guard=replace(one.guard, cause=None)), job)


class AsksEveryJobForACause(MemoryDriver):
    def _judge(self, one, job):
        if job is not None and one.guard.cause not in {None, job.cause}:
            return Applied(ApplyStatus.STALE, job.state)
        return super()._judge(one, job)


class KeepsFinishedAt(MemoryDriver):
    def _move(self, queue, stored, one, move):
        before = stored.job.finished_at
        super()._move(queue, stored, one, move)
        if move.revived:
            stored.job = replace(stored.job, finished_at=before)


class KeepsExpiry(MemoryDriver):
    """Writes when a record goes at its first end, and looks at nothing else afterwards."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.expiry = {}

    def _move(self, queue, stored, one, move):
        super()._move(queue, stored, one, move)
        if move.ended:
            at = stored.job.finished_at + one.retention.age_ms
            self.expiry.setdefault(stored.job.id, at)

    async def prune(self, ask):
        queue, now = self.store.queue(ask.queue), self.store.clock()
        gone = [one for one in queue.jobs.values() if self.expiry.get(one.job.id, now + 1) <= now]
        for stored in gone:
            queue.remove(stored)
        return len(gone) or await super().prune(ask)


class KeepsFirstRetention(MemoryDriver):
    def _move(self, queue, stored, one, move):
        first, was_finished = stored.retention, stored.retention != Keep()
        super()._move(queue, stored, one, move)
        if was_finished:
            stored.retention = first


class CountsTheRedriven(MemoryDriver):
    async def prune(self, ask):
        jobs = self.store.queue(ask.queue).jobs.values()
        revived = sum(one.retention != Keep() and one.job.state not in TERMINAL for one in jobs)
        for one in jobs:
            if one.retention.count:
                one.retention = Keep(one.retention.age_ms, one.retention.count - revived)
        return await super().prune(ask)


class ForgetsPlaces(MemoryDriver):
    def _move(self, queue, stored, one, move):
        if stored.job.state in {State.BLOCKED, State.DELAYED}:
            stored.sequence = 0
        super()._move(queue, stored, one, move)


class HasNoPlaceToKeep(MemoryDriver):
    """Leaves a job that never waited at the very front."""

    def _move(self, queue, stored, one, move):
        kept = move.place is Place.KEEP
        super()._move(queue, stored, one, replace(move, place=None) if kept else move)


class HoldsEveryQueue(MemoryDriver):
    def _move(self, queue, stored, one, move):
        super()._move(queue, stored, one, move)
        for other in self.store.queues.values():
            group, until = stored.job.group, self.store.clock() + one.hold
            other.lines.hold(group, until, alone=one.hold_line)


class ForgetsHoldsAtAPrune(MemoryDriver):
    async def prune(self, ask):
        self.store.queue(ask.queue).lines.begin_anew()
        return await super().prune(ask)


class ParksEmptyLines(MemoryDriver):
    """Puts a parked line in the ring, though its last job was removed meanwhile."""

    def _apply(self, one):
        lines = self.store.queue(one.ref.queue).lines
        parked = set(lines._parked)
        answer = super()._apply(one)
        if one.remove:
            lines._parked |= parked
        return answer


class KeepsCauses(MemoryDriver):
    def _move(self, queue, stored, one, move):
        cause = stored.job.cause
        super()._move(queue, stored, one, move)
        stored.job = replace(stored.job, cause=stored.job.cause or cause)


class KeepsCausesOfTheCancelled(MemoryDriver):
    def _move(self, queue, stored, one, move):
        super()._move(queue, stored, one, move)
        if one.to is State.BLOCKED and move.state is State.CANCELLED:
            stored.job = replace(stored.job, cause=one.changes.cause)


class LooksAtTheOldestOnly(MemoryDriver):
    """Of those that are kept by count, it looks at no more than it may remove."""

    async def prune(self, ask):
        queue = self.store.queue(ask.queue)
        finished = [one for one in queue.jobs.values() if one.job.state in TERMINAL]
        finished.sort(key=lambda one: (one.job.finished_at, one.created))
        newer = {id(one): len(finished) - at - 1 for at, one in enumerate(finished)}
        oldest = finished[: ask.limit]
        gone = [one for one in oldest if newer[id(one)] >= one.retention.count]
        for stored in gone:
            queue.remove(stored)
        return len(gone)


class DropsStrikes(MemoryDriver):
    async def put_settings(self, queue, settings):
        return await super().put_settings(queue, replace(settings, strikes=None))


class AsksNewJobsToCancel(MemoryDriver):
    def _begun(self, queue, new):
        return replace(super()._begun(queue, new), cancel_requested=True)


class ForgetsWhenJobsAreDue(MemoryDriver):
    def _push(self, new):
        pushed = super()._push(new)
        stored = self._stored(new.job.ref)
        stored.job = replace(stored.job, run_at=None)
        return pushed


class GivesNumbersForBooleans(MemoryDriver):
    async def get(self, refs):
        found = await super().get(refs)
        return [job and replace(job, started=int(job.started)) for job in found]


class DropsAField(MemoryDriver):
    def _reclaim(self, ask):
        claimed = super()._reclaim(ask)
        for job in claimed.jobs:
            stored = self._stored(job.ref)
            stored.job = replace(stored.job, slot=None)
        return claimed


class CutsAtNul(MemoryDriver):
    def _annotate(self, note):
        log = None if note.log is None else note.log.partition("\0")[0]
        return super()._annotate(replace(note, log=log))


class TiesAreNewest(MemoryDriver):
    """Jobs of one instant are in the same order, whichever way they are read."""

    async def find(self, ask):
        page = await super().find(replace(ask, limit=1000, cursor=None, newest=False))
        jobs = list(page.jobs)
        if ask.newest:
            jobs.sort(key=lambda job: -(job.finished_at or 0))
        start = int(ask.cursor or 0)
        end = start + ask.limit
        return replace(page, jobs=jobs[start:end], cursor=str(end) if end < len(jobs) else None)


class TellsOfWaitingOnly(MemoryDriver):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        announce = type(self.store).announce

        def waiting_only(queue, stored):
            if stored.job.state is State.WAITING:
                announce(self.store, queue, stored)

        self.store.announce = waiting_only


class TellsNoSettings(MemoryDriver):
    async def put_settings(self, queue, settings):
        stored, waiters = self.store.queue(queue), self.store.waiters
        version, self.store.waiters = stored.version, set()
        stored_it = await super().put_settings(queue, settings)
        stored.version, self.store.waiters = version, waiters
        return stored_it
