"""Push: which jobs are created, and how they begin. The driver holds the lock."""

from __future__ import annotations

from msgspec.structs import replace

from taskmux.driver import BlockedCause, JobRecord, NewJob, Place, Pushed, PushStatus, State, What
from taskmux.memory.dedup import Keys
from taskmux.memory.store import QueueStore, Stored

__all__ = ["Pushes"]


class Pushes(Keys):
    """How a job is created. The driver holds the lock."""

    def _push(self, new: NewJob) -> Pushed:
        job, queue = new.job, self.store.queue(new.job.queue)
        if queue.settings.moved_to is not None:
            return Pushed(PushStatus.MOVED, queue.settings.moved_to)
        if job.id in queue.jobs:
            return Pushed(PushStatus.DUPLICATE, job.id)
        if job.dedup is not None:
            owner = self._owner(queue, job.dedup.key)
            if owner is not None:
                answer = self._met(queue, new, job.dedup.key, owner)
                if answer is None:
                    self._create(queue, self._as_successor(new))
                    owner.successor = job.id
                return answer or Pushed(PushStatus.CREATED, job.id)
        size = queue.settings.size(job.group) if job.state is State.WAITING else None
        if size is not None and queue.lines.waiting[job.group] >= size:
            return Pushed(PushStatus.FULL, job.id)
        self._create(queue, new)
        self._own(queue, job)
        return Pushed(PushStatus.CREATED, job.id)

    def _as_successor(self, new: NewJob) -> NewJob:
        run_at = self._due(new) if new.job.state is State.DELAYED else new.job.run_at
        job = replace(new.job, state=State.BLOCKED, cause=BlockedCause.DEDUP, run_at=run_at)
        return NewJob(job)

    def _create(self, queue: QueueStore, new: NewJob) -> None:
        job = new.job
        self.store.created += 1
        stored = Stored(self._begun(queue, new), created=self.store.created)
        queue.jobs[job.id] = stored
        if job.state is State.WAITING:
            self.store.place(stored, Place.FRONT if job.lifo else Place.BACK)
        queue.enter(stored)
        self.store.tell(queue, What.ADDED, stored.job)
        self.store.announce(queue, stored)

    def _begun(self, queue: QueueStore, new: NewJob) -> JobRecord:
        """Return the record as it is stored first (P1)."""
        now, run_at = self.store.clock(), new.job.run_at
        if new.job.state is State.DELAYED and run_at is None:
            run_at = now + new.delay
        fence = max(now, queue.fence_of_removed + 1)
        return replace(new.job, created_at=now, fence=fence, run_at=run_at)
