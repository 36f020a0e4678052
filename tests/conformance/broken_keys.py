"""Broken drivers: who owns a deduplication key, what a second job does, and who comes next."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace
from taskmux.driver import Place, State
from taskmux.memory import MemoryDriver


def _without(new, **changes):
    """Return a new job that says less of its key."""
    dedup = new.job.dedup
    return replace(new, job=replace(new.job, dedup=dedup and replace(dedup, **changes)))


class EndsThrottlesWithTheJob(MemoryDriver):
    def _ended(self, queue, job):
        if job.dedup is not None and self._owns(queue, job):
            self._free(queue, job.dedup.key)


class ThrottlesForEver(MemoryDriver):
    def _owner(self, queue, key):
        return queue.dedup.get(key)


class EndsThrottlesEarly(MemoryDriver):
    def _own(self, queue, job):
        super()._own(queue, job)
        if job.dedup is not None and job.dedup.ttl is not None:
            queue.dedup[job.dedup.key].until -= 10


class KeepsKeysOfTheRemoved(MemoryDriver):
    def _remove(self, queue, stored, tells):
        queue.remove(stored)


class ForgetsThrottlesOfThePruned(MemoryDriver):
    async def prune(self, ask):
        queue = self.store.queue(ask.queue)
        went = await super().prune(ask)
        for key in [key for key, owner in queue.dedup.items() if owner.id not in queue.jobs]:
            del queue.dedup[key]
        return went


class ForgetsModes(MemoryDriver):
    def _begun(self, queue, new):
        job = super()._begun(queue, new)
        return replace(job, dedup=job.dedup and replace(job.dedup, ttl=None, latest=False))


class AsksOthersBeforeEveryMove(MemoryDriver):
    """Lets a job go on only while nobody else owns its key, and not only out of its end."""

    def _judge(self, one, job):
        move = super()._judge(one, job)
        return move if not hasattr(move, "revived") else replace(move, revived=True)


class RedrivesWithoutItsKey(MemoryDriver):
    def _own(self, queue, job):
        if job.fence == job.created_at:
            super()._own(queue, job)


class ReplacesNothing(MemoryDriver):
    def _push(self, new):
        return super()._push(_without(new, replace=False, extend=False))


class ReplacesAnybody(MemoryDriver):
    def _met(self, queue, new, key, owner):
        stored = queue.jobs.get(owner.id)
        if stored is not None and new.job.dedup.replace:
            self._replace(queue, stored, new)
        return super()._met(queue, new, key, owner)


class KeepsFormerSteps(MemoryDriver):
    def _replace(self, queue, stored, new):
        steps = stored.job.steps
        super()._replace(queue, stored, new)
        stored.job = replace(stored.job, steps=steps)


class KeepsFormerAttempts(MemoryDriver):
    def _replace(self, queue, stored, new):
        attempts = stored.job.attempts
        super()._replace(queue, stored, new)
        stored.job = replace(stored.job, attempts=attempts)


class LosesItsPlace(MemoryDriver):
    def _replace(self, queue, stored, new):
        self.store.place(stored, Place.BACK)
        super()._replace(queue, stored, new)


class MovesToTheNewLine(MemoryDriver):
    def _replace(self, queue, stored, new):
        super()._replace(queue, stored, new)
        queue.write(stored, replace(stored.job, group=new.job.group))


class ExtendsNoDelay(MemoryDriver):
    def _push(self, new):
        return super()._push(_without(new, extend=False))


class ExtendsEveryDelay(MemoryDriver):
    def _push(self, new):
        dedup = new.job.dedup
        return super()._push(_without(new, extend=dedup is not None and dedup.replace))


class KeepsTheFirstTtl(MemoryDriver):
    def _met(self, queue, new, key, owner):
        until = owner.until
        answer = super()._met(queue, new, key, owner)
        queue.dedup[key].until = until
        return answer


class FollowsNobody(MemoryDriver):
    def _push(self, new):
        return super()._push(_without(new, latest=False))


class HasManySuccessors(MemoryDriver):
    def _successor(self, queue, key, owner):
        return None


class ReplacesOwnersFirst(MemoryDriver):
    def _met(self, queue, new, key, owner):
        stored = queue.jobs.get(owner.id)
        if stored is not None and stored.job.state in {State.WAITING, State.DELAYED}:
            new = _without(new, latest=False, replace=True)
        return super()._met(queue, new, key, owner)


class CountsTheGoneAsSuccessors(MemoryDriver):
    def _successor(self, queue, key, owner):
        return None if owner.successor is None else queue.jobs.get(owner.successor)


class ForgetsSuccessors(MemoryDriver):
    def _free(self, queue, key):
        queue.dedup[key].successor = None
        super()._free(queue, key)


class LetsSuccessorsGoEarly(MemoryDriver):
    def _free(self, queue, key):
        successor = queue.jobs.get(queue.dedup[key].successor or "")
        if successor is not None:
            successor.job = replace(successor.job, run_at=None)
        super()._free(queue, key)


class HandsOverAtARetry(MemoryDriver):
    def _move(self, queue, stored, one, move):
        super()._move(queue, stored, one, move)
        if move.left_active and self._owns(queue, stored.job):
            self._free(queue, stored.job.dedup.key)


class SuccessorsOwnNothing(MemoryDriver):
    def _free(self, queue, key):
        super()._free(queue, key)
        queue.dedup.pop(key, None)


class LetsSuccessorsGoInSilence(MemoryDriver):
    def _free(self, queue, key):
        announce, self.store.announce = self.store.announce, lambda *_: None
        try:
            super()._free(queue, key)
        finally:
            self.store.announce = announce


class HidesThrottledOwners(MemoryDriver):
    async def dedup_owner(self, queue, key):
        owner = await super().dedup_owner(queue, key)
        stored = self.store.queue(queue).jobs.get(owner)
        return owner if stored is not None and stored.job.finished_at is None else None


class ReleasesForAnybody(MemoryDriver):
    async def release_dedup(self, queue, key, owner):
        found = await self.dedup_owner(queue, key)
        return found is not None and await super().release_dedup(queue, key, found)


class RemovesTheReleased(MemoryDriver):
    async def release_dedup(self, queue, key, owner):
        released = await super().release_dedup(queue, key, owner)
        stored = self.store.queue(queue).jobs.get(owner)
        if released and stored is not None:
            self.store.queue(queue).remove(stored)
        return released


class TakesKeysInTwoSteps(MemoryDriver):
    async def push(self, op, jobs):
        keyed = [new.job for new in jobs if new.job.dedup is not None]
        free = [job for job in keyed if await self.dedup_owner(job.queue, job.dedup.key) is None]
        await asyncio.sleep(0)
        for job in free:
            self.store.queue(job.queue).dedup.pop(job.dedup.key, None)
        return await super().push(op, jobs)
