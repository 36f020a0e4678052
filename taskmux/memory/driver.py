"""The memory driver: the interface's readable reference. Jobs live as long as the process.

`memory://` is a store of its own; `memory://name` is shared by everybody in the process who says
the same name. The store is one object behind a lock, so instances on several event loops (and
the lease renewal thread) see one truth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Self, TypeVar

from msgspec.structs import replace

from taskmux.driver import (
    PROMOTE_LIMIT,
    TERMINAL,
    Applied,
    ApplyStatus,
    Beat,
    BeatReply,
    ClaimAsk,
    Claimed,
    Driver,
    Extended,
    FindAsk,
    Guard,
    HeldLease,
    JobRecord,
    LeaseStatus,
    NewJob,
    Note,
    Op,
    Page,
    Place,
    PruneAsk,
    Pushed,
    PushStatus,
    QueueSettings,
    ReclaimAsk,
    Ref,
    State,
    Transition,
    WorkerInfo,
    check_options,
    hookimpl,
    split_url,
)
from taskmux.memory.store import MemoryStore, QueueStore, Stored, finished, given, order, past

__all__ = ["MemoryDriver", "taskmux_driver"]

Reply = TypeVar("Reply")


class MemoryDriver(Driver):
    """The reference driver: every contract in its plainest form."""

    def __init__(self, url: str = "memory://", store: MemoryStore | None = None) -> None:
        self._url = url
        self.store = store or MemoryStore()
        self._seen: dict[str, int] = {}

    @property
    def url(self) -> str:
        """The store's URL."""
        return self._url

    async def open(self) -> None:
        """There is nothing to connect to."""

    async def close(self) -> None:
        """There is nothing to let go of."""

    def fork(self) -> Self:
        """Return another instance on the same store."""
        return type(self)(self._url, self.store)

    # -- push ---------------------------------------------------------------------------------

    async def push(self, op: Op, jobs: Sequence[NewJob]) -> Sequence[Pushed]:
        """See `Driver.push`."""
        with self.store.lock:
            return self._once("push", op, lambda: [self._push(new) for new in jobs])

    def _push(self, new: NewJob) -> Pushed:
        job = new.job
        queue = self.store.queue(job.queue)
        if queue.settings.moved_to is not None:
            return Pushed(PushStatus.MOVED, queue.settings.moved_to)
        if job.id in queue.jobs:
            return Pushed(PushStatus.DUPLICATE, job.id)
        if job.dedup is not None and job.dedup.key in queue.dedup:
            return Pushed(PushStatus.DEDUPLICATED, queue.dedup[job.dedup.key])
        now = self.store.clock()
        run_at = job.run_at
        if job.state is State.DELAYED and run_at is None:
            run_at = now + new.delay
        self.store.created += 1
        stored = Stored(
            replace(job, created_at=now, fence=now, run_at=run_at), created=self.store.created
        )
        queue.jobs[job.id] = stored
        if job.state is State.WAITING:
            self.store.place(stored, Place.FRONT if job.lifo else Place.BACK)
        queue.enter(stored)
        self._announce(queue, stored)
        return Pushed(PushStatus.CREATED, job.id)

    # -- claim --------------------------------------------------------------------------------

    async def claim(self, op: Op, ask: ClaimAsk) -> Claimed:
        """See `Driver.claim`."""
        with self.store.lock:
            self._seen[ask.queue] = self.store.queue(ask.queue).version
            return self._same_leases(op, "claim", ask.queue, lambda: self._claim(ask))

    def _claim(self, ask: ClaimAsk) -> Claimed:
        now = self.store.clock()
        queue = self.store.queues.get(ask.queue)
        if queue is None:
            return Claimed([], now)
        if queue.settings.paused:
            return Claimed([], now, self._next_in(queue, now), "paused")
        self._promote(queue, now)
        jobs: list[JobRecord] = []
        while len(jobs) < ask.limit and (stored := queue.first_waiting()) is not None:
            job = replace(
                stored.job,
                state=State.ACTIVE,
                fence=stored.job.fence + 1,
                worker=ask.worker,
                lease_until=now + ask.lease,
                started=len(jobs) < ask.start,
            )
            queue.write(stored, job)
            jobs.append(job)
        return Claimed(jobs, now, self._next_in(queue, now))

    def _promote(self, queue: QueueStore, now: int) -> None:
        for _ in range(PROMOTE_LIMIT):
            stored = queue.first_delayed()
            if stored is None or (stored.job.run_at or 0) > now:
                return
            self.store.place(stored, Place.FRONT if stored.job.lifo else Place.BACK)
            queue.write(stored, replace(stored.job, state=State.WAITING))

    def _next_in(self, queue: QueueStore, now: int) -> int | None:
        stored = queue.first_delayed()
        return None if stored is None else max(0, (stored.job.run_at or 0) - now)

    # -- apply --------------------------------------------------------------------------------

    async def apply(self, op: Op, transitions: Sequence[Transition]) -> Sequence[Applied]:
        """See `Driver.apply`."""
        with self.store.lock:
            known = self.store.memory.get((op.origin, "apply"))
            if known is not None and known[0] == op.number:
                return [self._repeated(reply) for reply in known[1]]
            return self._once("apply", op, lambda: [self._apply(one) for one in transitions])

    def _repeated(self, reply: Applied) -> Applied:
        changed = reply.status is ApplyStatus.APPLIED
        return Applied(ApplyStatus.REPEATED, reply.state) if changed else reply

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
        queue.write(stored, replace(job, state=target, **fields))
        self._announce(queue, stored)

    def _announce(self, queue: QueueStore, stored: Stored) -> None:
        """Wake sleepers if this job may run now, or is the next one that becomes due."""
        state = stored.job.state
        if state is State.WAITING or (state is State.DELAYED and queue.first_delayed() is stored):
            self.store.wake(queue)

    # -- notes and leases -----------------------------------------------------------------------

    async def annotate(self, notes: Sequence[Note]) -> Sequence[Applied]:
        """See `Driver.annotate`."""
        with self.store.lock:
            return [self._annotate(note) for note in notes]

    def _annotate(self, note: Note) -> Applied:
        stored = self._stored(note.ref)
        if stored is None:
            return Applied(ApplyStatus.GONE)
        job = stored.job
        if not self._holds(Guard(fence=note.fence), job):
            return Applied(ApplyStatus.STALE, job.state)
        if note.progress is not None:
            job = replace(job, progress=note.progress)
        if note.steps is not None:
            job = replace(job, steps=job.steps | note.steps)
        if note.log is not None and note.log_index >= len(job.logs):
            job = replace(job, logs=(*job.logs, note.log))
        stored.job = job
        return Applied(ApplyStatus.APPLIED, job.state)

    async def extend(self, leases: Sequence[HeldLease], lease: int) -> Sequence[Extended]:
        """See `Driver.extend`."""
        with self.store.lock:
            return [self._extend(held, lease) for held in leases]

    def _extend(self, held: HeldLease, lease: int) -> Extended:
        stored = self._stored(held.ref)
        if stored is None or not self._holds(Guard(fence=held.fence), stored.job):
            return Extended(LeaseStatus.LOST)
        stored.job = replace(stored.job, lease_until=self.store.clock() + lease)
        return Extended(LeaseStatus.CANCEL if stored.job.cancel_requested else LeaseStatus.HELD)

    async def reclaim(self, op: Op, ask: ReclaimAsk) -> Sequence[JobRecord]:
        """See `Driver.reclaim`."""
        with self.store.lock:
            claimed = self._same_leases(op, "reclaim", ask.queue, lambda: self._reclaim(ask))
            return claimed.jobs

    def _reclaim(self, ask: ReclaimAsk) -> Claimed:
        now = self.store.clock()
        queue = self.store.queue(ask.queue)
        lapsed = sorted(
            (job.lease_until, job.id)
            for job in (queue.jobs[job_id].job for job_id in queue.leases)
            if job.lease_until is not None and job.lease_until <= now
        )
        jobs: list[JobRecord] = []
        for _, job_id in lapsed[: ask.limit]:
            stored = queue.jobs[job_id]
            job = replace(stored.job, fence=stored.job.fence + 1, lease_until=now + ask.lease)
            jobs.append(job)
            stored.job = replace(job, worker=ask.worker)
        return Claimed(jobs, now)

    # -- reading --------------------------------------------------------------------------------

    async def get(self, refs: Sequence[Ref]) -> Sequence[JobRecord | None]:
        """See `Driver.get`."""
        with self.store.lock:
            found = [self._stored(ref) for ref in refs]
            return [None if stored is None else stored.job for stored in found]

    async def find(self, ask: FindAsk) -> Page:
        """See `Driver.find`."""
        with self.store.lock:
            queue = self.store.queues.get(ask.queue)
            stored = queue.jobs.values() if queue is not None else ()
            rows = [(order(one), one.job) for one in stored if one.job.state is ask.state]
        rows.sort(key=lambda row: row[0], reverse=ask.newest)
        if ask.cursor is not None:
            after = _cursor(ask.cursor)
            rows = [row for row in rows if (row[0] < after if ask.newest else row[0] > after)]
        page = rows[: ask.limit]
        cursor = ":".join(map(str, page[-1][0])) if len(rows) > len(page) else None
        return Page([job for _, job in page if ask.tag is None or ask.tag in job.tags], cursor)

    async def counts(self, queue: str) -> dict[State, int]:
        """See `Driver.counts`."""
        with self.store.lock:
            found = self.store.queues.get(queue)
            return dict.fromkeys(State, 0) if found is None else dict(found.counts)

    async def queues(self) -> Sequence[str]:
        """See `Driver.queues`."""
        with self.store.lock:
            return sorted(
                name
                for name, queue in self.store.queues.items()
                if queue.jobs or queue.settings.rev
            )

    async def prune(self, ask: PruneAsk) -> int:
        """See `Driver.prune`."""
        with self.store.lock:
            queue = self.store.queue(ask.queue)
            now = self.store.clock()
            gone = [
                stored
                for state in TERMINAL
                for stored in past(finished(queue, state), now, ask.spare)
            ][: ask.limit]
            for stored in gone:
                queue.leave(stored)
                del queue.jobs[stored.job.id]
            return len(gone)

    # -- settings, wake-ups, presence -----------------------------------------------------------

    async def settings(self, queue: str) -> QueueSettings:
        """See `Driver.settings`."""
        with self.store.lock:
            found = self.store.queues.get(queue)
            return QueueSettings() if found is None else found.settings

    async def put_settings(self, queue: str, settings: QueueSettings) -> bool:
        """See `Driver.put_settings`."""
        with self.store.lock:
            found = self.store.queue(queue)
            if found.settings.rev != settings.rev:
                return False
            found.settings = replace(settings, rev=settings.rev + 1)
            self.store.wake(found)
            return True

    async def wait(self, queues: Sequence[str], timeout: float) -> bool:  # noqa: ASYNC109 - the interface's
        """See `Driver.wait`."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self.store.lock:
            changed = [queue for queue in queues if self._changed(queue)]
            if changed:
                return True
            self.store.waiters.add(waiter)
        try:
            await asyncio.wait_for(waiter[1].wait(), timeout)
        except TimeoutError:
            return False
        finally:
            with self.store.lock:
                self.store.waiters.discard(waiter)
        return True

    def _changed(self, queue: str) -> bool:
        """Say whether anything came since the last claim or wait of this instance."""
        version = self.store.queue(queue).version
        seen, self._seen[queue] = self._seen.get(queue, 0), version
        return seen != version

    async def beat(self, beat: Beat) -> BeatReply:
        """See `Presence.beat`."""
        with self.store.lock:
            now = self.store.clock()
            if beat.last:
                self.store.workers.pop(beat.worker.id, None)
            else:
                worker = replace(beat.worker, seen_at=now)
                self.store.workers[worker.id] = (now + beat.ttl, worker)
            return BeatReply(cancel=[held for held in beat.held if self._asked(held)])

    async def workers(self) -> Sequence[WorkerInfo]:
        """See `Presence.workers`."""
        with self.store.lock:
            now = self.store.clock()
            live = {name: entry for name, entry in self.store.workers.items() if entry[0] > now}
            self.store.workers = live
            return [live[name][1] for name in sorted(live)]

    # -- helpers --------------------------------------------------------------------------------

    def _stored(self, ref: Ref) -> Stored | None:
        queue = self.store.queues.get(ref.queue)
        return None if queue is None else queue.jobs.get(ref.id)

    def _asked(self, held: HeldLease) -> bool:
        stored = self._stored(held.ref)
        return (
            stored is not None
            and self._holds(Guard(fence=held.fence), stored.job)
            and stored.job.cancel_requested
        )

    def _once(self, verb: str, op: Op, do: Callable[[], Reply]) -> Reply:
        """Do it, or answer as this op was answered before."""
        known = self.store.memory.get((op.origin, verb))
        if known is not None and known[0] == op.number:
            reply: Reply = known[1]
            return reply
        reply = do()
        self.store.memory[op.origin, verb] = (op.number, reply)
        return reply

    def _same_leases(self, op: Op, verb: str, queue: str, do: Callable[[], Claimed]) -> Claimed:
        """Do it, or return what is left of the jobs that this op was given before."""
        claimed = self._once(f"{verb} {queue}", op, do)
        held = [job for job in claimed.jobs if self._still(job)]
        return claimed if len(held) == len(claimed.jobs) else replace(claimed, jobs=held)

    def _still(self, job: JobRecord) -> bool:
        stored = self._stored(job.ref)
        return stored is not None and self._holds(Guard(fence=job.fence), stored.job)


def _cursor(text: str) -> tuple[int, int]:
    first, second = text.split(":")
    return int(first), int(second)


_SHARED: dict[str, MemoryStore] = {}


@hookimpl
def taskmux_driver(url: str) -> Driver | None:
    """Serve `memory://` and `memory://name`."""
    if not url.startswith("memory:"):
        return None
    parts, options = split_url(url)
    check_options(url, options, set())
    name = parts.netloc + parts.path
    return MemoryDriver(url, _SHARED.setdefault(name, MemoryStore()) if name else None)
