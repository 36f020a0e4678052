"""A connection: one driver on one event loop, and what its users share of it.

That is group commits, and what is known of the queues' settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from taskmux.api.batch import Ops, Replies, resend
from taskmux.api.begin import begin
from taskmux.api.following import Following
from taskmux.api.reconcile import applied_before, pushed_before, read_each
from taskmux.driver import (
    Applied,
    Driver,
    Lines,
    NewJob,
    Op,
    Presence,
    Pushed,
    Transactions,
    require,
)
from taskmux.model.errors import JobConflict
from taskmux.model.job import JobRecord, Ref
from taskmux.model.queue import QueueSettings
from taskmux.model.transition import Transition
from taskmux.model.workers import WorkerInfo
from taskmux.policy.explain import Explanation, explain

__all__ = ["Connection", "change_settings"]

FRESH = 2.0
"""Seconds that a producer goes by what it knows of a queue's settings."""

TRIES = 20


async def change_settings(
    driver: Driver, queue: str, change: Callable[[QueueSettings], QueueSettings]
) -> QueueSettings:
    """Change a queue's stored settings, however many do so at once; return them.

    Raises:
        JobConflict: others changed them all the time.
    """
    for _ in range(TRIES):
        settings = await driver.settings(queue)
        wanted = change(settings)
        if wanted == settings or await driver.put_settings(queue, wanted):
            return wanted
    raise JobConflict(
        f"The settings of queue {queue!r} are being changed by others all the time. Try again."
    )


READS = 3
"""How often a read is asked for again whose task somebody has cancelled."""


class Connection:
    """What producers, handles and queues share: batched `push`, `apply` and `get`."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._pushes: Replies[NewJob, Pushed] = Replies(
            driver.push, size=_size, reconcile=partial(pushed_before, driver)
        )
        self._actions: Replies[Transition, Applied] = Replies(
            driver.apply, reconcile=partial(applied_before, driver)
        )
        self._bulk = asyncio.Lock()
        self._bulk_ops = Ops()
        self._reads: Replies[Ref, JobRecord | None] = Replies(self._get)
        self._has_lines = isinstance(driver, Lines)
        self.following = Following(driver)
        self._known: dict[str, tuple[float, asyncio.Future[QueueSettings]]] = {}

    async def open(self) -> None:
        """Open the driver."""
        await self.driver.open()

    async def close(self) -> None:
        """Let what is under way finish, then close the driver."""
        await self.following.close()
        await self._pushes.close()
        await self._actions.close()
        await self._reads.close()
        await self.driver.close()

    async def push(self, new: NewJob, deadline: float = math.inf) -> Pushed:
        """Create one job, in one batch with others of this moment.

        Raises:
            UnsupportedFeature: it has a group, and the store has no lines.
            TimeoutError: there was no answer by `deadline`, by the event loop's clock.
        """
        self._check(new)
        return await self._pushes.ask(new, deadline)

    async def push_many(self, news: Sequence[NewJob], session: Any = None) -> Sequence[Pushed]:
        """Create a batch of jobs in one operation.

        Args:
            news: the jobs.
            session: a transaction of the application's own; they exist once that commits.

        Raises:
            UnsupportedFeature: one has a group, and the store has no lines; or a session is given,
                and it has no transactions.
        """
        if not self._has_lines:
            for new in news:
                self._check(new)
        if session is not None:
            return await self._push_within(session, news)
        async with self._bulk:  # an origin has one operation in flight
            op = self._bulk_ops.next()
            return await resend(lambda: self.driver.push(op, news), tries=3)

    async def _push_within(self, session: Any, news: Sequence[NewJob]) -> Sequence[Pushed]:
        require(self.driver, "transactions", feature="session=")
        return await cast("Transactions", self.driver).push_within(session, news)

    def _check(self, new: NewJob) -> None:
        if new.job.group is not None and not self._has_lines:
            feature = "group=" if new.job.group[0] != "@" else f"A limit of task {new.job.task!r}"
            require(self.driver, "lines", feature=feature)

    def known_settings(self, queue: str) -> QueueSettings | None:
        """Return a queue's settings if they were read within the last two seconds."""
        known = self._known.get(queue)
        if known is None or known[0] <= time.monotonic() or not known[1].done():
            return None
        return None if known[1].cancelled() or known[1].exception() else known[1].result()

    async def settings(self, queue: str) -> QueueSettings:
        """Return a queue's settings as they were within the last two seconds."""
        known = self._known.get(queue)
        if known is None or known[0] <= time.monotonic():
            reading = begin(resend(lambda: self.driver.settings(queue), tries=3))
            known = self._known[queue] = (time.monotonic() + FRESH, reading)
            reading.add_done_callback(partial(self._forget_failed, queue))
        return await asyncio.shield(known[1])

    def _forget_failed(self, queue: str, reading: asyncio.Future[QueueSettings]) -> None:
        """Let the next caller ask again if this reading failed."""
        failed = reading.cancelled() or reading.exception() is not None
        if failed and self._known.get(queue, (0, None))[1] is reading:
            del self._known[queue]

    async def change_settings(
        self, queue: str, change: Callable[[QueueSettings], QueueSettings]
    ) -> QueueSettings:
        """Change a queue's stored settings; see the function of this name."""
        settings = await change_settings(self.driver, queue, change)
        self._known.pop(queue, None)
        return settings

    async def explain(self, ref: Ref) -> Explanation | None:
        """Say why a job does not run; None if there is no such job."""
        job = await self.get(ref)
        if job is None:
            return None
        driver = self.driver
        settings = await driver.settings(ref.queue)
        standing = await driver.standing(ref) if isinstance(driver, Lines) else None
        workers = await driver.workers() if isinstance(driver, Presence) else None
        return explain(job, settings, standing, workers, _store_time(workers))

    async def apply(self, one: Transition) -> Applied:
        """Apply one transition, in one batch with others of this moment."""
        return await self._actions.ask(one)

    async def get(self, ref: Ref) -> JobRecord | None:
        """Read one record, in one batch with others of this moment."""
        for _ in range(READS):
            with contextlib.suppress(asyncio.CancelledError):
                return await self._reads.ask(ref)
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise asyncio.CancelledError
            # Somebody has cancelled the task that reads for all, as a handler can: ask again.
        return await self._reads.ask(ref)

    async def _get(
        self, _op: Op, refs: Sequence[Ref]
    ) -> Sequence[JobRecord | BaseException | None]:
        return await read_each(self.driver, refs)


BEAT_COUNTS_MS = 15_000
"""How long a heartbeat counts, so how old the last one of a live worker may be."""


def _store_time(workers: Sequence[WorkerInfo] | None) -> int:
    """Return the store's time in epoch milliseconds, as well as it can be known.

    No verb tells it without a change to the store. The heartbeats of live workers bound it: the
    store stamped the last one, not long ago. This machine's clock is taken within those bounds, so
    a wrong one cannot tell of a lapsed lease or a due job that is not; without workers, as it is.
    """
    here = time.time_ns() // 1_000_000
    beat = max((worker.seen_at for worker in workers or ()), default=0)
    return min(max(here, beat), beat + BEAT_COUNTS_MS) if beat else here


def _size(new: NewJob) -> int:
    """Return about how many bytes a job takes; the rest of it is small."""
    return len(new.job.payload)
