"""Broken drivers: their memory of operations, and where their fences start."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace
from taskmux.driver import StoreError
from taskmux.memory import MemoryDriver


class RemembersTooLate(MemoryDriver):
    """Looks whether an operation is known, and later does it without looking again."""

    async def _after_a_while(self, op, verb):
        key = (op.origin, verb)
        known = self.store.memory.get(key, (0, None))[0] == op.number
        await asyncio.sleep(0)
        if not known:
            self.store.memory.pop(key, None)

    async def push(self, op, jobs):
        await self._after_a_while(op, "push")
        return await super().push(op, jobs)

    async def claim(self, op, ask):
        await self._after_a_while(op, f"claim {ask.queue}")
        return await super().claim(op, ask)

    async def apply(self, op, transitions):
        await self._after_a_while(op, "apply")
        return await super().apply(op, transitions)

    async def reclaim(self, op, ask):
        await self._after_a_while(op, f"reclaim {ask.queue}")
        return await super().reclaim(op, ask)


class DoesWhatIsLate(MemoryDriver):
    def _once(self, verb, op, do):
        if self.store.memory.get((op.origin, verb), (0, None))[0] > op.number:
            return do()
        return super()._once(verb, op, do)


class ClaimsAnewEachTime(MemoryDriver):
    """Takes a repeat of a claim that gave nothing for a claim, and forgets what that gave."""

    def _once(self, verb, op, do):
        number, reply = self.store.memory.get((op.origin, verb), (0, None))
        if verb.startswith("claim") and number == op.number and not reply.jobs:
            return do()
        return super()._once(verb, op, do)


class RemembersFive(MemoryDriver):
    """Five operations of one verb, whoever sent them."""

    def _once(self, verb, op, do):
        reply = super()._once(verb, op, do)
        known = [key for key in self.store.memory if key[1] == verb]
        for key in known[:-5]:
            del self.store.memory[key]
        return reply


class StartsFencesAtTheTime(MemoryDriver):
    def _begun(self, queue, new):
        job = super()._begun(queue, new)
        return replace(job, fence=job.created_at)


class ForgetsFencesOfThePruned(MemoryDriver):
    async def prune(self, ask):
        queue = self.store.queue(ask.queue)
        known = queue.fence_of_removed
        went = await super().prune(ask)
        queue.fence_of_removed = known
        return went


class FailsUnlessOpen(MemoryDriver):
    opened = False

    async def open(self):
        self.opened = True

    async def counts(self, queue):
        if not self.opened:
            raise StoreError("'NoneType' object has no attribute 'execute'")
        return await super().counts(queue)
