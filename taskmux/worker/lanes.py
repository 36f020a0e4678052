"""Lanes: what a worker holds, and the local queue between fetching and running.

A fixed number of long-lived coroutines take held jobs from here. There is no task per job.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING

from taskmux.model.job import JobRecord, Ref
from taskmux.worker.held import Held

if TYPE_CHECKING:
    from taskmux.worker.station import Station

__all__ = ["Lanes", "Phase"]

NONE: Mapping[Ref, Held] = {}
QUICK = 0.05
"""Seconds: handlers that run for less on average are worth fetching ahead for."""
BURST = 100
"""At most so many jobs begin in one turn of the event loop. Between turns the outcomes of those
that never waited go to the store and the next jobs are asked for, while the others run."""


class Phase(IntEnum):
    """The life of a worker. It only goes on, never back."""

    SERVING = 0
    DRAINING = 1
    """Nothing more is begun that waits here; what runs may finish."""
    CUTTING = 2
    """Handlers are being stopped: one that has not begun yet must not begin any more."""
    ENDING = 3
    """The lanes themselves are cancelled, and nobody is waited for."""


class Lanes:
    """Held jobs, and who may run next.

    A job whose next crash would be its last runs alone: when it comes up, nobody starts beside
    it, so that nobody else pays for a poison message.
    """

    def __init__(self, concurrency: int, prefetch: int, unsettled: int = 2000) -> None:
        self.concurrency = concurrency
        self.prefetch = prefetch
        self.unsettled = unsettled
        self.held: set[Held] = set()
        self.running = 0
        self.open = 0
        """Lanes that there are; more than `concurrency` until the surplus ones have ended."""
        self.phase = Phase.SERVING
        self.serving = True
        """Whether what waits here may begin: the phase as each job asks for it, several times."""
        self.paused = False
        self.want = asyncio.Event()
        """Set when there may be room to fetch."""
        self._ready: deque[Held] = deque()
        self._behind: dict[Held, list[Held]] = {}
        """Jobs that were claimed again while a run under an earlier claim goes on here, by that."""
        self._lanes: deque[asyncio.Future[None]] = deque()
        self._waking = 0  # lanes that were called and have not gone on yet
        self._begun = 0
        self._mean_run = 1.0  # seconds; nothing is known yet, so the first ones count as slow
        self._alone: Held | None = None
        self._others_done = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def go_on_to(self, phase: Phase) -> None:
        """Enter a phase of the worker's life, if that has not come yet."""
        self.phase = max(self.phase, phase)
        self.serving = self.phase is Phase.SERVING

    @property
    def room(self) -> int:
        """How many more jobs may be claimed: none while too many outcomes wait to be stored.

        More than there are lanes only while handlers are quick: behind a slow one a job would
        wait here, though another worker might be idle.
        """
        if self._alone is not None or self.paused or not self.serving:
            return 0
        here = self.running + len(self._ready)
        if len(self.held) - here >= self.unsettled:
            return 0
        return self.concurrency + (self.prefetch if self._mean_run < QUICK else 0) - here

    @property
    def free(self) -> int:
        """How many lanes would start at once on a job that came now."""
        return max(0, self.concurrency - self.running - len(self._ready))

    def add(
        self,
        jobs: Iterable[JobRecord],
        station: Station,
        until: float,
        earlier: Mapping[Ref, Held] = NONE,
    ) -> None:
        """Take claimed jobs in; lanes start on them in order.

        Args:
            jobs: the records.
            station: where they were claimed.
            until: when their lease ends.
            earlier: runs that go on here, some perhaps of these jobs under an earlier claim. Such a
                job is held, and starts when that run has ended.
        """
        for job in jobs:
            held = Held(job, station, until)
            self.held.add(held)
            if earlier and (run := earlier.get(job.ref)) is not None:
                self._behind.setdefault(run, []).append(held)
            else:
                self._ready.append(held)
        self._wake()

    async def take(self) -> Held | None:
        """Return the next job to run, or None when the lanes are closed."""
        while not self._ready or self._alone is not None or self._begun >= BURST or self._surplus:
            if self._surplus:
                self.open -= 1
                return None
            await self._called()
        held = self._ready.popleft()
        self.running += 1
        self._idle.clear()
        self._begun += 1
        if self._begun == BURST:
            asyncio.get_running_loop().call_soon(self._next_turn)
        else:
            self._wake()
        return held

    @property
    def _surplus(self) -> bool:
        return not self.serving or self.open > self.concurrency

    def resize(self, concurrency: int) -> int:
        """Change how many handlers run at once; return how many lanes must be opened for it.

        Surplus lanes end when they have finished what they run.
        """
        self.concurrency = self.prefetch = concurrency
        more = max(0, concurrency - self.open)
        self.open += more
        self._wake()
        self.want.set()
        return more

    async def _called(self) -> None:
        """Wait until this lane is called."""
        call = asyncio.get_running_loop().create_future()
        self._lanes.append(call)
        try:
            await call
        except asyncio.CancelledError:
            if not call.cancelled():  # called and cancelled in one turn: another must come
                self._waking -= 1
                self._wake()
            raise
        self._waking -= 1

    def _next_turn(self) -> None:
        self._begun = 0
        self._wake()

    def seclude(self, held: Held) -> list[Held]:
        """Let nobody start beside this job; return those that wait here, to be given back."""
        self._alone = held
        return self.withdraw()

    def withdraw(self, wanted: Callable[[Held], bool] = lambda _: True) -> list[Held]:
        """Return those that wait here and are wanted, to be given back; all of them by default."""
        rest = [held for held in self._ready if wanted(held)]
        self._ready = deque(held for held in self._ready if not wanted(held))
        return rest

    async def others_finish(self, patience: float) -> None:
        """Wait until no other handler runs, but not longer than `patience` seconds."""
        if self.running > 1:
            self._others_done.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._others_done.wait()

    def done(self, held: Held) -> None:
        """A lane has finished running a job (its outcome may still be on the way)."""
        self.running -= 1
        self._mean_run += (held.ended - held.began - self._mean_run) / 8
        if self._behind and (behind := self._behind.pop(held, None)) is not None:
            self._ready.extendleft(one for one in behind if one.outcome is None)
            self._wake()
        if self.running == 0:
            self._idle.set()
        if self.running <= 1:
            self._others_done.set()
        if self._alone is held:
            self._alone = None
            self._wake()
        self.want.set()

    def forget(self, held: Held) -> None:
        """The outcome is stored, or the lease is lost: nothing is held any more."""
        self.held.discard(held)
        self.want.set()

    def drain(self) -> list[Held]:
        """Start nothing more from now on; return the jobs that were not started."""
        self.go_on_to(Phase.DRAINING)
        rest = self.withdraw()
        self._wake()
        self.want.set()
        return rest

    def running_jobs(self) -> list[Held]:
        """Return the jobs whose handlers run now. May be called in any thread."""
        return [held for held in tuple(self.held) if held.invocation is not None]

    async def idle(self) -> None:
        """Wait until no handler runs."""
        await self._idle.wait()

    def _wake(self) -> None:
        """Call lanes for what is ready, unless some are called already: as many as run now.

        Handlers that never wait are all run by the lane that was called first. Once they do
        wait, each turn of the event loop doubles the lanes at work.
        """
        count = min(len(self._ready), max(1, self.running)) if self._waking == 0 else 0
        if self._surplus:
            count = len(self._lanes)
        while count > 0 and self._lanes:
            call = self._lanes.popleft()
            if not call.done():  # else its lane was cancelled while it waited
                call.set_result(None)
                self._waking += 1
                count -= 1
