"""Push: which jobs are created, and how they begin. The driver holds the lock."""

from __future__ import annotations

from msgspec.structs import replace

from taskmux.driver import JobRecord, NewJob, Place, Pushed, PushStatus, State, What
from taskmux.memory.store import MemoryStore, QueueStore, Stored

__all__ = ["Pushes"]


class Pushes:
    """How a job is created. The driver holds the lock."""

    store: MemoryStore

    def _push(self, new: NewJob) -> Pushed:
        job, queue = new.job, self.store.queue(new.job.queue)
        if queue.settings.moved_to is not None:
            return Pushed(PushStatus.MOVED, queue.settings.moved_to)
        if job.id in queue.jobs:
            return Pushed(PushStatus.DUPLICATE, job.id)
        if job.dedup is not None and job.dedup.key in queue.dedup:
            return Pushed(PushStatus.DEDUPLICATED, queue.dedup[job.dedup.key])
        size = queue.settings.size(job.group) if job.state is State.WAITING else None
        if size is not None and queue.lines.waiting[job.group] >= size:
            return Pushed(PushStatus.FULL, job.id)
        self.store.created += 1
        stored = Stored(self._begun(queue, new), created=self.store.created)
        queue.jobs[job.id] = stored
        if job.state is State.WAITING:
            self.store.place(stored, Place.FRONT if job.lifo else Place.BACK)
        queue.enter(stored)
        self.store.tell(queue, What.ADDED, stored.job)
        self.store.announce(queue, stored)
        return Pushed(PushStatus.CREATED, job.id)

    def _begun(self, queue: QueueStore, new: NewJob) -> JobRecord:
        """Return the record as it is stored first (P1)."""
        now, run_at = self.store.clock(), new.job.run_at
        if new.job.state is State.DELAYED and run_at is None:
            run_at = now + new.delay
        fence = max(now, queue.fence_of_removed + 1)
        return replace(new.job, created_at=now, fence=fence, run_at=run_at)
