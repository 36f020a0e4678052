"""Broken drivers: each breaks one promise of the interface, so that the case named for it fails."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from msgspec.structs import replace
from taskmux.driver import Claimed, Guard, LineSettings, Place, Policy, State, holds
from taskmux.memory import MemoryDriver
from taskmux.memory.store import Owner


class NoFenceCheck(MemoryDriver):
    def _judge(self, one, job):
        guard = one.guard if one.guard.states else Guard(states={State.ACTIVE})
        return super()._judge(replace(one, guard=guard), job)

    def _annotate(self, note):
        stored = self._stored(note.ref)
        return super()._annotate(replace(note, fence=stored.job.fence) if stored else note)


class ForgetsPush(MemoryDriver):
    def _once(self, verb, op, do):
        return do() if verb == "push" else super()._once(verb, op, do)


class ForgetsClaim(MemoryDriver):
    def _once(self, verb, op, do):
        return do() if verb.startswith("claim") else super()._once(verb, op, do)


class ForgetsReclaim(MemoryDriver):
    def _once(self, verb, op, do):
        return do() if verb.startswith("reclaim") else super()._once(verb, op, do)


class ForgetsApply(MemoryDriver):
    async def apply(self, op, transitions):
        return [self._apply(one) for one in transitions]


class RemembersOneClaimInAll(MemoryDriver):
    def _once(self, verb, op, do):
        return super()._once(verb.partition(" ")[0], op, do)


class RepeatsWithLostLeases(MemoryDriver):
    def _still(self, job):
        return True


class WritesBeforeChecking(MemoryDriver):
    def _apply(self, one):
        stored = self._stored(one.ref)
        if stored is not None and not holds(one.guard, stored.job):
            stored.job = replace(stored.job, reason="written too soon")
        return super()._apply(one)


class PromotesEarly(MemoryDriver):
    def _promote(self, queue, now):
        super()._promote(queue, now + 86_400_000)


class PromotesWithoutBound(MemoryDriver):
    def _promote(self, queue, now):
        for _ in range(10):
            super()._promote(queue, now)


class IgnoresPause(MemoryDriver):
    def _claim(self, ask):
        queue = self.store.queue(ask.queue)
        queue.settings = replace(queue.settings, paused=False)
        return super()._claim(ask)


class KeepsFenceAtClaim(MemoryDriver):
    def _claim(self, ask):
        claimed = super()._claim(ask)
        jobs = [replace(job, fence=job.fence - 1) for job in claimed.jobs]
        for job in jobs:
            self._stored(job.ref).job = job
        return replace(claimed, jobs=jobs)


class KeepsFenceAtReclaim(MemoryDriver):
    def _reclaim(self, ask):
        claimed = super()._reclaim(ask)
        jobs = [replace(job, fence=job.fence - 1) for job in claimed.jobs]
        for job in jobs:
            self._stored(job.ref).job = replace(job, worker=ask.worker)
        return replace(claimed, jobs=jobs)


class ReclaimsEverything(MemoryDriver):
    def _reclaim(self, ask):
        clock, self.store.clock = self.store.clock, lambda: 10**14
        try:
            return super()._reclaim(ask)
        finally:
            self.store.clock = clock


class ReclaimsEarly(MemoryDriver):
    EARLY = 5

    def _reclaim(self, ask):
        clock = self.store.clock
        self.store.clock = lambda: clock() + self.EARLY
        try:
            return super()._reclaim(replace(ask, lease=ask.lease - self.EARLY))
        finally:
            self.store.clock = clock


class KeepsKeyWhenFinished(MemoryDriver):
    def _move(self, queue, stored, one, move):
        super()._move(queue, stored, one, move)
        if stored.job.dedup is not None:
            queue.dedup[stored.job.dedup.key] = Owner(stored.job.id)


class TakesKeyOfAnother(MemoryDriver):
    def _key_taken(self, queue, job):
        return False


class IgnoresCancelRequest(MemoryDriver):
    def _judge(self, one, job):
        return super()._judge(one, job and replace(job, cancel_requested=False))


class LosesLease(MemoryDriver):
    async def claim(self, op, ask):
        claimed = await super().claim(op, ask)
        for job in claimed.jobs:
            self._stored(job.ref).job = replace(job, lease_until=None)
        return claimed


class KeepsWorkerAfterRun(MemoryDriver):
    def _move(self, queue, stored, one, move):
        worker = stored.job.worker
        super()._move(queue, stored, one, move)
        stored.job = replace(stored.job, worker=worker)


class CountsDrift(MemoryDriver):
    def _move(self, queue, stored, one, move):
        super()._move(queue, stored, one, move)
        queue.counts[State.COMPLETED] += 1


class LosesPlace(MemoryDriver):
    def _judge(self, one, job):
        return super()._judge(replace(one, place=Place.BACK), job)


class StackNotQueue(MemoryDriver):
    def _push(self, new):
        return super()._push(replace(new, job=replace(new.job, lifo=True)))


class ForgetsPolicy(MemoryDriver):
    def _push(self, new):
        return super()._push(replace(new, job=replace(new.job, policy=Policy())))


class RepeatsLogLines(MemoryDriver):
    def _annotate(self, note):
        return super()._annotate(replace(note, log_index=10**6))


class RevivesLease(MemoryDriver):
    def _extend(self, held, lease):
        stored = self._stored(held.ref)
        return super()._extend(replace(held, fence=stored.job.fence) if stored else held, lease)


class PrunesEarly(MemoryDriver):
    async def prune(self, ask):
        clock, self.store.clock = self.store.clock, lambda: 10**16
        try:
            return await super().prune(ask)
        finally:
            self.store.clock = clock


class SetsBlindly(MemoryDriver):
    async def put_settings(self, queue, settings):
        stored = await self.settings(queue)
        return await super().put_settings(queue, replace(settings, rev=stored.rev))


class NeverRests(MemoryDriver):
    async def wait(self, queues, timeout):
        return True


class RemembersTheDead(MemoryDriver):
    async def workers(self):
        return [worker for _, worker in self.store.workers.values()]


class ClaimsInTwoSteps(MemoryDriver):
    async def claim(self, op, ask):
        if ask.queue not in self.store.queues:
            return await super().claim(op, ask)
        jobs = self.store.queues[ask.queue].jobs
        seen = [one.job for one in jobs.values() if one.job.state is State.WAITING][: ask.limit]
        await asyncio.sleep(0)
        return Claimed([self._lease(ask, job) for job in seen], self.store.clock())

    def _lease(self, ask, job):
        until = self.store.clock() + ask.lease
        leased = replace(job, state=State.ACTIVE, fence=job.fence + 1, lease_until=until)
        self.store.queue(ask.queue).write(self._stored(job.ref), replace(leased, worker=ask.worker))
        return leased


class PushesInTwoSteps(MemoryDriver):
    async def push(self, op, jobs):
        free = [new for new in jobs if self._stored(new.job.ref) is None]
        await asyncio.sleep(0)
        for new in free:
            self.store.queue(new.job.queue).jobs.pop(new.job.id, None)
        return await super().push(op, jobs)


class CrossesReplies(MemoryDriver):
    """A connection that a cancelled call leaves one reply off."""

    late: tuple[Any, ...] = ()

    async def get(self, refs):
        reply = await super().get(refs)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.late = (*self.late, reply)
            raise
        if self.late:
            self.late, reply = (*self.late[1:], reply), self.late[0]
        return reply


class Tampers(MemoryDriver):
    """Stores other settings than it was given."""

    lost: ClassVar[dict[str, Any]]

    async def put_settings(self, queue, settings):
        return await super().put_settings(queue, replace(settings, **self.lost))


class IgnoresConcurrency(Tampers):
    lost: ClassVar[dict[str, Any]] = {"concurrency": None}


class IgnoresRate(Tampers):
    lost: ClassVar[dict[str, Any]] = {"rate": None}


class IgnoresSize(Tampers):
    lost: ClassVar[dict[str, Any]] = {"group_size": None}


class IgnoresLimitsOfGroups(Tampers):
    lost: ClassVar[dict[str, Any]] = {"groups": LineSettings(), "lines": {}}


class HasOneLine(MemoryDriver):
    def _push(self, new):
        return super()._push(replace(new, job=replace(new.job, group=None)))


class FavoursALine(MemoryDriver):
    def _take(self, queue, *args):
        queue.lines._ring = dict.fromkeys(sorted(queue.lines._ring, key=str))
        return super()._take(queue, *args)


class LosesParkedLines(MemoryDriver):
    def _take(self, queue, *args):
        queue.lines._parked.clear()
        return super()._take(queue, *args)


class PrefetchesAnyway(MemoryDriver):
    def _claim(self, ask):
        return super()._claim(replace(ask, prefetch=0))


class HoldsNothing(MemoryDriver):
    def _apply(self, one):
        return super()._apply(replace(one, hold=0))


class HoldsForZombies(MemoryDriver):
    def _apply(self, one):
        lines = self.store.queue(one.ref.queue).lines
        lines.queue = lines.queue.held(self.store.clock() + one.hold)
        return super()._apply(one)


class ShortensHolds(MemoryDriver):
    def _move(self, queue, *args):
        queue.lines.queue = queue.lines.queue.let_go()
        super()._move(queue, *args)


class TellsNobody(MemoryDriver):
    async def beat(self, beat):
        return replace(await super().beat(beat), commands=())


class IsDeafToRoom(MemoryDriver):
    def _move(self, queue, *args):
        queue.lines.made_room = lambda line: queue.lines.readmit(line) and False
        super()._move(queue, *args)


class Deaf(MemoryDriver):
    async def wait(self, queues, timeout):
        await asyncio.sleep(timeout)
        return False


class ListensLate(MemoryDriver):
    """Hears nothing of what came before it began to wait."""

    async def wait(self, queues, timeout):
        self._seen = {queue: self.store.queue(queue).version for queue in queues}
        return await super().wait(queues, timeout)
