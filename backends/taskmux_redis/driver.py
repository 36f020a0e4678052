"""The Redis driver: each verb is one script call for each queue it touches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Self

from msgspec.structs import force_setattr
from taskmux.driver import (
    LINE_LIMIT,
    PROMOTE_LIMIT,
    Applied,
    Beat,
    BeatReply,
    ClaimAsk,
    Claimed,
    Command,
    CorruptRecord,
    Driver,
    Extended,
    FindAsk,
    HeldLease,
    JobRecord,
    LeaseStatus,
    NewJob,
    Note,
    Op,
    Page,
    PruneAsk,
    Pushed,
    PushStatus,
    QueueSettings,
    ReclaimAsk,
    Ref,
    Standing,
    State,
    Transition,
    WorkerInfo,
)

from taskmux_redis import presence, reading, upkeep
from taskmux_redis.address import Client, connect, parse
from taskmux_redis.batches import by_queue
from taskmux_redis.checks import check_server
from taskmux_redis.keys import QueueKeys, store_key
from taskmux_redis.link import Link
from taskmux_redis.records import encode_new, read_job
from taskmux_redis.scripts import script
from taskmux_redis.transitions import answers, encode_transitions
from taskmux_redis.wakeups import wait_for_work

__all__ = ["RedisDriver"]


_PUSH, _CLAIM, _APPLY = script("push"), script("claim"), script("apply")
_ANNOTATE, _EXTEND, _RECLAIM = script("annotate"), script("extend"), script("reclaim")
_SET_ASIDE = script("set_aside")


LAYOUT: Final = (
    "1 state, 2 asked to cancel, 3 started, 4 has notes, 5-17 fence, 18-33 last place, 34-36 "
    "length of the worker's name, the name, fields: letter, length, colon, value"
)
"""Kept in `live` beside the jobs. Who looks with redis-cli can read them, and a value this long
makes Redis keep the hash as a table: its form for small hashes would be searched from end to end.
"""

_LEASES: Final = {
    "H": Extended(LeaseStatus.HELD),
    "L": Extended(LeaseStatus.LOST),
    "C": Extended(LeaseStatus.CANCEL),
}


class RedisDriver(Driver):
    """Jobs in Redis or Valkey: one server, Sentinel or Cluster.

    Args:
        url: where the server is; `docs/redis.md` lists forms and options.
        client: an async client of redis-py to use instead of making one. It stays its owner's to
            close; it must not decode responses, and its own retries should be off.
    """

    def __init__(self, url: str, client: Client | None = None) -> None:
        self.address = parse(url)
        self.link = Link(
            self._connect if client is None else lambda: client,
            self.address.where,
            self.address.timeout,
            owned=client is None,
        )
        self._keys: dict[str, QueueKeys] = {}
        self._registered: set[str] = set()
        self._may_have_missed = False

    def _connect(self) -> Client:
        return connect(self.address)

    @property
    def url(self) -> str:
        """The server's URL, with credentials hidden."""
        return self.address.shown

    # -- life -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `Driver.open`."""
        if self.link.is_open:
            return
        self.link.open()
        try:
            await check_server(self.link, self.address)
        except BaseException:
            await self.link.close()
            raise

    async def close(self) -> None:
        """See `Driver.close`."""
        await self.link.close()

    def fork(self) -> Self:
        """Return another unopened instance on the same URL, with connections of its own."""
        return type(self)(self.address.url)

    # -- the hot path ---------------------------------------------------------------------------

    async def push(self, op: Op, jobs: Sequence[NewJob]) -> Sequence[Pushed]:
        """See `Driver.push`."""

        async def send(queue: str, part: str, news: list[NewJob]) -> list[Pushed]:
            await self._register(queue)
            arguments = [argument for new in news for argument in encode_new(new)]
            keys = self.keys(queue).of(_PUSH)
            origin = f"{op.origin} push{part}"
            reply = await self.link.run(_PUSH, keys, origin, op.number, len(news), *arguments)
            return _pushed(news, reply)

        return await by_queue(jobs, lambda new: new.job.queue, send)

    async def claim(self, op: Op, ask: ClaimAsk) -> Claimed:
        """See `Driver.claim`."""
        now, next_at, blocked_by, repeated, limited, *found = await self.link.run(
            _CLAIM,
            self.keys(ask.queue).of(_CLAIM),
            f"{op.origin} claim",
            op.number,
            ask.worker,
            ask.limit,
            ask.lease,
            ask.prefetch,
            PROMOTE_LIMIT,
            LINE_LIMIT,
        )
        if repeated:
            jobs = await self._readable(ask.queue, found)
        else:
            jobs = await self._leased(ask, found, now + ask.lease)
        return Claimed(
            jobs,
            now,
            None if next_at is None else max(0, int(next_at) - now),
            None if blocked_by is None else blocked_by.decode(),
            limited == 1,
        )

    async def _leased(self, ask: ClaimAsk, flat: list[Any], lease_until: int) -> list[JobRecord]:
        """Return the jobs just claimed: as they were, and what the claim wrote."""
        rows = [
            (flat[at], flat[at + 1], None, flat[at + 2], flat[at + 3])
            for at in range(0, len(flat), 4)
        ]
        jobs = await self._readable(ask.queue, rows)
        for job in jobs:
            # nobody has seen these records yet
            force_setattr(job, "state", State.ACTIVE)
            force_setattr(job, "fence", job.fence + 1)
            force_setattr(job, "worker", ask.worker)
            force_setattr(job, "lease_until", lease_until)
            force_setattr(job, "started", False)  # noqa: FBT003 - a field
        return jobs

    async def apply(self, op: Op, transitions: Sequence[Transition]) -> Sequence[Applied]:
        """See `Driver.apply`."""

        async def send(queue: str, part: str, ones: list[Transition]) -> list[Applied]:
            arguments = encode_transitions(ones)
            keys = self.keys(queue).of(_APPLY)
            origin = f"{op.origin} apply{part}"
            return answers(await self.link.run(_APPLY, keys, origin, op.number, *arguments))

        return await by_queue(transitions, lambda one: one.ref.queue, send)

    async def annotate(self, notes: Sequence[Note]) -> Sequence[Applied]:
        """See `Driver.annotate`."""

        async def send(queue: str, _: str, some: list[Note]) -> list[Applied]:
            arguments = [argument for note in some for argument in _note(note)]
            return answers(
                await self.link.run(_ANNOTATE, self.keys(queue).of(_ANNOTATE), *arguments)
            )

        return await by_queue(notes, lambda note: note.ref.queue, send)

    # -- leases ---------------------------------------------------------------------------------

    async def extend(self, leases: Sequence[HeldLease], lease: int) -> Sequence[Extended]:
        """See `Driver.extend`."""

        async def send(queue: str, _: str, some: list[HeldLease]) -> list[Extended]:
            pairs = [value for held in some for value in (held.ref.id, held.fence)]
            codes = await self.link.run(_EXTEND, self.keys(queue).of(_EXTEND), lease, *pairs)
            return [_LEASES[code] for code in codes.decode()]

        return await by_queue(leases, lambda held: held.ref.queue, send)

    async def reclaim(self, op: Op, ask: ReclaimAsk) -> Sequence[JobRecord]:
        """See `Driver.reclaim`."""
        flat = await self.link.run(
            _RECLAIM,
            self.keys(ask.queue).of(_RECLAIM),
            f"{op.origin} reclaim",
            op.number,
            ask.worker,
            ask.limit,
            ask.lease,
        )
        holders = {
            row[0]: holder.decode() for holder, row in zip(flat[::2], flat[1::2], strict=True)
        }
        jobs = await self._readable(ask.queue, flat[1::2])
        for job in jobs:
            force_setattr(job, "worker", holders[job.id.encode()])
        return jobs

    # -- reading --------------------------------------------------------------------------------

    async def get(self, refs: Sequence[Ref]) -> Sequence[JobRecord | None]:
        """See `Driver.get`."""

        async def send(queue: str, _: str, some: list[Ref]) -> list[JobRecord | None]:
            return await reading.get(self.link, self.keys(queue), [ref.id for ref in some])

        return await by_queue(refs, lambda ref: ref.queue, send)

    async def find(self, ask: FindAsk) -> Page:
        """See `Driver.find`."""
        return await reading.find(self.link, self.keys(ask.queue), ask)

    async def counts(self, queue: str) -> dict[State, int]:
        """See `Driver.counts`."""
        return await reading.counts(self.link, self.keys(queue))

    async def standing(self, ref: Ref) -> Standing | None:
        """See `Lines.standing`."""
        return await reading.standing(self.link, self.keys(ref.queue), ref.id)

    async def queues(self) -> Sequence[str]:
        """See `Driver.queues`."""
        names = await self.link.command("SMEMBERS", self._registry)
        found = sorted(name.decode() for name in names)
        used = await asyncio.gather(*(upkeep.in_use(self.link, self.keys(name)) for name in found))
        return [name for name, is_used in zip(found, used, strict=True) if is_used]

    async def prune(self, ask: PruneAsk) -> int:
        """See `Driver.prune`."""
        return await upkeep.prune(self.link, self.keys(ask.queue), ask)

    # -- settings, wake-ups, presence -----------------------------------------------------------

    async def settings(self, queue: str) -> QueueSettings:
        """See `Driver.settings`."""
        return await upkeep.settings(self.link, self.keys(queue))

    async def put_settings(self, queue: str, settings: QueueSettings) -> bool:
        """See `Driver.put_settings`."""
        await self._register(queue)
        return await upkeep.put_settings(self.link, self.keys(queue), settings)

    async def wait(self, queues: Sequence[str], timeout: float) -> bool:  # noqa: ASYNC109 - the interface's
        """See `Driver.wait`."""
        if self._may_have_missed:
            self._may_have_missed = False
            return True
        markers = [self.keys(queue)["marker"] for queue in queues]
        is_cluster = self.address.scheme == "redis+cluster"
        groups = [[marker] for marker in markers] if is_cluster else [markers]
        try:
            return await wait_for_work(self.link, groups, timeout)
        except asyncio.CancelledError:
            # the server may give a wake-up to the dying connection
            self._may_have_missed = True
            raise

    async def beat(self, beat: Beat) -> BeatReply:
        """See `Presence.beat`."""

        async def send(queue: str, _: str, some: list[HeldLease]) -> list[bool]:
            return await presence.asked(self.link, self.keys(queue), some)

        flags = await by_queue(beat.held, lambda held: held.ref.queue, send)
        asked = zip(beat.held, flags, strict=True)
        cancel = [held for held, is_asked in asked if is_asked]
        # last, because what it hands over would be lost if something failed after it
        return BeatReply(cancel, await presence.beat(self.link, self.address.prefix, beat))

    async def tell(self, worker: str, command: Command) -> bool:
        """See `Presence.tell`."""
        return await presence.tell(self.link, self.address.prefix, worker, command)

    async def workers(self) -> Sequence[WorkerInfo]:
        """See `Presence.workers`."""
        return await presence.workers(self.link, self.address.prefix)

    # -- helpers --------------------------------------------------------------------------------

    def keys(self, queue: str) -> QueueKeys:
        """Return a queue's keys."""
        keys = self._keys.get(queue)
        if keys is None:
            keys = self._keys[queue] = QueueKeys(self.address.prefix, queue)
        return keys

    @property
    def _registry(self) -> bytes:
        return store_key(self.address.prefix, "queues")

    async def _register(self, queue: str) -> None:
        """List the queue, before its first job: the list lives in another cluster slot."""
        if queue not in self._registered:
            await self.link.command("SADD", self._registry, queue)
            await self.link.command("HSETNX", self.keys(queue)["live"], "", LAYOUT)
            self._registered.add(queue)

    async def _readable(self, queue: str, rows: Sequence[Any]) -> list[JobRecord]:
        """Return the records of rows; unreadable ones are set aside."""
        jobs: list[JobRecord] = []
        bad: list[bytes] = []
        for row in rows:
            try:
                jobs.append(read_job(queue, row))
            except CorruptRecord:
                bad.append(row[0])
        if bad:
            await self.link.run(_SET_ASIDE, self.keys(queue).of(_SET_ASIDE), *bad)
        return jobs


def _pushed(news: Sequence[NewJob], reply: Sequence[bytes]) -> list[Pushed]:
    codes, *others = reply
    owners = iter(others)
    answer: list[Pushed] = []
    for code, new in zip(codes.decode(), news, strict=True):
        if code == "C":
            answer.append(Pushed(PushStatus.CREATED, new.job.id))
        elif code == "U":
            answer.append(Pushed(PushStatus.DUPLICATE, new.job.id))
        elif code == "F":
            answer.append(Pushed(PushStatus.FULL, new.job.id))
        elif code == "D":
            answer.append(Pushed(PushStatus.DEDUPLICATED, next(owners).decode()))
        else:
            answer.append(Pushed(PushStatus.MOVED, others[0].decode()))
    return answer


def _note(note: Note) -> list[Any]:
    fields: list[Any] = [] if note.progress is None else ["v", note.progress]
    for name, result in (note.steps or {}).items():
        fields += (f"${name}", result)
    index, line = ("", "") if note.log is None else (note.log_index, note.log)
    return [note.ref.id, note.fence, index, line, len(fields) // 2, *fields]
