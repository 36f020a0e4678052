"""Steps: what a history is made of. The same step means the same on every driver.

A step says nothing about fences or instants, and names a job by a number: which of those that are
there, and which of the moves that are possible for it. A player resolves both from its own store,
and if two stores resolve them differently, they differed before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from msgspec.structs import replace
from taskmux.conformance.cases.moves import FENCED, MOVES, SPENT
from taskmux.conformance.model import answer
from taskmux.driver import (
    Applied,
    ApplyStatus,
    BlockedCause,
    ClaimAsk,
    Claimed,
    Dedup,
    HeldLease,
    JobRecord,
    Keep,
    LineSettings,
    NewJob,
    Note,
    Place,
    Policy,
    PruneAsk,
    QueueSettings,
    Rate,
    ReclaimAsk,
    Ref,
    State,
    Transition,
    transition,
)
from tests.conformance.player import FAR, LONG, NAMES, PAST, REFS, SOON, Player

__all__ = ["KINDS", "Choose", "Chosen"]

T = TypeVar("T")

ENDING = (
    Dedup("key"),
    Dedup("key"),
    Dedup("key", replace=True),
    Dedup("key", replace=True, extend=True),
    Dedup("key", latest=True),
    Dedup("key", latest=True),
)
TIMED = (
    Dedup("another"),
    Dedup("another", ttl=LONG),
    Dedup("another", ttl=LONG, replace=True, extend=True),
)
KEYS = {"a": ENDING, "b": ENDING, "c": TIMED, "d": TIMED}
"""How jobs share keys: until one is finished, or for a time."""
WORKERS = ("w0", "w1")
BUSY = ("q", "q", "q", "r")
"""Most happens in one queue, so that jobs meet."""
LIMITED = QueueSettings(concurrency=1)
"""Stands for settings with limits, which are then chosen one by one."""
MANY = (1, 1, 2, 3)
ANY = range(1_000)

ALL_MOVES: dict[str, Callable[[JobRecord], Transition]] = MOVES | {
    "again later": lambda job: transition.again(job, SPENT, LONG),
    "again soon": lambda job: transition.again(job, SPENT, SOON),
    "postpone": lambda job: transition.postpone(job.ref, LONG),
    "unblock to the front": lambda job: replace(
        transition.unblock(job.ref, BlockedCause.HOLD), place=Place.FRONT
    ),
    "redrive now and here": lambda job: replace(transition.redrive(job.ref), place=Place.KEEP),
    "hold the queue": lambda job: transition.limited(job, SPENT, SOON),
    "hold the line": lambda job: transition.limited(job, SPENT, LONG, line=True),
}

OFTEN = (*ALL_MOVES, *FENCED, "release", "release")
"""Moves, as often as they should come: what a holder does, does the most damage."""


class Choose(Protocol):
    """Picks one of several: a strategy's draw, or a seeded choice."""

    def __call__(self, options: Sequence[T], /) -> T:
        """Return one of them."""
        ...


class Chosen(Protocol):
    """A kind of step."""

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        """Return a step of this kind."""
        ...

    async def play(self, player: Player) -> object:
        """See `Step`."""
        ...


@dataclass(frozen=True)
class Target:
    """A job as somebody knows it: as it is, or, to a zombie, as it was when that one got it."""

    which: int
    there: bool
    zombie: bool

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        return cls(choose(ANY), choose((True, True, True, False)), choose((False, False, True)))

    def now(self, player: Player) -> JobRecord:
        refs = tuple(player.records) if self.there else ()
        if self.zombie:
            refs = tuple(ref for ref in refs if player.former(ref)) or refs
        refs = refs or REFS
        ref = refs[self.which % len(refs)]
        unknown = JobRecord(queue=player.queue(ref.queue), id=ref.id, task="model", fence=1)
        return player.records.get(ref, unknown)

    def known(self, player: Player) -> JobRecord:
        job = self.now(player)
        former = player.former(player.ours(job.ref))
        return former[self.which % len(former)] if self.zombie and former else job


@dataclass(frozen=True)
class New:
    """A job to create."""

    ref: Ref
    state: State
    priority: int
    lifo: bool
    delay: int
    run_at: int | None
    keep: Keep
    group: str | None
    dedup: Dedup | None

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        waiting, delayed, blocked = State.WAITING, State.DELAYED, State.BLOCKED
        name = choose(NAMES)
        return cls(
            ref=Ref(choose(BUSY), name),
            state=choose((waiting, waiting, waiting, delayed, delayed, blocked)),
            priority=choose((1, 1, 2)),
            lifo=choose((False, False, True)),
            delay=choose((SOON, SOON, LONG)),
            run_at=choose((None, None, None, PAST, FAR)),
            keep=choose((Keep(), Keep(0), Keep(LONG, 0))),
            group=choose((None, None, "g", "g", "h")),
            dedup=choose(KEYS[name]) if name in KEYS else None,
        )

    def job(self, player: Player) -> NewJob:
        delayed = self.state is State.DELAYED
        record = JobRecord(
            queue=player.queue(self.ref.queue),
            id=self.ref.id,
            task="model",
            state=self.state,
            cause=BlockedCause.HOLD if self.state is State.BLOCKED else None,
            priority=self.priority,
            lifo=self.lifo,
            run_at=self.run_at if delayed else None,
            group=self.group if player.lines else None,
            dedup=self.dedup,
            policy=Policy(completed=self.keep, cancelled=self.keep, dead=self.keep),
        )
        return NewJob(record, delay=self.delay if delayed else 0)


@dataclass(frozen=True)
class Push:
    """Create jobs, whose ids and keys may be taken."""

    jobs: tuple[New, ...]

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        return cls(tuple(New.chosen(choose) for _ in range(choose(MANY))))

    async def play(self, player: Player) -> object:
        jobs = [new.job(player) for new in self.jobs]
        refs = [new.ref for new in self.jobs]
        return await player.send(("producer", "push"), refs, lambda d, op: d.push(op, jobs))


@dataclass(frozen=True)
class Claim:
    """Claim jobs, with a lease that holds or one that lapses at once; perhaps let them begin."""

    queue: str
    worker: str
    limit: int
    started: bool
    lease: int
    prefetch: int

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        return cls(
            queue=choose(BUSY),
            worker=choose(WORKERS),
            limit=choose(MANY),
            started=choose((True, False)),
            lease=choose((SOON, LONG)),
            prefetch=choose((0, 0, 1)),
        )

    async def play(self, player: Player) -> object:
        queue = player.queue(self.queue)
        ask = ClaimAsk(queue, self.worker, self.limit, self.lease, self.prefetch)
        key = (self.worker, "claim", self.queue)
        claimed = await player.send(key, (), lambda d, op: d.claim(op, ask))
        assert isinstance(claimed, Claimed)
        player.hand_out(claimed.jobs)
        if self.started and claimed.jobs:
            begun = [transition.start(job) for job in claimed.jobs]
            await player.driver.apply(player.bench.op("starter"), begun)
        return claimed


@dataclass(frozen=True)
class Reclaim:
    """Take over all jobs whose lease lapsed. Those of one instant may come in any order."""

    queue: str
    worker: str
    lease: int

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        return cls(choose(BUSY), choose(WORKERS), choose((SOON, LONG)))

    async def play(self, player: Player) -> object:
        ask = ReclaimAsk(player.queue(self.queue), self.worker, len(NAMES), self.lease)
        key = (self.worker, "reclaim", self.queue)
        jobs = await player.send(key, (), lambda d, op: d.reclaim(op, ask))
        assert isinstance(jobs, Sequence)
        player.hand_out(jobs)
        return sorted(jobs, key=lambda job: str(job.id))


@dataclass(frozen=True)
class Move:
    """A transition: of all there are, or of those that this job's state lets through."""

    target: Target
    nth: int
    possible: bool

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        return cls(Target.chosen(choose), choose(ANY), choose((True, True, False)))

    def another(self, choose: Choose) -> Self:
        """Return a move to follow this one in its batch, often of the same job."""
        target = choose((self.target, Target.chosen(choose)))
        return type(self)(target, choose(ANY), choose((True, True, False)))

    def of(self, player: Player) -> Transition:
        job, names = self.target.now(player), OFTEN
        if self.target.zombie:
            names = FENCED
        elif self.possible:
            told = {name: answer(job, ALL_MOVES[name](job)).status for name in names}
            names = tuple(name for name in names if told[name] is not ApplyStatus.STALE)
        return ALL_MOVES[names[self.nth % len(names)]](self.target.known(player))


@dataclass(frozen=True)
class Apply:
    """Apply transitions of jobs, with the current fence or a former one."""

    origin: str
    moves: tuple[Move, ...]

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        first = Move.chosen(choose)
        others = (first.another(choose) for _ in range(choose((0, 0, 0, 0, 1, 2))))
        return cls(choose((*WORKERS, "operator")), (first, *others))

    async def play(self, player: Player) -> object:
        moves = [move.of(player) for move in self.moves]
        if not player.lines:
            moves = [replace(one, hold=0) for one in moves]
        refs = [player.ours(one.ref) for one in moves]
        return await player.send((self.origin, "apply"), refs, lambda d, op: d.apply(op, moves))


@dataclass(frozen=True)
class Annotate:
    """Write a note."""

    target: Target
    text: str
    line: int

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        return cls(Target.chosen(choose), choose(("x", "y")), choose((0, 1)))

    async def play(self, player: Player) -> object:
        job, data = self.target.known(player), self.text.encode()
        note = Note(
            ref=job.ref,
            fence=job.fence,
            progress=data,
            steps={self.text: data},
            log=self.text,
            log_index=self.line,
        )
        return await player.driver.annotate([note])


@dataclass(frozen=True)
class Extend:
    """Renew leases."""

    targets: tuple[Target, ...]
    lease: int

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        targets = tuple(Target.chosen(choose) for _ in range(choose(MANY)))
        return cls(targets, choose((SOON, LONG)))

    async def play(self, player: Player) -> object:
        known = [target.known(player) for target in self.targets]
        return await player.driver.extend([HeldLease(j.ref, j.fence) for j in known], self.lease)


@dataclass(frozen=True)
class Resend:
    """Send an origin's last operation again, as after a lost reply."""

    which: int

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        return cls(choose(ANY))

    async def play(self, player: Player) -> object:
        if not player.sent:
            return None
        key = sorted(player.sent)[self.which % len(player.sent)]
        answered = await player.sent[key].send(player.driver)
        jobs = answered.jobs if isinstance(answered, Claimed) else answered
        assert isinstance(jobs, Sequence)
        told = [_same(one) for one in jobs]
        return [*key, sorted(told, key=str) if key[1] == "reclaim" else told]


def _same(one: object) -> object:
    """Return what a repeat answers for sure: not whether a record or state is of then or of now."""
    match one:
        case JobRecord():
            return one.id
        case Applied():
            return one.status
        case _:
            return one


@dataclass(frozen=True)
class PutSettings:
    """Pause, resume, move or limit a queue, by its rev or a wrong one."""

    queue: str
    settings: QueueSettings
    wrong: int

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        free = QueueSettings()
        settings = choose(
            (
                free,
                free,
                QueueSettings(paused=True),
                QueueSettings(moved_to="memory://elsewhere"),
                LIMITED,
                LIMITED,
            )
        )
        if settings is LIMITED:
            settings = QueueSettings(
                concurrency=choose((None, None, 1, 2)),
                rate=choose((None, None, Rate(1, SOON), Rate(3, LONG, 1))),
                groups=LineSettings(
                    concurrency=choose((None, None, 1)), rate=choose((None, None, Rate(1, SOON)))
                ),
                group_size=choose((None, None, 1)),
                lines=choose(
                    (
                        {},
                        {"g": LineSettings(paused=True)},
                        {"g": LineSettings(rate=Rate(2, LONG))},
                        {"h": LineSettings(concurrency=2)},
                    )
                ),
            )
        return cls(choose(BUSY), settings, choose((0, 0, 0, 1, -1)))

    async def play(self, player: Player) -> object:
        queue = player.queue(self.queue)
        rev = max(0, (await player.driver.settings(queue)).rev + self.wrong)
        wanted = self.settings
        if not player.lines:
            wanted = QueueSettings(paused=wanted.paused, moved_to=wanted.moved_to)
        return await player.driver.put_settings(queue, replace(wanted, rev=rev))


@dataclass(frozen=True)
class Prune:
    """Remove finished records whose retention has passed."""

    queue: str

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        return cls(choose(BUSY))

    async def play(self, player: Player) -> object:
        player.sent.clear()  # without a memory a store may forget operations, too
        return await player.driver.prune(PruneAsk(player.queue(self.queue), memory=0, spare=0))


@dataclass(frozen=True)
class Restart:
    """Close and open the driver, or go on with a fork."""

    fork: bool

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        return cls(choose((True, False)))

    async def play(self, player: Player) -> object:
        await player.restart(fork=self.fork)
        return None


@dataclass(frozen=True)
class Advance:
    """Let time pass: an hour if the clock can jump."""

    @classmethod
    def chosen(cls, choose: Choose) -> Self:
        return cls()

    async def play(self, player: Player) -> object:
        if player.jumps:
            await player.bench.hooks.advance(LONG)
            player.sent.clear()  # a store may forget operations by then
        return None


KINDS: dict[type[Chosen], int] = {
    Push: 8,
    Claim: 8,
    Reclaim: 3,
    Apply: 12,
    Annotate: 2,
    Extend: 2,
    Resend: 5,
    PutSettings: 4,
    Prune: 1,
    Restart: 1,
    Advance: 1,
}
"""Every kind of step, and how often it comes in a random history."""
