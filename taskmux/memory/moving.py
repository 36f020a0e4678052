"""Moving: guarded transitions of stored jobs."""

from __future__ import annotations

from msgspec.structs import replace

from taskmux.driver import (
    TERMINAL,
    Applied,
    ApplyStatus,
    Guard,
    JobRecord,
    State,
    Transition,
)
from taskmux.memory.store import MemoryStore, QueueStore, Stored, given

__all__ = ["Transitions"]


class Transitions:
    """How a transition goes. The driver holds the lock."""

    store: MemoryStore

    def _apply(self, one: Transition) -> Applied:
        queue = self.store.queues.get(one.ref.queue)
        stored = queue.jobs.get(one.ref.id) if queue is not None else None
        if queue is None or stored is None:
            return Applied(ApplyStatus.GONE)
        job = stored.job
        if one.flag and job.state is State.ACTIVE:
            queue.write(stored, replace(job, cancel_requested=True))
            return Applied(ApplyStatus.REQUESTED, State.ACTIVE)
        if not self._holds(one.guard, job):
            return Applied(ApplyStatus.STALE, job.state)
        if one.remove:
            queue.leave(stored)
            del queue.jobs[job.id]
            return Applied(ApplyStatus.APPLIED)
        target = self._target(one, job)
        if self._key_taken(queue, job, target):
            return Applied(ApplyStatus.CONFLICT, job.state)
        self._move(queue, stored, one, target)
        return Applied(ApplyStatus.APPLIED, target)

    def _holds(self, guard: Guard, job: JobRecord) -> bool:
        if guard.fence is not None:
            return job.state is State.ACTIVE and job.fence == guard.fence
        return guard.states is not None and job.state in guard.states

    def _target(self, one: Transition, job: JobRecord) -> State:
        target = one.to or job.state
        leaves = job.state is State.ACTIVE and target is not State.ACTIVE
        if leaves and target not in TERMINAL and job.cancel_requested:
            return State.CANCELLED
        return target

    def _key_taken(self, queue: QueueStore, job: JobRecord, target: State) -> bool:
        if job.dedup is None or target in TERMINAL:
            return False
        return queue.dedup.get(job.dedup.key, job.id) != job.id

    def _move(self, queue: QueueStore, stored: Stored, one: Transition, target: State) -> None:
        now = self.store.clock()
        job = stored.job
        fields = given(one.changes)
        if one.notice is not None:
            fields["notice"] = one.notice
        if job.state is State.ACTIVE and target is not State.ACTIVE:
            fields.update(worker=None, lease_until=None, started=False)
        if job.state is State.BLOCKED and target is not State.BLOCKED:
            fields["cause"] = None
        if target in TERMINAL and target is not job.state:
            fields["finished_at"] = now
            stored.retention = one.retention
        elif target not in TERMINAL:
            fields["finished_at"] = None
        if target is State.DELAYED and one.to is State.DELAYED:
            fields["run_at"] = now + one.delay if one.run_at is None else one.run_at
        if target is State.WAITING and one.to is State.WAITING:
            self.store.place(stored, one.place)
        if one.hold:
            queue.lines.hold(job.group, now + one.hold, alone=one.hold_line)
        queue.write(stored, replace(job, state=target, **fields))
        self._announce(queue, stored)
        stopped = job.state is State.ACTIVE and target is not State.ACTIVE
        if stopped and queue.lines.made_room(job.group):
            self.store.wake(queue)

    def _announce(self, queue: QueueStore, stored: Stored) -> None:
        """Wake sleepers if this job may run now, or is the next one that becomes due."""
        state = stored.job.state
        if state is State.WAITING or (state is State.DELAYED and queue.first_delayed() is stored):
            self.store.wake(queue)
