"""Capabilities: what a driver may do beyond the required verbs, as types.

A driver has a capability by having its methods; nothing is declared twice. The core checks at
startup, and a feature whose capability is missing is refused by name (`UnsupportedFeature`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from taskmux.errors import UnsupportedFeature
from taskmux.job import JobRecord, Ref
from taskmux.messages import Beat, BeatReply, Command, NewJob, Op, Pushed, Standing, WorkerInfo

__all__ = [
    "CAPABILITIES",
    "LINE_LIMIT",
    "Event",
    "Events",
    "Fired",
    "Flows",
    "Lines",
    "Notice",
    "Portable",
    "Presence",
    "ScheduleRecord",
    "Schedules",
    "Transactions",
    "capabilities_of",
    "require",
]


@runtime_checkable
class Presence(Protocol):
    """A registry of live workers, and a way to reach them."""

    async def beat(self, beat: Beat) -> BeatReply:
        """Record the heartbeat for `beat.ttl` milliseconds; return what the worker should do.

        B1 The worker is listed, with `seen_at` = now, until the ttl passes or it says `last`.
        B2 Of the held leases, those whose job is asked to cancel come back.
        B3 What the worker was told since its last beat comes back once, oldest first.
        """
        ...

    async def tell(self, worker: str, command: Command) -> bool:
        """Leave a command for a live worker's next beat; False if no such worker lives (B3)."""
        ...

    async def workers(self) -> Sequence[WorkerInfo]:
        """Return the workers whose last beat still counts, by id."""
        ...


LINE_LIMIT = 100
"""How many lines that may not give one claim passes over at most; they are not looked at again
until they may. A claim that stops there without a job says `next_in=0`."""


@runtime_checkable
class Lines(Protocol):
    """Fair turns between groups, and limits: what `push`, `claim`, `apply` and `wait` also keep.

    C8 Jobs stand in lines: their `group`, or the queue's common line. Lines with waiting jobs take
       turns, one job each, across claims; order (C1) holds within a line. A line whose first
       waiting job comes goes behind the others, and so does one that may give again after C9 to
       C11. No claim looks at more than a bounded number of lines and jobs.
    C9 At most `concurrency` jobs of a queue, or of a line, are ACTIVE after a claim. Counted are
       the leases themselves, so nothing drifts. A queue that is full says
       `blocked_by="concurrency"`.
    C10 A rate of a queue, or of a line, lets as many jobs go as `gcra.room` says. A queue out of it
       says `blocked_by="rate"`.
    C11 A line that is paused, full, or out of its rate gives nothing; the others go on. If all
       lines with waiting jobs are: `blocked_by="lines"`.
    C12 A queue that has limits (`QueueSettings.limited`) says so, and gives at most `limit` -
       `prefetch`. New settings count at the next claim.
    C13 With `blocked_by` "rate" or "lines", `next_in` (C7) is the time until a rate or hold lets
       the next job go, if that is sooner than the next delayed job.
    P8 A job whose group has `group_size` waiting jobs already is not created: FULL. Counted are
       those before it in the batch, too; delayed and blocked jobs do not count, and lines of
       tasks (`@...`) are no groups. The id and the deduplication key are checked before.
    A11 An applied transition with `hold` lets its job's queue, or line, give nothing for that
       long, as if out of its rate; the later end of two holds counts. New settings end all holds
       of their queue.
    W4 A job that leaves ACTIVE ends the waits of those whose claims found its queue or line full.
    """

    async def standing(self, ref: Ref) -> Standing | None:
        """Return what a waiting job stands behind; None if it is not waiting.

        G4 Exact when nothing else happens; it never changes anything.
        """
        ...


class ScheduleRecord(msgspec.Struct, frozen=True):
    """A stored schedule. `data` is the core's own; `next_at` orders the due ones."""

    id: str
    queue: str
    rev: int
    next_at: int | None
    data: bytes


class Fired(msgspec.Struct, frozen=True):
    """Whether the slot was fired by this call, and the schedule as it is now."""

    fired: bool
    schedule: ScheduleRecord | None


@runtime_checkable
class Schedules(Protocol):
    """Recurring jobs: slots advanced and fired exactly once, with no leader."""

    async def put_schedule(self, schedule: ScheduleRecord) -> bool:
        """Store a schedule if its rev is the stored one (0: none yet)."""
        ...

    async def schedules(self, due_within: int | None = None) -> Sequence[ScheduleRecord]:
        """Return schedules, or only those due within so many milliseconds of the store's now."""
        ...

    async def remove_schedule(self, schedule: str) -> bool:
        """Remove a schedule; say whether there was one."""
        ...

    async def fire(
        self, op: Op, schedule: ScheduleRecord, next_at: int | None, job: NewJob
    ) -> Fired:
        """Advance the schedule to `next_at` and create the slot's job, both or neither."""
        ...


class Notice(msgspec.Struct, frozen=True):
    """What a finished child's store has for its parent's store."""

    child: Ref
    parent: Ref
    store: str | None
    data: bytes


@runtime_checkable
class Flows(Protocol):
    """Parents that wait for children, in this store or another."""

    async def outbox(self, limit: int) -> Sequence[Notice]:
        """Return notices that were written with terminal transitions and not dismissed yet."""
        ...

    async def resolve(self, notices: Sequence[Notice]) -> Sequence[int]:
        """Record each child's outcome at its parent once; return the children still pending."""
        ...

    async def dismiss(self, notices: Sequence[Notice]) -> None:
        """Forget notices that were delivered."""
        ...


class Event(msgspec.Struct, frozen=True):
    """One thing that happened to a job; `id` orders the events of a queue."""

    id: str
    kind: str
    ref: Ref
    at: int


@runtime_checkable
class Events(Protocol):
    """A queue's stream of events, readable from any process."""

    def events(self, queue: str, after: str | None = None) -> AsyncIterator[Event]:
        """Yield events after the one named, or from now on."""
        ...


@runtime_checkable
class Portable(Protocol):
    """Takes records as they are: for migration."""

    async def load(self, records: Sequence[JobRecord]) -> Sequence[bool]:
        """Store records in any state as they are; False where the id exists."""
        ...


@runtime_checkable
class Transactions(Protocol):
    """Takes jobs inside a transaction that the application began on its own client."""

    async def push_within(self, session: Any, jobs: Sequence[NewJob]) -> Sequence[Pushed]:
        """Create jobs as `push` does, in the session's transaction.

        A commit makes the jobs, an abort none; no worker sees them before the commit.
        A duplicate id or key is answered as by `push` and does not abort the transaction.
        """
        ...


CAPABILITIES: dict[str, type] = {
    "presence": Presence,
    "lines": Lines,
    "schedules": Schedules,
    "flows": Flows,
    "events": Events,
    "portable": Portable,
    "transactions": Transactions,
}
"""Every capability by the name that errors and `taskmux drivers` use."""


def capabilities_of(driver: object) -> tuple[str, ...]:
    """Return the names of the capabilities that the driver has."""
    return tuple(name for name, kind in CAPABILITIES.items() if isinstance(driver, kind))


def require(driver: object, capability: str, *, feature: str) -> None:
    """Refuse a feature on a driver that lacks what the feature needs.

    Args:
        driver: the driver in use.
        capability: a name in `CAPABILITIES`.
        feature: what the user asked for, as the subject of a sentence.

    Raises:
        UnsupportedFeature: the driver lacks the capability; the message names all three.
    """
    if not isinstance(driver, CAPABILITIES[capability]):
        url = getattr(driver, "url", None)
        raise UnsupportedFeature(
            f"{feature} needs the capability {capability!r}, which {type(driver).__name__} "
            f"({url or 'no URL'}) does not have. Use another backend for it: `taskmux drivers` "
            f"lists what each can do."
        )
