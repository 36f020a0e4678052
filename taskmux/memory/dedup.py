"""Deduplication keys: who owns one, who succeeds the owner. The driver holds the lock."""

from __future__ import annotations

from msgspec.structs import replace

from taskmux.driver import (
    BlockedCause,
    JobRecord,
    Meeting,
    NewJob,
    Place,
    Pushed,
    PushStatus,
    State,
    What,
    meeting,
    replaced,
    succeeding,
)
from taskmux.memory.store import MemoryStore, Owner, QueueStore, Stored

__all__ = ["Keys"]


class Keys:
    """How keys go from job to job. The driver holds the lock."""

    store: MemoryStore

    def _owner(self, queue: QueueStore, key: str) -> Owner | None:
        """Return who owns a key now; one whose time is over makes way first."""
        owner = queue.dedup.get(key)
        if owner is None or owner.until is None or owner.until > self.store.clock():
            return owner
        self._free(queue, key)
        return queue.dedup.get(key)

    def _own(self, queue: QueueStore, job: JobRecord) -> None:
        """Let a job own its key from now on."""
        if job.dedup is not None:
            ttl = job.dedup.ttl
            until = None if ttl is None else self.store.clock() + ttl
            queue.dedup[job.dedup.key] = Owner(job.id, until)

    def _owns(self, queue: QueueStore, job: JobRecord) -> bool:
        if job.dedup is None:
            return False
        owner = self._owner(queue, job.dedup.key)
        return owner is not None and owner.id == job.id

    def _free(self, queue: QueueStore, key: str) -> None:
        """Let a key's owner own it no more; a successor takes over (P11)."""
        successor = self._successor(queue, key, queue.dedup.pop(key))
        if successor is None:
            return
        job = successor.job
        self._own(queue, job)
        state = succeeding(job, self.store.clock())
        if state is State.WAITING:
            self.store.place(successor, Place.BACK)
        queue.write(successor, replace(job, state=state, cause=None))
        self.store.tell(queue, What.STATE, successor.job)
        self.store.announce(queue, successor)

    def _ended(self, queue: QueueStore, job: JobRecord) -> None:
        """Let a finished job's key go, unless it is kept for a time and nobody waits for it."""
        if job.dedup is None or not self._owns(queue, job):
            return
        owner = queue.dedup[job.dedup.key]
        if owner.until is None or self._successor(queue, job.dedup.key, owner) is not None:
            self._free(queue, job.dedup.key)

    def _successor(self, queue: QueueStore, key: str, owner: Owner) -> Stored | None:
        stored = None if owner.successor is None else queue.jobs.get(owner.successor)
        if stored is None or stored.job.dedup is None or stored.job.dedup.key != key:
            return None
        return stored if stored.job.cause is BlockedCause.DEDUP else None

    def _met(self, queue: QueueStore, new: NewJob, key: str, owner: Owner) -> Pushed | None:
        """Answer a new job whose key has an owner; None: it is stored as the successor."""
        stored = queue.jobs.get(owner.id)
        successor = self._successor(queue, key, owner)
        state = None if stored is None else stored.job.state
        match meeting(new.job, state, followed=successor is not None):
            case Meeting.REPLACES_SUCCESSOR if successor is not None:
                self._replace(queue, successor, new)
                return Pushed(PushStatus.REPLACED, successor.job.id)
            case Meeting.REPLACES_OWNER if stored is not None:
                self._replace(queue, stored, new)
                self._own(queue, stored.job)
                queue.dedup[key].successor = owner.successor
                return Pushed(PushStatus.REPLACED, owner.id)
            case Meeting.SUCCEEDS:
                return None
            case _:
                return Pushed(PushStatus.DEDUPLICATED, owner.id)

    def _replace(self, queue: QueueStore, stored: Stored, new: NewJob) -> None:
        was = stored.job.state
        queue.write(stored, replaced(stored.job, new.job, self._due(new)))
        if stored.job.state is not was:
            self.store.tell(queue, What.STATE, stored.job)
        self.store.announce(queue, stored)

    def _due(self, new: NewJob) -> int:
        return self.store.clock() + new.delay if new.job.run_at is None else new.job.run_at

    def _sweep(self, queue: QueueStore) -> None:
        """Let go what is owned for too long."""
        for key in tuple(queue.dedup):
            self._owner(queue, key)
