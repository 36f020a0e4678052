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
    Applied,
    ApplyStatus,
    Beat,
    BeatReply,
    ClaimAsk,
    Claimed,
    Command,
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
    PruneAsk,
    Pushed,
    QueueSettings,
    ReclaimAsk,
    Ref,
    Standing,
    State,
    StoreError,
    Transition,
    What,
    WorkerInfo,
    check_options,
    hide_credentials,
    holds,
    hookimpl,
    split_url,
)
from taskmux.memory.apply import Transitions
from taskmux.memory.claim import Claims
from taskmux.memory.events import Followed
from taskmux.memory.push import Pushes
from taskmux.memory.read import find, prune, standing
from taskmux.memory.store import MemoryStore, Stored

__all__ = ["MemoryDriver", "taskmux_driver"]

Reply = TypeVar("Reply")


class MemoryDriver(Pushes, Claims, Transitions, Followed, Driver):
    """The reference driver: every contract in its plainest form."""

    def __init__(self, url: str = "memory://", store: MemoryStore | None = None) -> None:
        self._url = url
        self.store = store or MemoryStore()
        self._seen: dict[str, int] = {}

    @property
    def url(self) -> str:
        """The store's URL."""
        return hide_credentials(self._url)

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

    # -- claim --------------------------------------------------------------------------------

    async def claim(self, op: Op, ask: ClaimAsk) -> Claimed:
        """See `Driver.claim`."""
        with self.store.lock:
            self._seen[ask.queue] = self.store.queue(ask.queue).version
            return self._same_leases(op, "claim", ask.queue, lambda: self._claim(ask))

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
        if not holds(Guard(fence=note.fence), job):
            return Applied(ApplyStatus.STALE, job.state)
        if note.progress is not None:
            job = replace(job, progress=note.progress)
        if note.steps is not None:
            job = replace(job, steps=job.steps | note.steps)
        if note.log is not None and note.log_index >= len(job.logs):
            job = replace(job, logs=(*job.logs, note.log))
        stored.job = job
        if note.progress is not None:
            self.store.tell(self.store.queue(job.queue), What.PROGRESS, job, note.progress)
        return Applied(ApplyStatus.APPLIED, job.state)

    async def extend(self, leases: Sequence[HeldLease], lease: int) -> Sequence[Extended]:
        """See `Driver.extend`."""
        with self.store.lock:
            return [self._extend(held, lease) for held in leases]

    def _extend(self, held: HeldLease, lease: int) -> Extended:
        stored = self._stored(held.ref)
        if stored is None or not holds(Guard(fence=held.fence), stored.job):
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
            self.store.tell(queue, What.TAKEN_OVER, job)
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
            return find(self.store.queues.get(ask.queue), ask, self.store.clock())

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
            self._sweep(queue)
            gone = prune(queue, self.store.clock(), ask)
            for stored in gone:
                self.store.tell(queue, What.REMOVED, stored.job)
            return len(gone)

    async def dedup_owner(self, queue: str, key: str) -> str | None:
        """See `Driver.dedup_owner`."""
        with self.store.lock:
            owner = self._owner(self.store.queue(queue), key)
            return None if owner is None else owner.id

    async def release_dedup(self, queue: str, key: str, owner: str) -> bool:
        """See `Driver.release_dedup`."""
        with self.store.lock:
            found = self._owner(self.store.queue(queue), key)
            if found is None or found.id != owner:
                return False
            self._free(self.store.queue(queue), key)
            return True

    async def standing(self, ref: Ref) -> Standing | None:
        """See `Lines.standing`."""
        with self.store.lock:
            stored = self._stored(ref)
            if stored is None or stored.job.state is not State.WAITING:
                return None
            return standing(self.store.queue(ref.queue), stored, self.store.clock())

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
            was_paused = found.settings.paused
            found.settings = replace(settings, rev=settings.rev + 1)
            if not settings.events:
                found.forget_events()
            elif settings.paused is not was_paused:
                self.store.tell(found, What.PAUSED if settings.paused else What.RESUMED)
            found.lines.begin_anew()
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
            async with asyncio.timeout(timeout):
                await waiter[1].wait()
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
            cancel = [held for held in beat.held if self._asked(held)]
            return BeatReply(cancel, self.store.commands.pop(beat.worker.id, ()))

    async def workers(self) -> Sequence[WorkerInfo]:
        """See `Presence.workers`."""
        with self.store.lock:
            now = self.store.clock()
            live = {name: entry for name, entry in self.store.workers.items() if entry[0] > now}
            self.store.workers = live
            return [live[name][1] for name in sorted(live)]

    async def tell(self, worker: str, command: Command) -> bool:
        """See `Presence.tell`."""
        with self.store.lock:
            if worker not in (info.id for info in await self.workers()):
                return False
            self.store.commands.setdefault(worker, []).append(command)
            return True

    # -- helpers --------------------------------------------------------------------------------

    def _stored(self, ref: Ref) -> Stored | None:
        queue = self.store.queues.get(ref.queue)
        return None if queue is None else queue.jobs.get(ref.id)

    def _asked(self, held: HeldLease) -> bool:
        stored = self._stored(held.ref)
        return (
            stored is not None
            and holds(Guard(fence=held.fence), stored.job)
            and stored.job.cancel_requested
        )

    def _once(self, verb: str, op: Op, do: Callable[[], Reply]) -> Reply:
        """Do it, or answer as this op was answered before; refuse one that arrives too late."""
        last, known = self.store.memory.get((op.origin, verb), (0, None))
        if last > op.number:
            raise StoreError(f"Operation {op} came after a later one of its origin: not done.")
        if last == op.number:
            reply: Reply = known
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
        return stored is not None and holds(Guard(fence=job.fence), stored.job)


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
