"""A station: one store that a worker serves, and all that the worker has there."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable, Sequence

from taskmux.api.batch import Replies, resend
from taskmux.config import Limits
from taskmux.driver import Applied, ApplyStatus, Driver, LeaseStatus, Note, Op, Presence
from taskmux.model import transition
from taskmux.model.job import State
from taskmux.model.transition import Transition
from taskmux.model.workers import Command, WorkerInfo
from taskmux.worker.beat import Heart
from taskmux.worker.clock import monotonic, now_ms
from taskmux.worker.duties import Crew, repeat
from taskmux.worker.fetch import Fetcher
from taskmux.worker.held import Held
from taskmux.worker.lanes import Lanes
from taskmux.worker.options import WorkerOptions
from taskmux.worker.outage import WAITED_OUT, Outage
from taskmux.worker.prune import Pruner
from taskmux.worker.recover import Recoverer
from taskmux.worker.refusal import Substitutes
from taskmux.worker.renew import extend
from taskmux.worker.report import Report
from taskmux.worker.settle import Settler
from taskmux.worker.strikes import Strikes

__all__ = ["Station"]

BEAT_EVERY = 1.0
PRUNE_EVERY = 60.0
LIFT_EVERY = 5.0
DEFAULT_LIMITS = Limits()

# Looked up once: each job needs them.
_COMPLETED = State.COMPLETED
_REFUSED = frozenset({ApplyStatus.STALE, ApplyStatus.GONE})


class Station:
    """One store, some of the worker's queues in it, and the duties there.

    Every held job points to the one that it came from.

    Args:
        driver: the store; the worker owns it.
        queues: the worker's queues that live in it.
        lanes: where its jobs go.
        options: the worker's settings.
        report: told what became of runs.
        limits: sizes of what may be stored.
    """

    def __init__(
        self,
        driver: Driver,
        queues: tuple[str, ...],
        lanes: Lanes,
        options: WorkerOptions,
        report: Report,
        *,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.driver = driver
        self.queues = queues
        self.outage = Outage(driver.url)
        self.settler = Settler(driver, self._stored, self.outage, Substitutes(options.name, limits))
        self.notes: Replies[Note, Applied] = Replies(self._annotate, size=_size)
        self._lanes = lanes
        self._options = options
        self._report = report
        self.strikes = Strikes(driver, queues)
        self._clock_ahead = 0.0
        self._fetcher = Fetcher(self, lanes, options)
        self._fetching = Crew()
        self._heart: Heart | None = None

    # -- its life -----------------------------------------------------------------------------

    def begin(self, duties: Crew, tasks: tuple[str, ...], obey: Callable[[Command], None]) -> None:
        """Fetch, and do the duties.

        Args:
            duties: where the duties' tasks go.
            tasks: the names of the tasks that the worker knows.
            obey: does what somebody tells the worker to do.
        """
        recoverer = Recoverer(self, self._lanes, self._options, self._report)
        pruner = Pruner(self.driver, self.queues)
        sweep_every = min(max(self._options.lease_ms / 2000, 0.1), 5.0)
        self._fetching.keep(self._fetcher.run)
        duties.keep(lambda: repeat("recovery", recoverer.sweep, sweep_every, self.outage))
        duties.keep(lambda: repeat("pruning", pruner.sweep, PRUNE_EVERY, self.outage))
        duties.keep(lambda: repeat("lifting strikes", self.strikes.sweep, LIFT_EVERY, self.outage))
        if isinstance(self.driver, Presence):
            heart = Heart(self.driver, self, self._lanes, self._info(tasks), obey=obey)
            self._heart = heart
            duties.keep(lambda: repeat("the heartbeat", heart.beat, BEAT_EVERY, self.outage))

    def _info(self, tasks: tuple[str, ...]) -> WorkerInfo:
        return WorkerInfo(
            id=self._options.name,
            host=platform.node()[:255] or "unknown",
            pid=os.getpid(),
            queues=self.queues,
            tasks=tasks,
            concurrency=self._options.concurrency,
            started_at=now_ms(),
        )

    def stop_fetching(self, then: Callable[[], None]) -> Sequence[asyncio.Task[None]]:
        """Fetch no more; return what still does, and call `then` when that is done.

        A claim on the wire is let through: its jobs would be stranded otherwise.
        """
        self._fetcher.stop()
        fetching = tuple(self._fetching.tasks)
        for task in fetching:
            task.add_done_callback(lambda _: then())
        return fetching

    async def end(self) -> None:
        """End what still fetches."""
        await self._fetching.end()

    async def say_goodbye(self) -> None:
        """Tell the store that this worker is gone."""
        if self._heart is not None:
            await self._heart.last()

    # -- its clock ----------------------------------------------------------------------------

    def read_clock(self, now: int) -> None:
        """Take note of the store's time: a claim just told it."""
        self._clock_ahead = now - monotonic() * 1000

    def store_now(self) -> int:
        """Return the store's time in epoch milliseconds.

        It is behind by as long as the last claim's answer was under way, so nothing expires early.
        """
        return int(monotonic() * 1000 + self._clock_ahead)

    # -- its jobs -----------------------------------------------------------------------------

    def give_back(self, held: Held) -> None:
        """Give a job back that was not begun."""
        self.settler.settle(held, transition.release(held.job))

    def starts_at_once(self, held: Held) -> bool:
        """Say whether a run may begin without asking the store, which is told of it later.

        So may the first delivery of a job: one uncounted crash does no harm.
        """
        job = held.job
        if not held.started:
            if job.fence != job.created_at + 1 or job.policy.max_crashes <= 1:
                return False
            self.settler.mark_started(held)
        return held.until > monotonic()

    async def may_start(self, held: Held) -> bool:
        """Say whether a run may begin: the store has heard of it, and the lease holds."""
        if not held.started and not await self.settler.confirm_started(held):
            return False
        return held.until > monotonic() or await self._still_holds(held)

    async def _still_holds(self, held: Held) -> bool:
        """Renew a lease that has lapsed by this process's clock; False if it is lost.

        A process that was stopped or swapped out wakes up with jobs that others may have run.
        """
        lease_ms = self._options.lease_ms
        while held.until <= monotonic():
            (status,) = await resend(
                lambda: extend(self.driver, [held], lease_ms), None, again=WAITED_OUT
            )
            if status is LeaseStatus.LOST:
                return False
        return True

    async def _annotate(self, _op: Op, notes: Sequence[Note]) -> Sequence[Applied]:
        return await self.driver.annotate(notes)

    def _stored(self, held: Held, what: Transition, applied: Applied) -> None:
        self._lanes.forget(held)
        if applied.status in _REFUSED:
            self._report.refused(held.job)
        elif what.to is not _COMPLETED or self._report.on_completion:
            self._report.settled(held.job, what, applied, max(0.0, held.ended - held.began))


def _size(note: Note) -> int:
    """Return about how many bytes a note carries."""
    steps = sum(map(len, note.steps.values())) if note.steps else 0
    return len(note.progress or b"") + steps + len(note.log or "")
