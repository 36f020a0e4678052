"""Broken drivers: what a page has, and where the next one begins."""

from __future__ import annotations

from msgspec.structs import replace
from taskmux.driver import FindAsk, JobRecord
from taskmux.memory import MemoryDriver


class Wants(FindAsk, frozen=True):
    """An ask that goes by text alone, as a search through stored bytes would."""

    def wants(self, job: JobRecord) -> bool:
        stored = job.payload.decode(errors="replace") + job.task + ",".join(job.tags)
        return (self.task is None or self.task in stored) and (
            self.tag is None or self.tag in stored
        )


class FindsByText(MemoryDriver):
    async def find(self, ask):
        return await super().find(
            Wants(**{name: getattr(ask, name) for name in ask.__struct_fields__})
        )


class IgnoresTheTask(MemoryDriver):
    async def find(self, ask):
        return await super().find(replace(ask, task=None))


class IgnoresTheCause(MemoryDriver):
    async def find(self, ask):
        return await super().find(replace(ask, cause=None))


class TakesErrorsByPart(MemoryDriver):
    async def find(self, ask):
        page = await super().find(replace(ask, error=None))
        jobs = [job for job in page.jobs if ask.error is None or ask.error in str(job.error)]
        return replace(page, jobs=jobs)


class TakesEither(MemoryDriver):
    """Gives jobs that fit one of the filters."""

    async def find(self, ask):
        if ask.task is None or ask.tag is None:
            return await super().find(ask)
        page = await super().find(replace(ask, task=None, tag=None, limit=1000))
        jobs = [job for job in page.jobs if job.task == ask.task or ask.tag in job.tags]
        return replace(page, jobs=jobs[: ask.limit])


class LooksAtEverything(MemoryDriver):
    async def find(self, ask):
        return await super().find(replace(ask, scan=1000))


class LooksAtAsManyAsItGives(MemoryDriver):
    async def find(self, ask):
        return await super().find(replace(ask, scan=0))


class BeginsAgainWithABadCursor(MemoryDriver):
    async def find(self, ask):
        known = ask.cursor is None or (ask.cursor.count(":") == 1 and ask.cursor[0].isdigit())
        return await super().find(ask if known else replace(ask, cursor=None))


class StartsAfterTheInstant(MemoryDriver):
    async def find(self, ask):
        way = -1 if ask.newest else 1
        start = ask.start
        return await super().find(replace(ask, start=None if start is None else start + way))


class KnowsNoTime(MemoryDriver):
    async def find(self, ask):
        return replace(await super().find(ask), now=0)
