"""What goes into a driver and comes out of it: small frozen records, nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

import msgspec

from taskmux.job import JobRecord, Ref, State

__all__ = [
    "Applied",
    "ApplyStatus",
    "Beat",
    "BeatReply",
    "Blocker",
    "ClaimAsk",
    "Claimed",
    "Command",
    "Extended",
    "FindAsk",
    "HeldLease",
    "LeaseStatus",
    "LineSettings",
    "NewJob",
    "Note",
    "Op",
    "Page",
    "PruneAsk",
    "PushStatus",
    "Pushed",
    "QueueSettings",
    "Rate",
    "ReclaimAsk",
    "Standing",
    "WorkerInfo",
]


class Op(msgspec.Struct, frozen=True, gc=False):
    """An operation id, minted by the core: who sends it and the how-manieth it is.

    An origin has one operation in flight per queue and verb, and its numbers rise, so a store
    needs to remember only each origin's last one.
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
    """Another unfinished job owns the deduplication key."""
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

    The first `start` of them are marked started. `prefetch` of the `limit` would only wait at the
    worker: a queue with limits does not give those.
    """

    queue: str
    worker: str
    limit: int
    lease: int
    start: int = 0
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


class ApplyStatus(StrEnum):
    """What became of a transition."""

    APPLIED = "applied"
    REPEATED = "repeated"
    """This very operation applied it before."""
    STALE = "stale"
    """The guard refused: another fence or another state. Nothing was written."""
    GONE = "gone"
    """There is no such record."""
    CONFLICT = "conflict"
    """The job would need its deduplication key, which another job owns. Nothing was written."""
    REQUESTED = "requested"
    """The job is active and was asked to cancel."""


class Applied(msgspec.Struct, frozen=True, gc=False):
    """The answer for one transition, and the state the job is in now (None if it is gone)."""

    status: ApplyStatus
    state: State | None = None


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
    turns of lines; delayed ones by due time; the others oldest first, or newest first with
    `newest`. `cursor` comes from the page before.
    """

    queue: str
    state: State
    tag: str | None = None
    newest: bool = False
    cursor: str | None = None
    limit: int = 100


class Page(msgspec.Struct, frozen=True):
    """Jobs, and where the next page begins (None: this was the last)."""

    jobs: Sequence[JobRecord]
    cursor: str | None = None


class PruneAsk(msgspec.Struct, frozen=True):
    """Ask to remove up to `limit` finished records of a queue whose retention has passed.

    `memory`: a store that remembers operations in the records themselves removes none that
    finished less than this many milliseconds ago. `spare`: retention by count removes none that
    finished less than this many milliseconds ago, so that its result can be read.
    """

    queue: str
    limit: int = 1000
    memory: int = 600_000
    spare: int = 10_000


class Rate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """At most `count` starts in `per` milliseconds, evenly paced, and `burst` more after a rest.

    No window of `per` milliseconds sees more than `count + burst` starts. `taskmux.gcra` does the
    arithmetic.
    """

    count: int
    per: int
    burst: int = 0


class LineSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What holds for one line of a queue. None: no limit.

    `declared`: the core's own note on where these settings come from; a driver never reads it.
    """

    paused: bool = False
    concurrency: int | None = None
    rate: Rate | None = None
    declared: str | None = None


class QueueSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """A queue's stored settings. `rev` rises at every change; 0 means never set.

    `concurrency` and `rate` hold for the queue as a whole. `lines` has what holds for single
    lines, by name; `groups` is for every other group, and `group_size` is how many waiting jobs a
    group may have: a line whose name begins with `@` is a task's own, and no group. `defaults`:
    options for jobs that do not say otherwise, as JSON; a driver never reads them.
    """

    rev: int = 0
    paused: bool = False
    moved_to: str | None = None
    concurrency: int | None = None
    rate: Rate | None = None
    groups: LineSettings = LineSettings()
    group_size: int | None = None
    lines: dict[str, LineSettings] = msgspec.field(default_factory=dict)
    defaults: bytes | None = None

    def line(self, name: str | None) -> LineSettings:
        """Return what holds for a line; None is the common one, which has no limits of its own."""
        if name is None:
            return _FREE
        return self.lines.get(name, _FREE if name[0] == "@" else self.groups)

    def size(self, name: str | None) -> int | None:
        """Return how many waiting jobs a line may have; None: as many as there are."""
        return None if name is None or name[0] == "@" else self.group_size

    @property
    def limited(self) -> bool:
        """Whether the queue or some line has a limit, so that nothing may be prefetched."""
        lines = (self.groups, *self.lines.values())
        return (self.concurrency, self.rate) != (None, None) or any(
            (one.concurrency, one.rate) != (None, None) for one in lines
        )


_FREE = LineSettings()


class Standing(msgspec.Struct, frozen=True):
    """What a waiting job stands behind, for people who wonder why it does not run.

    `ahead`: waiting jobs before it in its line. `line_waiting`, `line_active`: jobs of its line.
    `active`: jobs of its queue. `lines`: lines of the queue that have waiting jobs.
    `opens_in`, `line_opens_in`: milliseconds until the rate, or a hold, of the queue or of the
    line lets a job start; 0 if it does now.
    """

    ahead: int
    line_waiting: int
    line_active: int
    active: int
    lines: int
    opens_in: int = 0
    line_opens_in: int = 0


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker tells about itself."""

    id: str
    host: str
    pid: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    concurrency: int
    running: int = 0
    paused: bool = False
    started_at: int = 0
    seen_at: int = 0
    """Set by the store at each beat."""


class Beat(msgspec.Struct, frozen=True):
    """A worker's heartbeat: itself, the leases it holds, and for how long this beat counts."""

    worker: WorkerInfo
    held: Sequence[HeldLease]
    ttl: int
    last: bool = False
    """The worker is going; forget it."""


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that a worker is told to do with its next beat.

    `value` is the new concurrency, for that verb.
    """

    verb: Literal["pause", "resume", "stop", "concurrency"]
    value: int = 0


class BeatReply(msgspec.Struct, frozen=True):
    """Which of the held jobs are asked to cancel, and what this worker was told, oldest first."""

    cancel: Sequence[HeldLease] = ()
    commands: Sequence[Command] = ()
