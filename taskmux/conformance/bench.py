"""The bench: one test's driver, queue and operation ids, and what must hold when it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

from msgspec.structs import replace

from taskmux.conformance.hooks import Hooks
from taskmux.conformance.model import differences
from taskmux.driver import (
    PENDING,
    TERMINAL,
    Applied,
    ApplyStatus,
    BlockedCause,
    Changes,
    ClaimAsk,
    Claimed,
    Driver,
    FindAsk,
    JobRecord,
    NewJob,
    Op,
    PruneAsk,
    Pushed,
    PushStatus,
    ReclaimAsk,
    Ref,
    State,
    Transition,
    transition,
)

__all__ = ["LONG", "Bench", "needs"]

LONG = 60_000
"""A lease or delay, in milliseconds, that does not end within a test."""

STATES = tuple(State)

Case = TypeVar("Case", bound=Callable[..., object])


def needs(capability: str) -> Callable[[Case], Case]:
    """Mark a case as one of a capability: drivers that lack it skip the case."""

    def mark(case: Case) -> Case:
        vars(case)["capability"] = capability
        return case

    return mark


class Bench:
    """One test's workplace: an open driver on an empty store and a queue of its own.

    Used as an async context manager: entering opens the driver, leaving checks the invariants
    (unless the test failed already) and closes the driver and its forks.
    """

    def __init__(self, driver: Driver, hooks: Hooks) -> None:
        self.driver = driver
        self.hooks = hooks
        self._queues: list[str] = []
        self.queue = self.another_queue()
        self._opened: list[Driver] = []
        self._numbers: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        await self.open(self.driver)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                await self.check()
        finally:
            for driver in reversed(self._opened):
                await driver.close()

    # -- drivers, names, time -------------------------------------------------------------------

    async def open(self, driver: Driver) -> Driver:
        """Open a driver now; it is closed with the bench."""
        await driver.open()
        self._opened.append(driver)
        return driver

    async def fork(self) -> Driver:
        """Return another open instance on the same store."""
        return await self.open(self.driver.fork())

    def another_queue(self) -> str:
        """Return the name of a queue that no other test uses."""
        self._queues.append(f"kit-{uuid4().hex[:12]}")
        return self._queues[-1]

    def op(self, origin: str = "kit") -> Op:
        """Return the origin's next operation id. Whoever sends at the same time is another."""
        self._numbers[origin] += 1
        return Op(f"{self.queue}-{origin}", self._numbers[origin])

    async def now(self) -> int:
        """Return the store's time, as a claim of an empty queue tells it."""
        ask = ClaimAsk(f"{self.queue}-clock", "clock", 1, LONG)
        return (await self.driver.claim(self.op("clock"), ask)).now

    async def reach(self, instant: int) -> None:
        """Return when the store's clock has reached an instant."""
        instant += self.hooks.clock_error_ms
        while (now := await self.now()) < instant:
            await self.hooks.advance(instant - now)

    async def set(self, **changes: Any) -> None:
        """Change some of the queue's settings."""
        settings = await self.driver.settings(self.queue)
        assert await self.driver.put_settings(self.queue, replace(settings, **changes))

    # -- verbs, shorter -------------------------------------------------------------------------

    def job(self, id: str = "job", **fields: Any) -> JobRecord:  # noqa: A002 - it is an id
        """Return a record to push, in this bench's queue unless told otherwise."""
        return JobRecord(**{"queue": self.queue, "id": id, "task": "kit"} | fields)

    async def push(
        self, *jobs: JobRecord | NewJob, op: Op | None = None, by: Driver | None = None
    ) -> Sequence[Pushed]:
        """Push records under a fresh op."""
        batch = [job if isinstance(job, NewJob) else NewJob(job) for job in jobs]
        return await (by or self.driver).push(op or self.op(), batch)

    async def created(self, *jobs: JobRecord | NewJob) -> list[JobRecord]:
        """Push records that must all be created; return them as stored."""
        answers = await self.push(*jobs)
        statuses = [answer.status for answer in answers]
        assert statuses == [PushStatus.CREATED] * len(jobs)
        refs = [job.job.ref if isinstance(job, NewJob) else job.ref for job in jobs]
        found = await self.driver.get(refs)
        stored = [job for job in found if job is not None]
        assert [job.ref for job in stored] == refs
        return stored

    async def claim(
        self,
        limit: int = 1,
        *,
        worker: str = "worker",
        lease: int = LONG,
        queue: str | None = None,
        op: Op | None = None,
        by: Driver | None = None,
    ) -> Claimed:
        """Claim under a fresh op; no run begins."""
        ask = ClaimAsk(queue or self.queue, worker, limit, lease)
        return await (by or self.driver).claim(op or self.op(worker), ask)

    async def claim_one(self, **ask: Any) -> JobRecord:
        """Claim the one job that must be there."""
        return _only((await self.claim(**ask)).jobs)

    async def claimed_ids(self, limit: int = 1) -> list[str]:
        """Claim, and return the ids in order."""
        return [job.id for job in (await self.claim(limit)).jobs]

    async def reclaim_one(self, **ask: Any) -> JobRecord:
        """Reclaim the one job whose lease must have lapsed, and no other."""
        return _only(await self.reclaim(**ask))

    async def finish(self, *jobs: JobRecord) -> None:
        """Complete running jobs, each in a batch and a millisecond of its own."""
        for job in jobs:
            await self.reach(await self.now() + 1)
            await self.applied(transition.complete(job, None))

    async def running(self, id: str = "job", **fields: Any) -> JobRecord:  # noqa: A002
        """Push one job, claim it, and let its run begin."""
        await self.created(self.job(id, **fields))
        job = await self.claim_one()
        assert job.id == id
        await self.applied(transition.start(job))
        return await self.record(job)

    async def reclaim(
        self, limit: int = 10, *, worker: str = "rescuer", lease: int = LONG, op: Op | None = None
    ) -> Sequence[JobRecord]:
        """Reclaim under a fresh op."""
        ask = ReclaimAsk(self.queue, worker, limit, lease)
        return await self.driver.reclaim(op or self.op(worker), ask)

    async def prune(self, limit: int = 1000, *, memory: int = 0, spare: int = 0) -> int:
        """Prune once; nothing is remembered or spared unless told so."""
        return await self.driver.prune(PruneAsk(self.queue, limit, memory, spare))

    async def apply(
        self, *transitions: Transition, op: Op | None = None, by: Driver | None = None
    ) -> Sequence[Applied]:
        """Apply transitions under a fresh op."""
        return await (by or self.driver).apply(op or self.op(), transitions)

    async def applied(self, *transitions: Transition) -> None:
        """Apply transitions that must all be applied."""
        answers = await self.apply(*transitions)
        statuses = [answer.status for answer in answers]
        assert statuses == [ApplyStatus.APPLIED] * len(transitions)

    async def get(self, job: JobRecord | Ref) -> JobRecord | None:
        """Return the stored record, or None."""
        (found,) = await self.driver.get([job if isinstance(job, Ref) else job.ref])
        return found

    async def record(self, job: JobRecord | Ref) -> JobRecord:
        """Return the stored record, which must be there."""
        found = await self.get(job)
        assert found is not None, f"{job} is not stored"
        return found

    async def arrange(self, start: str, **fields: Any) -> JobRecord:
        """Bring a fresh job into a starting state by its name; return it as stored."""
        job = self.job(**fields)
        match start:
            case "waiting":
                await self.created(job)
            case "delayed":
                job = self.job(state=State.DELAYED, **fields)
                await self.created(NewJob(job, delay=LONG))
            case "blocked":
                await self.created(self.job(state=State.BLOCKED, cause=BlockedCause.HOLD, **fields))
            case "active":
                await self.running(**fields)
            case "asked to cancel":
                await self.running(**fields)
                await self.apply(transition.cancel(job.ref, job.policy.cancelled))
            case "completed":
                await self.applied(transition.complete(await self.running(**fields), b'"done"'))
            case "dead":
                changes = Changes(attempts=3, reason="spent")
                await self.applied(transition.bury(await self.running(**fields), changes))
            case "cancelled":
                await self.created(job)
                await self.applied(transition.cancel(job.ref, job.policy.cancelled))
        return await self.record(job)

    async def walk(
        self, state: State, *, queue: str | None = None, limit: int = 250, **ask: Any
    ) -> list[JobRecord]:
        """Return every job of a state, page by page."""
        jobs: list[JobRecord] = []
        cursor: str | None = None
        while True:
            page = await self.driver.find(
                FindAsk(queue=queue or self.queue, state=state, limit=limit, cursor=cursor, **ask)
            )
            assert len(page.jobs) <= limit
            jobs += page.jobs
            if page.cursor is None:
                return jobs
            assert page.cursor != cursor, "find() gave the same cursor again"
            cursor = page.cursor

    # -- checks ---------------------------------------------------------------------------------

    async def stored_as(
        self, job: JobRecord | Ref, expected: Callable[[int], JobRecord], since: int
    ) -> JobRecord:
        """Check a whole stored record; `expected` makes it for an instant of the store's clock.

        The instant lies between `since` and now.
        """
        error = self.hooks.clock_error_ms
        actual = await self.record(job)
        low, high = expected(since - error), expected(await self.now() + error)
        wrong = differences(actual, low, high)
        assert not wrong, f"{actual.ref} is not stored as it should be: {wrong}"
        return actual

    async def snapshot(self) -> tuple[dict[State, int], list[JobRecord]]:
        """Return the queue's counts and all its records: equal when nothing changed."""
        records = [job for state in STATES for job in await self.walk(state)]
        return await self.driver.counts(self.queue), records

    async def check(self) -> None:
        """Check what holds after every test: counts match records, and nothing leaked."""
        for queue in self._queues:
            await self._check_queue(queue)
        leaked = await self.hooks.leaked(self.driver)
        assert not leaked, f"left in the store: {leaked}"

    async def _check_queue(self, queue: str) -> None:
        counts = await self.driver.counts(queue)
        assert set(counts) == set(STATES), "counts() must have every state"
        for state in STATES:
            jobs = await self.walk(state, queue=queue)
            assert counts[state] == len(jobs), f"counts() and find() differ for {state}"
            for job in jobs:
                wrong = _broken(job, state)
                assert not wrong, f"{job.ref}: {wrong}: {job}"


def _only(jobs: Sequence[JobRecord]) -> JobRecord:
    assert len(jobs) == 1, f"expected one job, not {[job.id for job in jobs]}"
    return jobs[0]


def _broken(job: JobRecord, state: State) -> str | None:
    """Say which invariant of a stored record does not hold."""
    leased = job.worker is not None and job.lease_until is not None
    unleased = job.worker is None and job.lease_until is None and not job.started
    checks = {
        f"listed as {state}": job.state is state,
        "active without a lease": leased if state is State.ACTIVE else True,
        "a lease, a worker or a start without being active": unleased or state is State.ACTIVE,
        "finished_at is for terminal jobs": (job.finished_at is not None) == (state in TERMINAL),
        "a cause is for blocked jobs": job.cause is None or state is State.BLOCKED,
        "a delayed job has a time": job.run_at is not None or state is not State.DELAYED,
        "a fence is never below 1": job.fence > 0,
        "pending jobs are not asked to cancel": not (job.cancel_requested and state in PENDING),
    }
    return next((name for name, holds in checks.items() if not holds), None)
