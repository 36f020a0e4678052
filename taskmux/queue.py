"""Queues: reading what is stored, and the queue's stored settings."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from msgspec.structs import replace

from taskmux.connection import Connection
from taskmux.errors import DeclarationError, JobConflict
from taskmux.handle import Connect, JobHandle, Portal
from taskmux.job import JobRecord, Ref, State
from taskmux.messages import FindAsk, Page, QueueSettings
from taskmux.units import check_name, check_queue

__all__ = ["Counts", "Queue"]

PAGE = 100
MAX_PAGE = 1000


class Counts(msgspec.Struct, frozen=True):
    """How many jobs of a queue are in each state."""

    waiting: int = 0
    delayed: int = 0
    blocked: int = 0
    active: int = 0
    completed: int = 0
    dead: int = 0
    cancelled: int = 0
    moved: int = 0

    @property
    def unfinished(self) -> int:
        """Jobs that will still run."""
        return self.waiting + self.delayed + self.blocked + self.active

    @property
    def total(self) -> int:
        """All jobs that the store has."""
        return self.unfinished + self.completed + self.dead + self.cancelled + self.moved


class Queue:
    """One queue of an app. It holds no copy: every verb asks the store.

    Raises:
        InvalidName: the name cannot be stored everywhere.
    """

    def __init__(self, name: str, connect: Connect, portal: Portal) -> None:
        self.name = check_queue(name)
        self._connect = connect
        self._portal = portal

    def __repr__(self) -> str:
        return f"<Queue {self.name}>"

    async def _connection(self) -> Connection:
        return await self._connect(self.name)

    async def counts(self) -> Counts:
        """Return the number of jobs in each state."""
        connection = await self._connection()
        counts = await connection.driver.counts(self.name)
        return Counts(**{state.value: number for state, number in counts.items()})

    def job(self, job_id: str) -> JobHandle[object]:
        """Return a handle on a job of this queue; nothing is asked yet."""
        ref = Ref(self.name, check_name(job_id, "job id"))
        return JobHandle(ref, self._connect, self._portal)

    async def get(self, job_id: str) -> JobRecord:
        """Return a job's record.

        Raises:
            JobNotFound: there is none (any more).
        """
        return await self.job(job_id).record()

    async def page(
        self,
        state: State | str,
        *,
        tag: str | None = None,
        newest: bool = False,
        cursor: str | None = None,
        limit: int = PAGE,
    ) -> Page:
        """Return one page of the jobs in a state.

        Waiting jobs come as they will be claimed, delayed ones by due time, others oldest first.

        Args:
            state: a `State` or its name.
            tag: only jobs with this tag; a page may then be short.
            newest: the other way round.
            cursor: the page before's cursor; None for the first.
            limit: the most jobs of the page, up to 1000.

        Raises:
            DeclarationError: the state is unknown or the limit out of range.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise DeclarationError(f"limit {limit!r} is not a number from 1 to {MAX_PAGE}.")
        ask = FindAsk(
            queue=self.name,
            state=_state(state),
            tag=tag,
            newest=newest,
            cursor=cursor,
            limit=limit,
        )
        return await (await self._connection()).driver.find(ask)

    async def jobs(
        self, state: State | str, *, tag: str | None = None, newest: bool = False
    ) -> AsyncIterator[JobRecord]:
        """Yield the jobs in a state, page by page; never all at once in memory.

        Raises:
            DeclarationError: the state is unknown.
        """
        cursor: str | None = None
        while True:
            page = await self.page(state, tag=tag, newest=newest, cursor=cursor)
            for job in page.jobs:
                yield job
            if page.cursor is None:
                return
            cursor = page.cursor

    async def settings(self) -> QueueSettings:
        """Return the queue's stored settings."""
        return await (await self._connection()).driver.settings(self.name)

    async def pause(self) -> None:
        """Let no worker claim from this queue; jobs stay waiting, running ones finish."""
        await self._set_paused(paused=True)

    async def resume(self) -> None:
        """Let workers claim again."""
        await self._set_paused(paused=False)

    async def _set_paused(self, *, paused: bool) -> None:
        driver = (await self._connection()).driver
        for _ in range(20):
            settings = await driver.settings(self.name)
            if settings.paused is paused:
                return
            if await driver.put_settings(self.name, replace(settings, paused=paused)):
                return
        raise JobConflict(
            f"The settings of queue {self.name!r} are being changed by others all the time. "
            f"Try again."
        )


def _state(value: State | str) -> State:
    try:
        return State(value)
    except ValueError:
        raise DeclarationError(
            f"There is no state {value!r}. States are {', '.join(State)}."
        ) from None
