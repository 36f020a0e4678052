"""Searching a queue: pages, and all jobs that a filter means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Final, Unpack

from msgspec.structs import replace

from taskmux.api.filters import Filter, Narrowing
from taskmux.api.walk import check_cursor, pages, step, store_time
from taskmux.driver import FindAsk, Page
from taskmux.model.errors import DeclarationError
from taskmux.model.job import JobRecord, State
from taskmux.model.units import brief

if TYPE_CHECKING:
    from taskmux.api.connection import Connection

__all__ = ["MAX_PAGE", "PAGE", "Searches"]

PAGE: Final = 100
MAX_PAGE: Final = 1000

LOOKS: Final = 20
"""Pages of a store that one `find` looks at, at most: some 20,000 records."""

States = State | str | Iterable[State | str] | None


class Searches:
    """What a queue can be asked for its jobs."""

    name: str

    async def _connection(self) -> Connection:
        raise NotImplementedError

    async def find(
        self,
        state: States = None,
        *,
        newest: bool = False,
        cursor: str | None = None,
        limit: int = PAGE,
        **narrowing: Unpack[Narrowing],
    ) -> Page:
        """Return a page of the jobs that a filter means.

        One call looks at some 20,000 records at most, so a page of a rare kind may be short or
        even empty: go on with its cursor until that is None. States come along a job's life
        (delayed, blocked, waiting, active, then finished ones); in each, waiting jobs come as
        they will be claimed, delayed ones by due time, others oldest first.

        Args:
            state: a `State` or its name, or several; all of them if it is left out.
            newest: the other way round.
            cursor: where the page before ended; None for the first.
            limit: the most jobs of the page, up to 1000.
            narrowing: which jobs; see `FilterOptions`.

        Raises:
            DeclarationError: a filter, the limit or the cursor is none; nothing was sent.
            InvalidName: a task, tag or id is a name that no job can have.
        """
        where = Filter.of(state=state, **narrowing)
        _check_limit(limit)
        check_cursor(where, cursor)
        driver = (await self._connection()).driver
        if where.relative:
            where = where.fixed(await store_time(driver, self.name))
        jobs: list[JobRecord] = []
        for _ in range(LOOKS):
            left = limit - len(jobs)
            page = await step(driver, self.name, where, newest=newest, cursor=cursor, limit=left)
            jobs += page.jobs
            cursor = page.cursor
            if cursor is None or len(jobs) >= limit:
                break
        return replace(page, jobs=jobs)

    async def page(
        self,
        state: State | str,
        *,
        tag: str | None = None,
        newest: bool = False,
        cursor: str | None = None,
        limit: int = PAGE,
    ) -> Page:
        """Return one page of the jobs in a state, as the store has it: one look at `limit` records.

        Waiting jobs come as they will be claimed, delayed ones by due time, others oldest first.
        `find` takes more filters.

        Args:
            state: a `State` or its name.
            tag: only jobs with this tag; a page may then be short.
            newest: the other way round.
            cursor: the page before's cursor; None for the first.
            limit: the most jobs of the page, up to 1000.

        Raises:
            DeclarationError: the state is unknown or the limit out of range.
            ConfigError: the cursor is none.
        """
        _check_limit(limit)
        (wanted,) = Filter.of(state=[state]).states
        ask = FindAsk(
            queue=self.name, state=wanted, tag=tag, newest=newest, cursor=cursor, limit=limit
        )
        return await (await self._connection()).driver.find(ask)

    async def jobs(
        self, state: States = None, *, newest: bool = False, **narrowing: Unpack[Narrowing]
    ) -> AsyncIterator[JobRecord]:
        """Yield the jobs that a filter means, page by page; never all at once in memory.

        Order and arguments are those of `find`. A job whose state changes meanwhile may be met
        again in the new one. What they hold as JSON bytes is decoded by their `arguments`,
        `result_value` and `progress_value`.

        Raises:
            DeclarationError: a filter is none; nothing was sent.
            InvalidName: a task, tag or id is a name that no job can have.
        """
        where = Filter.of(state=state, **narrowing)
        driver = (await self._connection()).driver
        async for page in pages(driver, self.name, where, newest=newest):
            for job in page.jobs:
                yield job


def _check_limit(limit: object) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE:
        raise DeclarationError(f"limit {brief(limit)} is not a number from 1 to {MAX_PAGE}.")
