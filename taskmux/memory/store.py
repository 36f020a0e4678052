"""What the memory driver stores, and the order it keeps. The driver holds the lock."""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from taskmux.driver import (
    EVENT_DATA,
    Command,
    JobRecord,
    Keep,
    Place,
    QueueSettings,
    State,
    StoreEvent,
    What,
    WorkerInfo,
)
from taskmux.memory.lines import Line, Lines, Spot

__all__ = ["MemoryStore", "Owner", "QueueStore", "Stored", "Waiter"]


def epoch_ms() -> int:
    """Return the machine's clock in milliseconds."""
    return time.time_ns() // 1_000_000


Waiter = tuple[asyncio.AbstractEventLoop, asyncio.Event]
"""Somebody who sleeps, on whichever loop."""


class Stored(msgspec.Struct):
    """A record and what the store keeps beside it."""

    job: JobRecord
    sequence: int = 0
    """Its place among the waiting jobs of its priority, kept while it is elsewhere."""
    created: int = 0
    """Counts the creations of the store: breaks ties of time."""
    retention: Keep = Keep()


class Owner(msgspec.Struct):
    """Who owns a deduplication key, until when (None: until it is finished), and who is next."""

    id: str
    until: int | None = None
    successor: str | None = None


class QueueStore:
    """One queue: its records, its lines, its timetable and its leases.

    `timetable` is a heap with stale entries: an entry counts only while it says what its record
    says, and is dropped when it comes up otherwise. So are the lines' heaps.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Stored] = {}
        self.lines = Lines(self._active, self._waits_at)
        self.timetable: list[tuple[int, int, str]] = []
        self.leases: set[str] = set()
        self.dedup: dict[str, Owner] = {}
        self.settings = QueueSettings()
        self.counts = dict.fromkeys(State, 0)
        self.version = 0
        """Rises with everything that may end a wait."""
        self.events: deque[StoreEvent] = deque()
        self.told = 0
        """How many events there were; an event's cursor is its number."""
        self.followers: set[Waiter] = set()
        self.fence_of_removed = 0
        """The highest fence of all jobs that were removed: new ones start above it (P1)."""

    def enter(self, stored: Stored) -> None:
        """Index a record under the state that it has now."""
        job = stored.job
        self.counts[job.state] += 1
        if job.state is State.WAITING:
            self.lines.enter(job.group, (job.priority, stored.sequence, job.id))
        elif job.state is State.DELAYED:
            heapq.heappush(self.timetable, (job.run_at or 0, stored.created, job.id))
        elif job.state is State.ACTIVE:
            self.leases.add(job.id)

    def leave(self, stored: Stored) -> None:
        """Undo `enter`; heap entries go stale by themselves."""
        job = stored.job
        self._leave_all_but_line(job)
        if job.state is State.WAITING:
            self.lines.leave(job.group)

    def remove(self, stored: Stored) -> None:
        """Forget a job, but for its fence."""
        self.leave(stored)
        del self.jobs[stored.job.id]
        self.fence_of_removed = max(self.fence_of_removed, stored.job.fence)

    def forget_events(self) -> None:
        """Keep none. The number left out is a gap to whoever comes later."""
        self.events.clear()
        self.told += 1

    def _leave_all_but_line(self, job: JobRecord) -> None:
        self.counts[job.state] -= 1
        if job.state is State.ACTIVE:
            self.leases.discard(job.id)

    def write(self, stored: Stored, job: JobRecord) -> None:
        """Replace a record and its index entries; a line that it stays in keeps its turn."""
        before = stored.job
        self._leave_all_but_line(before)
        stored.job = job
        self.enter(stored)
        if before.state is State.WAITING:
            self.lines.leave(before.group)

    def _active(self, line: Line) -> int:
        return sum(self.jobs[job_id].job.group == line for job_id in self.leases)

    def _waits_at(self, spot: Spot) -> bool:
        priority, sequence, job_id = spot
        stored = self.jobs.get(job_id)
        return (
            stored is not None
            and stored.job.state is State.WAITING
            and (stored.job.priority, stored.sequence) == (priority, sequence)
        )

    def first_delayed(self) -> Stored | None:
        """Return the delayed job that is due first, dropping stale entries."""
        while self.timetable:
            run_at, created, job_id = self.timetable[0]
            stored = self.jobs.get(job_id)
            if (
                stored is not None
                and stored.job.state is State.DELAYED
                and (stored.job.run_at, stored.created) == (run_at, created)
            ):
                return stored
            heapq.heappop(self.timetable)
        return None


class MemoryStore:
    """What all forks of a memory driver share."""

    def __init__(self, clock: Callable[[], int] = epoch_ms) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.queues: dict[str, QueueStore] = {}
        self.workers: dict[str, tuple[int, WorkerInfo]] = {}
        self.commands: dict[str, list[Command]] = {}
        self.memory: dict[tuple[str, str], tuple[int, Any]] = {}
        self.sequence = 0
        self.created = 0
        self.waiters: set[Waiter] = set()

    def queue(self, name: str) -> QueueStore:
        """Return the queue's store, made at first use."""
        return self.queues.setdefault(name, QueueStore())

    def place(self, stored: Stored, place: Place) -> None:
        """Give a job that becomes waiting its sequence."""
        if place is Place.KEEP and stored.sequence:
            return
        self.sequence += 1
        stored.sequence = -self.sequence if place is Place.FRONT else self.sequence

    def tell(
        self, queue: QueueStore, what: What, job: JobRecord | None = None, data: bytes | None = None
    ) -> None:
        """Leave an event of a job, or of the queue, and wake those who follow."""
        kept = queue.settings.events
        if not kept:
            return
        queue.told += 1
        state = job.state if job is not None and what in (What.ADDED, What.STATE) else None
        if data is not None and len(data) > EVENT_DATA:
            data = None
        job_id = "" if job is None else job.id
        event = StoreEvent(str(queue.told), what, job_id, self.clock(), state, data)
        queue.events.append(event)
        while len(queue.events) > kept:
            queue.events.popleft()
        _rouse(queue.followers)
        queue.followers.clear()

    def announce(self, queue: QueueStore, stored: Stored) -> None:
        """Wake sleepers if this job may run now, or is the next one that becomes due."""
        state = stored.job.state
        if state is State.WAITING or (state is State.DELAYED and queue.first_delayed() is stored):
            self.wake(queue)

    def wake(self, queue: QueueStore) -> None:
        """Tell every waiter, on whichever loop, that work may be there."""
        queue.version += 1
        _rouse(self.waiters)


def _rouse(waiters: set[Waiter]) -> None:
    for loop, event in tuple(waiters):
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:  # that loop is closed: nobody waits there
            waiters.discard((loop, event))
