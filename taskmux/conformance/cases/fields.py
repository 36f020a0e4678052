"""Fields: every field of a record, through every verb that may write one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
from msgspec.structs import replace

from taskmux.conformance.bench import LONG, Bench
from taskmux.conformance.model import leased, moved, noted, pushed
from taskmux.driver import (
    Attempt,
    BlockedCause,
    Changes,
    ClaimAsk,
    Dedup,
    ErrorInfo,
    HeldLease,
    JobRecord,
    Keep,
    NewJob,
    Note,
    Parent,
    Policy,
    Ref,
    State,
    Transition,
    transition,
)
from taskmux.model.backoff import Fixed

FIELDS = {field.name: field for field in msgspec.structs.fields(JobRecord)}
"""All there are: a field that is new here and that no step below sets fails the case."""

SHORT = 20
"""A lease, in milliseconds, that lapses within the case."""

SPENT = Changes(
    attempts=2,
    crashes=1,
    reason="it broke",
    error=ErrorInfo("ValueError", "bad", "line 1"),
    history=(Attempt(1, 5, "w", "failed"), Attempt(2, 6, "w", "crashed", 1, 2)),
)


def _full(queue: str) -> JobRecord:
    """Return a job that has everything that a push may bring."""
    return JobRecord(
        queue=queue,
        id="full",
        task="reports.weekly",
        payload=b'{"n":1}',
        headers={"traceparent": "00-1-2-01", "$k.": ""},
        policy=Policy(
            max_attempts=7,
            max_crashes=0,
            timeout_ms=1_000,
            backoff=Fixed("5s"),
            keep_result=False,
            expires_ms=60_000,
            deadline=4_000_000_000_000,
            completed=Keep(LONG, 1),
            cancelled=Keep(LONG, 2),
            dead=Keep(LONG, 3),
        ),
        priority=0,
        lifo=True,
        group="tenant-7",
        tags=("b", "a", "b"),
        dedup=Dedup("key"),
        parent=Parent(Ref("parents", "p"), "redis://elsewhere", "ignore"),
        children=3,
        schedule="weekly",
        slot=1_700_000_000_123,
        state=State.BLOCKED,
        cause=BlockedCause.HOLD,
        attempts=1,
        crashes=2,
        reason="on its way",
        error=ErrorInfo("KeyError", "before"),
        history=(Attempt(1, 3, "w", "failed"),),
        progress=b"1",
        logs=("one",),
        steps={"a": b"1"},
    )


class _Walk:
    """A job on its way: after each step its whole record is what the model says."""

    def __init__(self, bench: Bench, job: JobRecord) -> None:
        self.bench = bench
        self.job = job
        self.seen: set[str] = set()

    async def check(self, expected: Callable[[int], JobRecord], since: int) -> None:
        """Compare the record, as every reader gives it, and note which fields it has."""
        self.job = await self.bench.stored_as(self.job, expected, since)
        assert await self.bench.walk(self.job.state) == [self.job]
        self.seen |= {
            name
            for name, field in FIELDS.items()
            if field.required or getattr(self.job, name) != _default(field)
        }

    async def push(self) -> None:
        new, since = NewJob(self.job), await self.bench.now()
        await self.bench.push(new)
        fence = (await self.bench.record(self.job)).fence
        await self.check(partial(pushed, new, fence=fence), since)

    async def move(self, one: Transition) -> None:
        job, since = self.job, await self.bench.now()
        await self.bench.apply(one)
        await self.check(lambda now: moved(job, one, now) or job, since)

    async def claim(self, lease: int = LONG) -> None:
        job, since = self.job, await self.bench.now()
        ask = ClaimAsk(job.queue, "worker", 1, lease)
        claimed = await self.bench.claim_one(lease=lease)
        await self.check(partial(leased, job, ask, fence=claimed.fence), since)
        assert claimed == self.job

    async def annotate(self) -> None:
        note = Note(
            ref=self.job.ref,
            fence=self.job.fence,
            progress=b"50",
            steps={"b": b"2"},
            log="two",
            log_index=1,
        )
        since = await self.bench.now()
        await self.bench.driver.annotate([note])
        record = noted(self.job, note)
        await self.check(lambda _: record, since)

    async def extend(self, lease: int) -> None:
        job, since = self.job, await self.bench.now()
        await self.bench.driver.extend([HeldLease(job.ref, job.fence)], lease)
        await self.check(lambda now: replace(job, lease_until=now + lease), since)

    async def reclaim(self) -> None:
        await self.bench.reach(self.job.lease_until or 0)
        job, since = self.job, await self.bench.now()
        given = await self.bench.reclaim_one()
        taken = replace(job, worker="rescuer", fence=given.fence)
        await self.check(lambda now: replace(taken, lease_until=now + LONG), since)
        assert given == replace(self.job, worker="worker")


def _default(field: msgspec.structs.FieldInfo) -> object:
    made = field.default_factory
    return field.default if made is msgspec.NODEFAULT else made()


class FieldCases:
    """G1, for every field there is and after every verb."""

    async def test_g1_every_field_outlives_every_verb(self, bench: Bench) -> None:
        walk = _Walk(bench, _full(bench.queue))
        ref = walk.job.ref
        await walk.push()
        await walk.move(transition.unblock(ref, BlockedCause.HOLD))
        await walk.move(transition.edit(ref, b'{"n":2,"edited":true}'))
        await walk.move(transition.postpone(ref, LONG))
        await walk.move(transition.edit(ref, b"{}"))
        await walk.move(transition.reprioritise(ref, 7))
        await walk.move(transition.promote(ref))
        await walk.claim()
        await walk.move(transition.start(walk.job))
        await walk.annotate()
        await walk.extend(2 * LONG)
        await walk.move(transition.cancel(ref, Keep(LONG)))
        await walk.move(transition.release(walk.job))
        await walk.move(transition.redrive(ref, {State.CANCELLED}))
        await walk.claim()
        await walk.move(transition.again(walk.job, SPENT, LONG))
        await walk.move(transition.promote(ref))
        await walk.claim(lease=SHORT)
        await walk.reclaim()
        await walk.move(transition.bury(walk.job, SPENT))
        await walk.move(transition.edit(ref, b'{"n":3}'))
        await walk.move(transition.redrive(ref))
        await walk.claim()
        await walk.move(transition.complete(walk.job, b'{"ok":true}'))
        left = set(FIELDS) - walk.seen
        assert not left, f"no step of this case sets {left}: let one do so"
