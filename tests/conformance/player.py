"""A player: plays steps on one driver, and tells what came of them in words that fit all drivers.

Two drivers never agree in fences and instants. Of a fence, a player tells its number among the
fences that its job has had; of an instant, in which step it was written and how far from then it
lies, such as `step 7 + 3600000`. Everything else is told as it is. So two drivers that keep the
contracts tell the same, exactly, whatever their clocks say and however long their steps take.

Each step takes place at a time of its own: after each the clock is moved on, over the shortest
duration that steps use, so that whatever was due or lapsing soon is due or lapsed in the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
from msgspec.structs import replace
from taskmux.conformance import Bench, Hooks
from taskmux.driver import (
    Applied,
    ApplyStatus,
    Claimed,
    Driver,
    Extended,
    JobRecord,
    Lines,
    Op,
    Pushed,
    PushStatus,
    Ref,
    State,
)

__all__ = ["FAR", "LONG", "NAMES", "PAST", "QUEUES", "REFS", "SOON", "Player", "Sent", "Step"]

QUEUES = ("q", "r")
NAMES = ("a", "b", "c", "d", "e")
REFS = tuple(Ref(queue, name) for queue in QUEUES for name in NAMES)

SOON = 2
LONG = 3_600_000
CLOSE = 60_000
"""Milliseconds: what opens sooner may have opened meanwhile."""
PAST = 1_000
FAR = 4_102_444_800_000

WRITTEN = {"created_at": (0,), "finished_at": (0,), "run_at": (SOON, LONG)}
WRITTEN["lease_until"] = WRITTEN["run_at"]
"""For each field that is an instant, how far it may lie from the step that wrote it."""


class Step(Protocol):
    """Something to do."""

    async def play(self, player: Player) -> object:
        """Do it; return the driver's answer."""
        ...


@dataclass
class Sent:
    """An origin's last operation, to send it again."""

    refs: frozenset[Ref]
    send: Callable[[Driver], Awaitable[object]]
    answer: object

    @property
    def given(self) -> Sequence[JobRecord] | None:
        """The jobs that it leased, if it was a claim or reclaim."""
        match self.answer:
            case Claimed(jobs=jobs):
                return jobs
            case [JobRecord(), *_] as jobs:
                return [job for job in jobs if isinstance(job, JobRecord)]
            case _:
                return None


class Player:
    """Plays on one driver.

    `jumps`: an hour may pass at once on its clock. `lines`: groups and limits are used.
    """

    def __init__(self, driver: Driver, hooks: Hooks, *, jumps: bool, lines: bool) -> None:
        self.bench = Bench(driver, hooks)
        self.jumps = jumps
        self.lines = lines
        self.records: dict[Ref, JobRecord] = {}
        self.held: defaultdict[Ref, list[JobRecord]] = defaultdict(list)
        """What those know who were given the job, one after the other."""
        self.sent: dict[tuple[str, ...], Sent] = {}
        self._names = dict(zip(QUEUES, (self.bench.queue, self.bench.another_queue()), strict=True))
        self._letters = {name: letter for letter, name in self._names.items()}
        self._number = 0
        self._written = (0, 0)
        self._instants: dict[tuple[Ref, str], tuple[int, str]] = {}
        self._fences: defaultdict[Ref, list[int]] = defaultdict(list)

    @property
    def driver(self) -> Driver:
        """The instance in use."""
        return self.bench.driver

    def queue(self, letter: str) -> str:
        """Return the real name of a queue."""
        return self._names[letter]

    def real(self, ref: Ref) -> Ref:
        """Return the job's reference in the store."""
        return Ref(self._names[ref.queue], ref.id)

    def ours(self, ref: Ref) -> Ref:
        """Return the reference that steps use."""
        return Ref(self._letters[ref.queue], ref.id)

    def hand_out(self, jobs: Sequence[JobRecord]) -> None:
        """Note what a worker was given."""
        for job in jobs:
            self.held[self.ours(job.ref)].append(job)

    def former(self, ref: Ref) -> list[JobRecord]:
        """Return a job as those got it who hold it no more."""
        now = self.records.get(ref)
        return [job for job in self.held[ref] if now is None or job.fence != now.fence]

    async def send(
        self,
        key: tuple[str, ...],
        refs: Sequence[Ref],
        send: Callable[[Driver, Op], Awaitable[object]],
    ) -> object:
        """Send a new operation of the origin that `key` names, and remember it.

        Not if some of it had no effect: nothing need be written down then, so a store may well try
        that part anew when the operation comes again.
        """
        op = self.bench.op("-".join(key))
        answer = await send(self.driver, op)
        self.sent.pop(key, None)
        if _took_effect(answer):
            self.sent[key] = Sent(frozenset(refs), lambda driver: send(driver, op), answer)
        return answer

    async def restart(self, *, fork: bool) -> None:
        """Go on with a closed and opened driver, or with another instance."""
        await self.driver.close()
        if fork:
            self.bench.driver = await self.bench.open(self.driver.fork())
        else:
            await self.driver.open()

    async def play(self, step: Step) -> dict[str, object]:
        """Play a step and tell all that can be seen afterwards."""
        self._number += 1
        error = self.bench.hooks.clock_error_ms
        before = frozenset(self.records)
        since = await self.bench.now()
        answer = await step.play(self)
        until = await self.bench.now()
        self._written = (since - error, until + error)
        told = {"answer": self._tell(answer), **await self._look()}
        self._forget(before - frozenset(self.records), answer)
        await self.bench.reach(until + SOON + error + 1)
        return told

    async def _look(self) -> dict[str, object]:
        found = await self.driver.get([self.real(ref) for ref in REFS])
        self.records = {ref: job for ref, job in zip(REFS, found, strict=True) if job is not None}
        told: dict[str, object] = {str(ref): self._view(job) for ref, job in self.records.items()}
        for letter, queue in self._names.items():
            told[f"{letter}: counts"] = await self.driver.counts(queue)
            line = await self.bench.walk(State.WAITING, queue=queue)
            told[f"{letter}: line"] = [job.id for job in line]
            told[f"{letter}: standing"] = [await self._standing(job.ref) for job in line]
            told[f"{letter}: settings"] = await self.driver.settings(queue)
        listed = await self.driver.queues()
        told["queues"] = [letter for letter, queue in self._names.items() if queue in listed]
        return told

    async def _standing(self, ref: Ref) -> object:
        if not (self.lines and isinstance(self.driver, Lines)):
            return None
        found = await self.driver.standing(ref)
        assert found is not None, f"{ref} is waiting, and stands nowhere"
        return replace(
            found, opens_in=found.opens_in > CLOSE, line_opens_in=found.line_opens_in > CLOSE
        )

    def _forget(self, gone: frozenset[Ref], answer: object) -> None:
        """Forget the jobs that went, and operations whose repeats the contracts leave open then.

        That is of every operation on them but the one that removed them (P4, A4), and of claims of
        which nothing is left.
        """
        for ref in gone:
            self._fences.pop(ref, None)
            for field in WRITTEN:
                self._instants.pop((ref, field), None)
        for key, sent in tuple(self.sent.items()):
            removed = sent.refs & gone and sent.answer is not answer
            if removed or not (sent.given is None or any(map(self._is_held, sent.given))):
                del self.sent[key]

    def _is_held(self, job: JobRecord) -> bool:
        now = self.records.get(self.ours(job.ref))
        return now is not None and now.state is State.ACTIVE and now.fence == job.fence

    # -- telling --------------------------------------------------------------------------------

    def _tell(self, answer: object) -> object:
        match answer:
            case JobRecord():
                return self._view(answer)
            case Claimed():
                next_in = answer.next_in
                due = None if next_in is None else "due" if next_in == 0 else "later"
                jobs = self._tell(answer.jobs)
                told = {"jobs": jobs, "next": due, "by": answer.blocked_by}
                return told | {"limited": answer.limited}
            case Pushed() | Applied() | Extended():
                return msgspec.structs.asdict(answer)
            case list() | tuple():
                return [self._tell(one) for one in answer]
            case _:
                return answer

    def _view(self, job: JobRecord) -> dict[str, object]:
        ref = self.ours(job.ref)
        told = msgspec.structs.asdict(job) | {"queue": ref.queue, "fence": self._fence(ref, job)}
        return told | {field: self._instant(ref, field, told[field]) for field in WRITTEN}

    def _fence(self, ref: Ref, job: JobRecord) -> str:
        known = self._fences[ref]
        if job.fence not in known:
            assert not known or job.fence > known[-1], f"{ref}: {job.fence} after {known}"
            known.append(job.fence)
        return f"fence {known.index(job.fence)}"

    def _instant(self, ref: Ref, field: str, value: object) -> object:
        if not isinstance(value, int) or value in {PAST, FAR}:
            return value
        known = self._instants.get((ref, field))
        if known is None or known[0] != value:
            known = self._instants[ref, field] = value, self._placed(ref, field, value)
        return known[1]

    def _placed(self, ref: Ref, field: str, value: int) -> str:
        first, last = self._written
        for after in WRITTEN[field]:
            if first + after <= value <= last + after:
                return f"step {self._number} + {after}"
        raise AssertionError(f"{ref}: {field} is {value}, written from {first} to {last}")


def _took_effect(answer: object) -> bool:
    match answer:
        case Claimed():
            return bool(answer.jobs)
        case JobRecord():
            return True
        case Pushed():
            return answer.status is PushStatus.CREATED
        case Applied():
            return answer.status in {ApplyStatus.APPLIED, ApplyStatus.REQUESTED}
        case _:
            assert isinstance(answer, Sequence)
            return bool(answer) and all(map(_took_effect, answer))
