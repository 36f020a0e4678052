"""Apply: guarded transitions of stored jobs."""

from __future__ import annotations

from taskmux.driver import (
    Applied,
    ApplyStatus,
    JobRecord,
    Move,
    Transition,
    What,
    judge,
)
from taskmux.memory.dedup import Keys
from taskmux.memory.store import QueueStore, Stored

__all__ = ["Transitions"]


class Transitions(Keys):
    """How a transition goes. The driver holds the lock."""

    def _apply(self, one: Transition) -> Applied:
        queue = self.store.queues.get(one.ref.queue)
        stored = queue.jobs.get(one.ref.id) if queue is not None else None
        move = self._judge(one, None if stored is None else stored.job)
        if isinstance(move, Applied) or queue is None or stored is None:
            return move if isinstance(move, Applied) else Applied(ApplyStatus.GONE)
        if move.revived and self._key_taken(queue, stored.job):
            return Applied(ApplyStatus.CONFLICT, stored.job.state)
        if move.removes:
            self._remove(queue, stored, one.tells)
        else:
            self._move(queue, stored, one, move)
        return move.answer

    def _judge(self, one: Transition, job: JobRecord | None) -> Move | Applied:
        return judge(one, job)

    def _key_taken(self, queue: QueueStore, job: JobRecord) -> bool:
        owner = None if job.dedup is None else self._owner(queue, job.dedup.key)
        return owner is not None and owner.id != job.id

    def _remove(self, queue: QueueStore, stored: Stored, tells: bytes | None) -> None:
        key = stored.job.dedup
        owned = self._owns(queue, stored.job)
        queue.remove(stored)
        self.store.tell(queue, What.REMOVED, stored.job, tells)
        if owned and key is not None:
            self._free(queue, key.key)

    def _move(self, queue: QueueStore, stored: Stored, one: Transition, move: Move) -> None:
        now = self.store.clock()
        if move.ended:
            stored.retention = one.retention
        if move.place is not None:
            self.store.place(stored, move.place)
        group = stored.job.group
        if one.hold and move.answer.status is ApplyStatus.APPLIED:
            queue.lines.hold(group, now + one.hold, alone=one.hold_line)
        was = stored.job.state
        queue.write(stored, move.record(stored.job, now))
        if move.state is not was:
            self.store.tell(queue, What.STATE, stored.job, one.tells)
        self.store.announce(queue, stored)
        if move.left_active and queue.lines.made_room(group):
            self.store.wake(queue)
        if move.revived and not self._owns(queue, stored.job):
            self._own(queue, stored.job)
        elif move.ended:
            self._ended(queue, stored.job)
