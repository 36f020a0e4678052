"""What goes into a driver and comes out of it: small frozen records, nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

import msgspec

from taskmux.model.job import BlockedCause, JobRecord, Ref, State

__all__ = [
    "Blocker",
    "ClaimAsk",
    "Claimed",
    "Extended",
    "FindAsk",
    "HeldLease",
    "LeaseStatus",
    "NewJob",
    "Note",
    "Op",
    "Page",
    "PruneAsk",
    "PushStatus",
    "Pushed",
    "ReclaimAsk",
]


class Op(msgspec.Struct, frozen=True, gc=False):
    """An operation id, minted by the core: who sends it, and the number of the operation.

    The numbers of an origin rise. It has one operation of a verb in flight: `push` and `apply`
    whatever queues their batch spans, `claim` and `reclaim` one in each queue. It sends the next
    when it knows the answer, or has given up. So a store need remember only the last operation
    that it saw of each origin, verb and queue.

    The same operation may be sent again while its first copy still runs in the store (the caller
    lost patience, the connection broke): both answer alike, and it is done once. An operation that
    arrives after a later one of its origin, verb and queue came over a connection that broke, and
    nobody waits for its answer: it changes nothing, and may raise any `StoreError`.
    """

    origin: str
    number: int

    def __str__(self) -> str:
        return f"{self.origin}:{self.number}"


class NewJob(msgspec.Struct, frozen=True, gc=False):
    """A job to create.

    `job.state` is WAITING, DELAYED or BLOCKED. A delayed one becomes due `delay` milliseconds
    after the store's now, or at the absolute `job.run_at` where the user gave one.
    """

    job: JobRecord
    delay: int = 0


class PushStatus(StrEnum):
    """What became of a new job."""

    CREATED = "created"
    DUPLICATE = "duplicate"
    """A job with this id exists; it was not touched."""
    DEDUPLICATED = "deduplicated"
    """Another job owns the deduplication key; it was not touched."""
    REPLACED = "replaced"
    """Another job owns the deduplication key, or succeeds its owner; it has this one's content."""
    MOVED = "moved"
    """The queue has moved to another store; nothing was written."""
    FULL = "full"
    """The job's line has as many waiting jobs as its queue allows; nothing was written."""


class Pushed(msgspec.Struct, frozen=True, gc=False):
    """The answer for one new job; `id` is the new job's, or that of the job in its place."""

    status: PushStatus
    id: str


class ClaimAsk(msgspec.Struct, frozen=True, gc=False):
    """Ask for up to `limit` jobs of one queue, leased to `worker` for `lease` milliseconds.

    `prefetch` of the `limit` would only wait at the worker: a queue with limits does not give
    those.
    """

    queue: str
    worker: str
    limit: int
    lease: int
    prefetch: int = 0


Blocker = Literal["paused", "concurrency", "rate", "lines"]
"""Why a claim gives nothing: the queue is paused, at its concurrency, or over its rate or held;
or each line that has waiting jobs is."""


class Claimed(msgspec.Struct, frozen=True, gc=False):
    """The jobs claimed, in order, as stored after the claim.

    `now`: the store's time. `next_in`: milliseconds until another claim may give something, if
    nobody does anything before: a delayed job is due, or a rate allows the next start. None: only
    a wake-up will tell. `blocked_by`: why nothing was given. `limited`: the queue has limits, so
    it gives nothing to prefetch.
    """

    jobs: Sequence[JobRecord]
    now: int
    next_in: int | None = None
    blocked_by: Blocker | None = None
    limited: bool = False


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What a running job leaves on its record, guarded by its fence.

    `progress` replaces; `steps` are added by name; `log` is line number `log_index` of the job's
    log (from 0); a line whose number is already taken is ignored, so a repeat adds nothing.
    """

    ref: Ref
    fence: int
    progress: bytes | None = None
    steps: dict[str, bytes] | None = None
    log: str | None = None
    log_index: int = 0


class HeldLease(msgspec.Struct, frozen=True, gc=False):
    """A lease that a worker holds."""

    ref: Ref
    fence: int


class LeaseStatus(StrEnum):
    """What became of a lease."""

    HELD = "held"
    LOST = "lost"
    CANCEL = "cancel"
    """Held, and the job is asked to cancel."""


class Extended(msgspec.Struct, frozen=True, gc=False):
    """The answer for one lease."""

    status: LeaseStatus


class ReclaimAsk(msgspec.Struct, frozen=True, gc=False):
    """Ask for up to `limit` jobs of one queue whose lease lapsed, leased anew to `worker`."""

    queue: str
    worker: str
    limit: int
    lease: int


class FindAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for one page of a queue's jobs in one state.

    Order: waiting jobs by priority and sequence, which is how they will be claimed but for the
    turns of lines; delayed ones by `run_at`; active and blocked ones by `created_at`; finished
    ones by `finished_at`. Jobs of one instant are in an order of the store's own that stays the
    same. With `newest`, all that backwards. `cursor` comes from the page before.

    `task`, `tag`, `cause` and `error` (a name of the last error's type: `ErrorInfo.is_a`) say which
    jobs are wanted: those that fit each that is set. A page ends with its `limit`th job, or when so
    many records were looked at as `scan` says (`limit`, if that is more).

    `start`, epoch milliseconds, for states in the order of `created_at` or `finished_at`: the first
    page begins with the first job of that instant or later (with `newest`: that or earlier).
    """

    queue: str
    state: State
    task: str | None = None
    tag: str | None = None
    cause: BlockedCause | None = None
    error: str | None = None
    start: int | None = None
    newest: bool = False
    cursor: str | None = None
    limit: int = 100
    scan: int = 0

    @property
    def starts_at(self) -> int | None:
        """The instant at which this page starts; None: it is the first of all, or has a cursor."""
        unordered = self.cursor is not None or self.state in {State.WAITING, State.DELAYED}
        return None if unordered else self.start

    @property
    def selects(self) -> bool:
        """Whether not every job of the state is wanted."""
        return (self.task, self.tag, self.cause, self.error) != (None, None, None, None)

    @property
    def looks(self) -> int:
        """How many records a page looks at, at most."""
        return max(self.limit, self.scan) if self.selects else self.limit

    def wants(self, job: JobRecord) -> bool:
        """Say whether a job of the state is wanted."""
        return (
            (self.task is None or job.task == self.task)
            and (self.tag is None or self.tag in job.tags)
            and (self.cause is None or job.cause is self.cause)
            and (self.error is None or (job.error is not None and job.error.is_a(self.error)))
        )


class Page(msgspec.Struct, frozen=True):
    """Jobs, and where the next page begins (None: this was the last). `now`: the store's time."""

    jobs: Sequence[JobRecord]
    cursor: str | None = None
    now: int = 0


class PruneAsk(msgspec.Struct, frozen=True):
    """Ask to remove up to `limit` finished records of a queue whose retention has passed.

    `memory`: for how many milliseconds after its end a record stays in a store that remembers
    operations in the records themselves. `spare`: for how many milliseconds after its end a record
    is safe from retention by count, so that its result can be read.
    """

    queue: str
    limit: int = 1000
    memory: int = 600_000
    spare: int = 10_000
