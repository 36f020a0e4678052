"""Long random histories: after every operation the store agrees with the model."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest

from taskmux.conformance.bench import LONG, Bench
from taskmux.conformance.cases.moves import MOVES
from taskmux.conformance.model import answer, moved, noted, pushed
from taskmux.driver import (
    TERMINAL,
    Applied,
    ApplyStatus,
    BlockedCause,
    Dedup,
    JobRecord,
    NewJob,
    Note,
    Place,
    Pushed,
    PushStatus,
    State,
    Transition,
)

STEPS = 150
GUARDED = 0.7
"""How many of the moves are of a job that is there, and how many of those may be applied."""
NAMES = tuple("abcdefgh")
KEYS = {"a": Dedup("key"), "b": Dedup("key"), "c": Dedup("another")}


class _History:
    """The model of a queue: its records as last verified, and the sequence of each.

    `zombies` are records as they were before their last claim: what a former holder knows.
    `fences` has the last of each id, whether its job is still there or not.
    """

    def __init__(self, bench: Bench, rng: Random) -> None:
        self.bench = bench
        self.rng = rng
        self.records: dict[str, JobRecord] = {}
        self.zombies: dict[str, JobRecord] = {}
        self.places: dict[str, int] = {}
        self.fences: dict[str, int] = {}
        self.last_place = 0

    async def step(self) -> None:
        """Do something at random, and compare."""
        await self.rng.choices([self.push, self.claim, self.move, self.note], [6, 3, 8, 1])[0]()

    def owner(self, job: JobRecord) -> JobRecord | None:
        """Return the unfinished job that owns the job's deduplication key, if there is one."""
        unfinished = (one for one in self.records.values() if one.state not in TERMINAL)
        return next((one for one in unfinished if job.dedup and one.dedup == job.dedup), None)

    def expected(self, job: JobRecord, one: Transition) -> Applied:
        """Return the answer for a transition, with the owners of keys in mind."""
        expected = answer(job, one)
        revives = job.state in TERMINAL and expected.state not in {*TERMINAL, None}
        if revives and self.owner(job) is not None:
            return Applied(ApplyStatus.CONFLICT, job.state)
        return expected

    def keep(self, record: JobRecord, place: Place) -> None:
        """Note what was verified; a job that became waiting takes its place."""
        self.records[record.id] = record
        self.fences[record.id] = record.fence
        if record.state is State.WAITING and place is Place.BACK:
            self.last_place += 1
            self.places[record.id] = self.last_place

    async def push(self) -> None:
        """Push a job, whose id or key may be taken."""
        name = self.rng.choice(NAMES)
        state = self.rng.choice([State.WAITING, State.WAITING, State.DELAYED, State.BLOCKED])
        cause = BlockedCause.HOLD if state is State.BLOCKED else None
        priority = self.rng.choice((1, 1, 2))
        job = self.bench.job(
            name, state=state, cause=cause, dedup=KEYS.get(name), priority=priority
        )
        new = NewJob(job, delay=LONG)
        owner = self.owner(job)
        since = await self.bench.now()
        (given,) = await self.bench.push(new)
        if name in self.records:
            assert given == Pushed(PushStatus.DUPLICATE, name)
        elif owner is not None:
            assert given == Pushed(PushStatus.DEDUPLICATED, owner.id)
        else:
            assert given == Pushed(PushStatus.CREATED, name)
            fence = (await self.bench.record(job)).fence
            assert fence > self.fences.get(name, 0), "a fence starts above those it ever had"
            stored = await self.bench.stored_as(job, partial(pushed, new, fence=fence), since)
            self.keep(stored, Place.BACK)

    async def claim(self) -> None:
        """Claim the job that is next in line, if there is one."""
        waiting = [job for job in self.records.values() if job.state is State.WAITING]
        waiting.sort(key=lambda job: (job.priority, self.places[job.id]))
        claimed = await self.bench.claim()
        assert [job.id for job in claimed.jobs] == [job.id for job in waiting[:1]]
        for job in claimed.jobs:
            former = self.records[job.id]
            assert job.fence > former.fence
            self.zombies[job.id] = former
            self.keep(job, Place.KEEP)

    async def move(self) -> None:
        """Apply a transition, mostly one that its guard lets through, to a job, zombie or none."""
        names = NAMES if self.rng.random() > GUARDED else tuple(self.records) or NAMES
        name, move = self.rng.choice(names), self.rng.choice(list(MOVES))
        job = self.records.get(name)
        if job is not None and self.rng.random() < GUARDED:
            tried = {move: answer(job, made(job)).status for move, made in MOVES.items()}
            move = self.rng.choice([m for m in tried if tried[m] is not ApplyStatus.STALE])
        known = self.rng.choice([job, job, job, job, self.zombies.get(name)])
        one = MOVES[move](known or job or self.bench.job(name))
        since = await self.bench.now()
        (given,) = await self.bench.apply(one)
        if job is None:
            assert given == Applied(ApplyStatus.GONE)
            return
        assert given == self.expected(job, one), f"{move} of {job}"
        if given.status is ApplyStatus.CONFLICT:
            assert await self.bench.record(job) == job
        elif moved(job, one, since) is None:
            assert await self.bench.get(job) is None
            del self.records[name]
        else:
            stored = await self.bench.stored_as(job, lambda now: moved(job, one, now) or job, since)
            became = one.to is State.WAITING and given.status is ApplyStatus.APPLIED
            self.keep(stored, one.place if became else Place.KEEP)

    async def note(self) -> None:
        """Annotate any job."""
        if not self.records:
            return
        job = self.rng.choice(list(self.records.values()))
        note = Note(ref=job.ref, fence=job.fence, log="line", log_index=len(job.logs))
        (given,) = await self.bench.driver.annotate([note])
        taken = job.state is State.ACTIVE
        assert given.status is (ApplyStatus.APPLIED if taken else ApplyStatus.STALE)
        self.records[job.id] = noted(job, note) if taken else job
        assert await self.bench.record(job) == self.records[job.id]


class HistoryCases:
    """Everything together."""

    @pytest.mark.parametrize("seed", range(3))
    async def test_a_random_history_agrees_with_the_model(self, bench: Bench, seed: int) -> None:
        history = _History(bench, Random(seed))  # noqa: S311 - repeatable on purpose
        for _ in range(STEPS):
            await history.step()
        for name in NAMES:
            assert await bench.get(bench.job(name)) == history.records.get(name)
