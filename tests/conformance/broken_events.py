"""Drivers that tell of a queue wrongly, each in one way."""

from __future__ import annotations

from msgspec.structs import replace
from taskmux.driver import EventPage, PushStatus, State, What
from taskmux.memory import MemoryDriver


class TellsOfNoClaim(MemoryDriver):
    def _claim(self, ask):
        kept, self.store.tell = self.store.tell, lambda *_: None
        try:
            return super()._claim(ask)
        finally:
            self.store.tell = kept


class TellsOfStarts(MemoryDriver):
    def _move(self, queue, stored, one, move):
        was = stored.job.state
        super()._move(queue, stored, one, move)
        if was is move.state:
            self.store.tell(queue, What.STATE, stored.job)


class TellsBackwards(MemoryDriver):
    async def events(self, queue, after, limit, timeout):
        page = await super().events(queue, after, limit, timeout)
        return replace(page, events=page.events[::-1])


class PassesNothingOn(MemoryDriver):
    def _apply(self, one):
        return super()._apply(replace(one, tells=None))


class TellsLargeProgress(MemoryDriver):
    def _annotate(self, note):
        answer = super()._annotate(note)
        queue = self.store.queue(note.ref.queue)
        if note.progress is not None and queue.events:
            queue.events[-1] = replace(queue.events[-1], data=note.progress)
        return answer


class TellsOfNoPrune(MemoryDriver):
    async def prune(self, ask):
        kept, self.store.tell = self.store.tell, lambda *_: None
        try:
            return await super().prune(ask)
        finally:
            self.store.tell = kept


class TellsOfNoTakeover(MemoryDriver):
    def _reclaim(self, ask):
        kept, self.store.tell = self.store.tell, lambda *_: None
        try:
            return super()._reclaim(ask)
        finally:
            self.store.tell = kept


class TellsOfAllSettings(MemoryDriver):
    async def put_settings(self, queue, settings):
        stored = await super().put_settings(queue, settings)
        self.store.tell(self.store.queue(queue), What.PAUSED)
        return stored


class TellsOfAllQueues(MemoryDriver):
    async def push(self, op, jobs):
        answers = await super().push(op, jobs)
        for new in jobs:
            for name, queue in self.store.queues.items():
                if name != new.job.queue:
                    self.store.tell(queue, What.ADDED, new.job)
        return answers


class BeginsAtTheBeginning(MemoryDriver):
    async def events(self, queue, after, limit, timeout):
        page = await super().events(queue, after, limit, timeout)
        return page if after is not None else replace(page, cursor="0")


class SkipsOne(MemoryDriver):
    async def events(self, queue, after, limit, timeout):
        page = await super().events(queue, after, limit, timeout)
        if len(page.events) < limit:
            return page
        return replace(page, cursor=str(int(page.cursor) + 1))


class HidesGaps(MemoryDriver):
    async def events(self, queue, after, limit, timeout):
        return replace(await super().events(queue, after, limit, timeout), gap=False)


class KeepsThemAnyway(MemoryDriver):
    async def put_settings(self, queue, settings):
        return await super().put_settings(queue, replace(settings, events=settings.events or 10))


class TellsOfDuplicates(MemoryDriver):
    def _push(self, new):
        pushed = super()._push(new)
        if pushed.status is PushStatus.DUPLICATE:
            self.store.tell(self.store.queue(new.job.queue), What.ADDED, new.job)
        return pushed


class TellsOfRepeats(MemoryDriver):
    async def push(self, op, jobs):
        known = (op.origin, "push") in self.store.memory
        answers = await super().push(op, jobs)
        if known and self.store.memory[op.origin, "push"][0] == op.number:
            for new in jobs:
                job = replace(new.job, state=State.WAITING)
                self.store.tell(self.store.queue(job.queue), What.ADDED, job)
        return answers


class WakesNobody(MemoryDriver):
    async def events(self, queue, after, limit, timeout):
        page = await super().events(queue, after, limit, 0)
        if page.events or after is None or page.gap:
            return page
        await super().wait([f"{queue}-nothing"], timeout)
        return EventPage([], page.cursor)
