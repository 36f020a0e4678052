"""Dead letters: the jobs of a queue that failed for good, and what can be done about them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from taskmux.api.blocking import Portal
from taskmux.api.bulk import Bulk, BulkResult, Verb, prepared
from taskmux.api.bulk_verbs import REMOVE, BulkOptions, options_of
from taskmux.api.filters import Filter, Narrowing
from taskmux.api.handle import Connect, JobHandle
from taskmux.api.searching import PAGE, Searches
from taskmux.api.walk import pages, store_time
from taskmux.driver import Page
from taskmux.model import transition
from taskmux.model.errors import DeclarationError
from taskmux.model.job import JobRecord, Ref, State
from taskmux.model.queue import Rate
from taskmux.model.transition import Transition
from taskmux.model.units import brief, check_name
from taskmux.policy.deadstats import DeadStats, DeadTally
from taskmux.policy.gcra import as_rate

if TYPE_CHECKING:
    from taskmux.api.connection import Connection

__all__ = ["DeadLetters"]

DEAD = frozenset({State.DEAD})


class DeadLetters:
    """The dead letters of a queue: `mux.queue("email").dead`. It holds no copy of them.

    Filters are those of `queue.find` but for the state, which is always dead; see `FilterOptions`.
    """

    def __init__(self, name: str, connect: Connect, portal: Portal) -> None:
        self.name = name
        self._connect = connect
        self._portal = portal

    def __repr__(self) -> str:
        return f"<DeadLetters {self.name}>"

    async def count(self) -> int:
        """Return how many there are."""
        connection = await self._connect(self.name)
        return (await connection.driver.counts(self.name))[State.DEAD]

    async def find(
        self,
        *,
        newest: bool = True,
        cursor: str | None = None,
        limit: int = PAGE,
        **narrowing: Unpack[Narrowing],
    ) -> Page:
        """Return a page of them, those that died last first; see `Queue.find`."""
        _check(narrowing)
        search = _Search(self.name, self._connect)
        return await search.find(State.DEAD, newest=newest, cursor=cursor, limit=limit, **narrowing)

    async def jobs(
        self, *, newest: bool = True, **narrowing: Unpack[Narrowing]
    ) -> AsyncIterator[JobRecord]:
        """Yield them, those that died last first; never all at once in memory."""
        _check(narrowing)
        search = _Search(self.name, self._connect)
        async for job in search.jobs(State.DEAD, newest=newest, **narrowing):
            yield job

    async def stats(
        self,
        *,
        on_progress: Callable[[int, int | None], object] | None = None,
        **narrowing: Unpack[Narrowing],
    ) -> DeadStats:
        """Count them by task and way of failing, and by type of error and time.

        Every one that is meant is read, a page at a time, and the memory taken does not grow with
        them.

        Args:
            on_progress: called after every page with how many were counted, and of how many dead
                jobs there are.
            narrowing: which; all of them if it is left out.

        Raises:
            DeclarationError, InvalidName: a filter is none; nothing was sent.
        """
        _check(narrowing)
        where = Filter.of(state=State.DEAD, **narrowing)
        driver = (await self._connect(self.name)).driver
        now, total = await store_time(driver, self.name), await self.count()
        tally, looked = DeadTally(self.name, now), 0
        async for page in pages(driver, self.name, where):
            for job in page.jobs:
                tally.add(job)
            looked += len(page.jobs)
            if on_progress is not None:
                on_progress(looked, total)
        return tally.stats()

    async def redrive(
        self,
        *,
        rate: str | Rate | None = None,
        reset_attempts: bool = True,
        **options: Unpack[BulkOptions],
    ) -> BulkResult:
        """Let them run again: they wait, at the back, with their policy, history and origin.

        The call may be sent again, or taken up by another one after a kill: a job that has been
        redriven is not dead any more, and one that died again since the call began is left alone.

        Args:
            rate: spread them over time, such as `"10/s"`: they become delayed, each to its
                moment, and nothing must go on running here. None: all of them wait at once.
            reset_attempts: with fresh attempts and crashes; False gives each one more try.
            options: which, and how; see `BulkOptions`.

        Returns:
            What became of them; skipped as `conflict` are those whose dedup key is taken.

        Raises:
            DeclarationError: a filter or the rate is none, or nothing narrows the call and
                `all=True` was not said. Nothing was sent.
        """
        if not isinstance(reset_attempts, bool):
            raise DeclarationError(f"reset_attempts {brief(reset_attempts)} is no True or False.")
        interval = 0.0 if rate is None else _interval(as_rate(rate))
        return await self._bulk(redriving(interval, fresh=reset_attempts), options)

    async def purge(self, **options: Unpack[BulkOptions]) -> BulkResult:
        """Remove them for good, with their history."""
        return await self._bulk(REMOVE, options)

    async def edit(
        self, job_id: str, arguments: Mapping[str, Any], *, replace: bool = False
    ) -> None:
        """Change arguments of one before it is redriven; see `JobHandle.edit`."""
        ref = Ref(self.name, check_name(job_id, "job id"))
        await JobHandle(ref, self._connect, self._portal).edit(arguments, replace=replace)

    async def _bulk(self, verb: Verb, keywords: Any) -> BulkResult:
        where, options, everything = options_of(keywords)
        where = prepared(verb, where, everything=everything).within(DEAD)
        connection = await self._connect(self.name)
        return await Bulk(connection, self.name, where, verb, options).run()


class _Search(Searches):
    def __init__(self, name: str, connect: Connect) -> None:
        self.name = name
        self._connect = connect

    async def _connection(self) -> Connection:
        return await self._connect(self.name)


def _check(narrowing: Mapping[str, Any]) -> None:
    if "state" in narrowing:
        raise DeclarationError("Dead letters are in one state, dead: leave state= out.")


def redriving(interval_ms: float, *, fresh: bool) -> Verb:
    """Return the verb that redrives dead jobs, so many milliseconds after one another."""
    number = 0

    def change(job: JobRecord, _: frozenset[State]) -> Transition:
        nonlocal number
        delay = int(number * interval_ms)
        number += 1
        return transition.redrive(job.ref, DEAD, delay=delay, fresh=fresh)

    return Verb(name="redrive", usual=DEAD, possible=DEAD, change=change)


def _interval(rate: Rate) -> float:
    return rate.per / rate.count
