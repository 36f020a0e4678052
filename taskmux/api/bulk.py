"""Bulk work: one verb over all jobs that a filter means, in batches, safe to be called again.

What makes it so are the guards of the transitions: each names the states that a job may come from,
so a job that the call before has changed is not changed twice. A call that was killed is taken up
by calling it again.

A verb changes states, and so moves jobs within the indexes that are walked. Therefore:

- A walk follows a job's life, and one over several states of unfinished jobs goes round until a
  round finds nothing to do: a job that goes back meanwhile (a retry) is met in the next round.
- Jobs that were created since the call began are no part of it, nor are those that finished since
  then: a job that is retried and dies again is not retried for ever.
- A verb says of each job whether there is anything to do, so one that is met again where it stands
  after the change is passed by.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

import msgspec
from msgspec.structs import replace

from taskmux.api.batch import ABOUT_THE_STORE, resend
from taskmux.api.connection import Connection
from taskmux.api.filters import FLOW, Filter
from taskmux.api.walk import TRIES, pages, store_time
from taskmux.driver import Applied, ApplyStatus, FindAsk
from taskmux.model.errors import DeclarationError, StoreError
from taskmux.model.job import TERMINAL, BlockedCause, JobRecord, State
from taskmux.model.transition import Transition
from taskmux.model.units import brief

__all__ = ["Bulk", "BulkResult", "Options", "Progress", "Verb", "checked_limit", "prepared"]

BATCH: Final = 500
"""Transitions of one batch."""

ROUNDS: Final = 10
"""How often a walk over several states goes round, at most."""

SLACK_MS: Final = 1000
"""How far ahead of the store's time another process may have thought it was."""

Progress = Callable[[int, int | None], object]
"""Called after every batch with how many jobs are done, and of how many (None: not known)."""


class Verb(msgspec.Struct, frozen=True, kw_only=True):
    """What is done to each job.

    Attributes:
        name: how errors call it.
        usual: the states that are walked unless the filter names some.
        possible: the states that a filter may name.
        change: given a job as it was read and the states that are walked, its transition; None:
            there is nothing to do for it.
        cause: only jobs that are blocked for this.
        once: a job that comes back into a state that is walked must not be met again. Ids of jobs
            that were changed are then remembered until the call ends, some 100 bytes each.
    """

    name: str
    usual: frozenset[State]
    possible: frozenset[State]
    change: Callable[[JobRecord, frozenset[State]], Transition | None]
    cause: BlockedCause | None = None
    once: bool = False


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a bulk call goes.

    Attributes:
        dry_run: count the jobs and change none.
        limit: change so many at most.
        on_progress: told after every batch.
        batch: jobs of one batch.
        pace: awaited before every batch with the number of its jobs, to slow a call down.
    """

    dry_run: bool = False
    limit: int | None = None
    on_progress: Progress | None = None
    batch: int = BATCH
    pace: Callable[[int], Awaitable[None]] | None = None


class BulkResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the jobs that were meant.

    Attributes:
        matched: jobs for which there was something to do. With `dry_run` that is all that is told.
        done: jobs that were changed.
        requested: running jobs that were asked to cancel.
        skipped: jobs that could not be changed, by what was in the way: the state that they came
            to meanwhile, `gone`, `conflict` (another job owns their deduplication key), or
            `refused` by the store, as a damaged record is.
    """

    matched: int = 0
    done: int = 0
    requested: int = 0
    skipped: Mapping[str, int] = {}


def prepared(verb: Verb, where: Filter, *, everything: bool) -> Filter:
    """Return the filter that a verb goes by.

    Args:
        verb: what is to be done.
        where: what the caller gave.
        everything: the caller said `all=True`.

    Raises:
        DeclarationError: nothing narrows the call and `all=True` was not said, or the verb can do
            nothing with jobs of a state that the filter names.
    """
    if where.everything and not everything:
        raise DeclarationError(
            f"{verb.name} without a filter would be for every job of the queue. Give state=, "
            f"task=, tag=, error=, text=, since=, until= or ids=; or say all=True."
        )
    wrong = [state for state in where.states if state not in verb.possible]
    if wrong:
        can = ", ".join(state for state in FLOW if state in verb.possible)
        raise DeclarationError(f"{verb.name} can do nothing with {', '.join(wrong)} jobs: {can}.")
    return replace(where if where.states else where.within(verb.usual), cause=verb.cause)


class Bulk:
    """One bulk call.

    Args:
        connection: to the store of the queue.
        queue: its name.
        where: which jobs; as `prepared` returned it.
        verb: what is done to each.
        options: how.
    """

    def __init__(
        self, connection: Connection, queue: str, where: Filter, verb: Verb, options: Options
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._where = where
        self._verb = verb
        self._options = options
        self._matched = 0
        self._requested = 0
        self._done = 0
        self._skipped: Counter[str] = Counter()
        self._met: set[str] = set()

    async def run(self) -> BulkResult:
        """Do it, and say what became of the jobs.

        Raises:
            StoreError: the store refused everything or cannot be reached. What was done stays
                done; the same call goes on.
        """
        began = await store_time(self._connection.driver, self._queue)
        self._where = self._where.fixed(began)
        walks = await self._walks()
        total = await self._total()
        for number in range(self._rounds()):
            before = self._matched
            async with aclosing(self._batches(walks, began + SLACK_MS)) as batches:
                async for batch in batches:
                    await self._take(batch, total)
                    if self._left() == 0:
                        return self._result()
            if number > 0 and self._matched == before:
                break
        return self._result()

    def _result(self) -> BulkResult:
        return BulkResult(
            matched=self._matched,
            done=self._done,
            requested=self._requested,
            skipped=dict(self._skipped),
        )

    def _rounds(self) -> int:
        """Return how often to go round: jobs move only between states of unfinished ones."""
        moving = [state for state in self._where.states if state not in TERMINAL]
        several = len(moving) > 1 and self._where.ids is None
        return ROUNDS if several and not self._options.dry_run else 1

    def _left(self) -> int | None:
        """Return how many jobs may still be changed; None: as many as there are."""
        limit = self._options.limit
        if limit is None:
            return None
        counted = self._matched if self._options.dry_run else self._done + self._requested
        return max(0, limit - counted)

    async def _walks(self) -> list[Filter]:
        """Return what to walk: a filter a state, in order."""
        if self._where.ids is not None:
            return [self._where]
        return [await self._ended_before(state) for state in self._where.states]

    async def _ended_before(self, state: State) -> Filter:
        """Return the filter for a state: of finished jobs, those that have finished until now."""
        where = self._where.within([state])
        if state not in TERMINAL:
            return where
        ask = FindAsk(queue=self._queue, state=state, newest=True, limit=1)
        page = await resend(partial(self._connection.driver.find, ask), TRIES)
        last = max((job.finished_at or 0 for job in page.jobs), default=None)
        if last is None:
            return where
        return replace(where, until=last if where.until is None else min(last, where.until))

    async def _total(self) -> int | None:
        if not self._where.counted:
            return None
        counts = await resend(partial(self._connection.driver.counts, self._queue), TRIES)
        total = sum(counts[state] for state in self._where.states)
        return total if self._options.limit is None else min(total, self._options.limit)

    async def _batches(
        self, walks: Sequence[Filter], born_by: int
    ) -> AsyncGenerator[list[tuple[JobRecord, Transition]]]:
        """Yield what is to be done in one round, a batch at a time."""
        driver, states = self._connection.driver, frozenset(self._where.states)
        for where in walks:
            async for page in pages(driver, self._queue, where, size=self._options.batch):
                batch = [
                    (job, change)
                    for job in page.jobs
                    if job.created_at <= born_by
                    and job.id not in self._met
                    and (change := self._verb.change(job, states)) is not None
                ]
                while batch:
                    part = batch[: self._left()]
                    yield part
                    batch = batch[len(part) :]

    async def _take(self, batch: Sequence[tuple[JobRecord, Transition]], total: int | None) -> None:
        """Change the jobs of one batch, count, and tell."""
        if self._options.pace is not None and not self._options.dry_run:
            await self._options.pace(len(batch))
        self._matched += len(batch)
        if not self._options.dry_run:
            await self._change(batch)
        if self._options.on_progress is not None:
            self._options.on_progress(self._matched, total)

    async def _change(self, batch: Sequence[tuple[JobRecord, Transition]]) -> None:
        replies = await asyncio.gather(
            *(self._connection.apply(change) for _, change in batch), return_exceptions=True
        )
        failure: BaseException | None = None
        for (job, _), reply in zip(batch, replies, strict=True):
            if isinstance(reply, ABOUT_THE_STORE) or not isinstance(reply, (Applied, StoreError)):
                failure = reply
            else:
                self._count(job, reply)
        if failure is not None:
            raise failure

    def _count(self, job: JobRecord, reply: Applied | StoreError) -> None:
        if self._verb.once:
            self._met.add(job.id)
        match reply:
            case StoreError():
                self._skipped["refused"] += 1
            case Applied(status=ApplyStatus.APPLIED | ApplyStatus.REPEATED):
                self._done += 1
            case Applied(status=ApplyStatus.REQUESTED):
                self._requested += 1
            case Applied(status=ApplyStatus.STALE, state=State() as state):
                self._skipped[state.value] += 1
            case Applied(status=status):
                self._skipped[status.value] += 1


def checked_limit(limit: object) -> int | None:
    """Return how many jobs a call may change at most.

    Raises:
        DeclarationError: it is no such number.
    """
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise DeclarationError(
            f"limit {brief(limit)} is not a number from 1. Leave it out for every job."
        )
    return limit
