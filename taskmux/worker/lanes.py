"""Lanes: what a worker holds, and the local queue between fetching and running.

A fixed number of long-lived coroutines take held jobs from here. There is no task per job.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from taskmux.context import Context
from taskmux.job import JobRecord
from taskmux.lifecycle import last_chance
from taskmux.messages import HeldLease
from taskmux.transition import Transition

__all__ = ["Held", "Lanes"]


class Held:
    """A job under this worker's lease, from its claim until its outcome is stored."""

    __slots__ = (
        "began",
        "context",
        "ended",
        "job",
        "lane",
        "link",
        "outcome",
        "started",
        "stop",
        "until",
    )

    def __init__(self, job: JobRecord, link: int, until: float) -> None:
        self.job = job
        self.link = link
        self.until = until
        """When the lease ends, by this process's monotonic clock; never later than in the store."""
        self.started = job.started
        self.began = self.ended = 0.0
        self.lane: asyncio.Task[None] | None = None
        """The lane that runs its handler now; cancelled to stop the handler."""
        self.stop: str | None = None
        """Why its handler is being stopped: `cancel`, `lost` or `drain`."""
        self.outcome: Transition | None = None
        """What was decided about it; from then on it only waits to be stored."""
        self.context: Context | None = None

    @property
    def lease(self) -> HeldLease:
        """The lease, as drivers know it."""
        return HeldLease(self.job.ref, self.job.fence)

    def interrupt(self, why: str) -> None:
        """Stop the handler if it runs. The first reason counts, but for a lost lease."""
        if why == "cancel" and self.context is not None:
            self.context.ask_to_cancel()
        if self.lane is None:
            return
        if self.stop is None:
            self.lane.cancel()
        if self.stop is None or why == "lost":
            self.stop = why


class Lanes:
    """Held jobs, and who may run next.

    A job whose next crash would be its last runs alone: when it comes up, the others finish
    first and none starts beside it, so that nobody else pays for a poison message.
    """

    def __init__(self, concurrency: int, prefetch: int) -> None:
        self.concurrency = concurrency
        self.prefetch = prefetch
        self.held: dict[tuple[str, str, int], Held] = {}
        self.running = 0
        self.closed = False
        self.cut = False
        """Handlers are being stopped: one that has not begun yet must not begin any more."""
        self.want = asyncio.Event()
        """Set when there is room to fetch."""
        self._ready: deque[Held] = deque()
        self._lanes: deque[asyncio.Future[None]] = deque()
        self._alone: Held | None = None
        self._claims = 0
        self._landed = asyncio.Event()
        self._landed.set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def free(self) -> int:
        """How many lanes would start a job at once."""
        if self._alone is not None:
            return 0
        return max(0, self.concurrency - self.running - len(self._ready))

    @property
    def room(self) -> int:
        """How many more jobs may be claimed."""
        if self._alone is not None or self.closed:
            return 0
        return self.concurrency + self.prefetch - self.running - len(self._ready)

    def add(self, jobs: Iterable[JobRecord], link: int, until: float) -> None:
        """Take claimed jobs in; lanes start on them in order."""
        for job in jobs:
            held = Held(job, link, until)
            self.held[job.queue, job.id, job.fence] = held
            self._ready.append(held)
        self._wake()

    async def take(self) -> Held | None:
        """Return the next job to run, or None when the lanes are closed."""
        while not self._ready or self._alone is not None or self.closed:
            if self.closed:
                return None
            turn = asyncio.get_running_loop().create_future()
            self._lanes.append(turn)
            await turn
        held = self._ready.popleft()
        if last_chance(held.job) and not await self._alone_with(held):
            return None
        self.running += 1
        self._idle.clear()
        if self.room > 0:
            self.want.set()
        return held

    async def _alone_with(self, held: Held) -> bool:
        """Let the others finish; False if the lanes closed meanwhile and it must be given back."""
        self._alone = held
        await self._idle.wait()
        return not self.closed

    @contextmanager
    def claiming(self) -> Iterator[None]:
        """A claim is on the wire: some of its jobs may be marked started already."""
        self._claims += 1
        self._landed.clear()
        try:
            yield
        finally:
            self._claims -= 1
            if self._claims == 0:
                self._landed.set()

    async def seclude(self) -> list[Held]:
        """Return all jobs that wait here, to be given back: one that runs alone comes next.

        The store takes some of them for started. Should this process die now, the crash would
        count against them, though they never ran.
        """
        await self._landed.wait()
        rest = list(self._ready)
        self._ready.clear()
        return rest

    def done(self, held: Held) -> None:
        """A lane has finished running a job (its outcome may still be on the way)."""
        self.running -= 1
        if self.running == 0:
            self._idle.set()
        if self._alone is held:
            self._alone = None
            self._wake()
        self.want.set()

    def forget(self, held: Held) -> None:
        """The outcome is stored, or the lease is lost: nothing is held any more."""
        self.held.pop((held.job.queue, held.job.id, held.job.fence), None)

    def drain(self) -> list[Held]:
        """Close: start nothing more; return the jobs that were not started."""
        self.closed = True
        rest = list(self._ready)
        self._ready.clear()
        self._wake()
        self.want.set()
        return rest

    def running_jobs(self) -> list[Held]:
        """Return the jobs whose handlers run now."""
        return [held for held in self.held.values() if held.lane is not None]

    async def idle(self) -> None:
        """Wait until no handler runs."""
        await self._idle.wait()

    def _wake(self) -> None:
        count = len(self._lanes) if self.closed else min(len(self._lanes), len(self._ready))
        for _ in range(count):
            turn = self._lanes.popleft()
            if not turn.done():
                turn.set_result(None)


def monotonic() -> float:
    """Return the process's monotonic clock in seconds."""
    return time.monotonic()
