"""Records: what a job is while it is stored. Plain data; no behaviour beyond derived facts.

They hold nothing that could lead back to them, so the garbage collector need not look at them
(`gc=False`): a worker that drains a queue makes some 100,000 a second.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec

from taskmux.model.backoff import Backoff
from taskmux.model.errors import NotDecodable

__all__ = [
    "PENDING",
    "TERMINAL",
    "Attempt",
    "BlockedCause",
    "Dedup",
    "ErrorInfo",
    "JobRecord",
    "Keep",
    "Parent",
    "Policy",
    "Ref",
    "State",
]


class State(StrEnum):
    """Where a job is in its life. `docs/architecture.md` draws the machine."""

    DELAYED = "delayed"
    WAITING = "waiting"
    BLOCKED = "blocked"
    ACTIVE = "active"
    COMPLETED = "completed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    MOVED = "moved"


PENDING: Final = frozenset({State.DELAYED, State.WAITING, State.BLOCKED})
"""States of a job that has not been claimed."""

TERMINAL: Final = frozenset({State.COMPLETED, State.DEAD, State.CANCELLED, State.MOVED})
"""States that a job leaves only by a redrive or its removal."""


class BlockedCause(StrEnum):
    """Why a job is blocked."""

    CHILDREN = "children"
    HOLD = "hold"
    STAGED = "staged"
    DEDUP = "dedup"


class Ref(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A job's identity: its queue and its id. The same id may exist in two queues."""

    queue: str
    id: str

    def __str__(self) -> str:
        return f"{self.queue}/{self.id}"


class Keep(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How long a finished job stays readable: by age, and by count within its queue and state."""

    age_ms: int = 86_400_000
    count: int | None = None


DAY_MS = 86_400_000


class Policy(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What was resolved at enqueue (call > task > queue defaults > mux) and goes with the job."""

    max_attempts: int = 3
    max_crashes: int = 3
    timeout_ms: int | None = None
    backoff: Backoff | None = None
    """Set when the call overrides it; otherwise the worker's registration gives it."""
    keep_result: bool = True
    expires_ms: int | None = None
    """A run that has not begun so long after `created_at` does not begin any more."""
    deadline: int | None = None
    """The same as an instant, in epoch milliseconds."""
    completed: Keep = Keep(DAY_MS)
    cancelled: Keep = Keep(DAY_MS)
    dead: Keep = Keep(30 * DAY_MS)


class Dedup(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A deduplication key, which one job of a queue owns, and how a second job with it is met.

    `ttl`: the job owns the key for so many milliseconds, whether it finishes or not; None: until
    it is finished. `replace`: a job that has not begun takes the second one's place and content;
    with `extend` its delay, too. `latest`: the same, and behind a running owner the second one
    waits as its only successor.
    """

    key: str
    ttl: int | None = None
    replace: bool = False
    extend: bool = False
    latest: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it says nothing but the key."""
        return self.ttl is None and not (self.replace or self.latest)


class Parent(msgspec.Struct, frozen=True, gc=False):
    """The job that waits for this one, and where it lives."""

    ref: Ref
    store: str | None = None
    on_failure: str = "die"


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Why a run failed. `type` is the exception's class name; no object is ever unpickled."""

    type: str
    message: str
    traceback: str | None = None

    def __str__(self) -> str:
        """Return the type and the message, if there is one."""
        return f"{self.type}: {self.message}" if self.message else self.type

    def is_a(self, name: str) -> bool:
        """Say whether its type has this name, with or without the module."""
        return self.type == name or self.type.rpartition(".")[2] == name


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One past run of a job, as its history keeps it."""

    number: int
    """From 1; a run that spent no attempt has the number it would have had."""
    fence: int
    worker: str
    outcome: str
    """`failed`, `crashed`, `timed out`, `snoozed`, ..."""
    started_at: int | None = None
    finished_at: int | None = None
    error: ErrorInfo | None = None


class JobRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A stored job: everything a driver keeps and gives back.

    Instants are epoch milliseconds by the store's clock. `payload`, `result`, `progress` and the
    values of `steps` are JSON bytes that a driver never reads.
    """

    # identity and work: set by push
    queue: str
    id: str
    task: str
    payload: bytes = b"{}"
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    policy: Policy = Policy()
    priority: Annotated[int, msgspec.Meta(ge=0, le=2047)] = 100
    lifo: bool = False
    group: str | None = None
    """The line it stands in; None is the queue's common line."""
    tags: tuple[str, ...] = ()
    dedup: Dedup | None = None
    parent: Parent | None = None
    children: int = 0
    """Children still pending; the job is blocked until it is 0."""
    schedule: str | None = None
    slot: int | None = None

    # lifecycle: changed by claim, apply and reclaim
    state: State = State.WAITING
    cause: BlockedCause | None = None
    created_at: int = 0
    run_at: int | None = None
    """When it is or was due; None for a job that never waited for a time."""
    finished_at: int | None = None
    attempts: int = 0
    """Runs spent."""
    crashes: int = 0
    """Started runs whose lease lapsed."""
    reason: str | None = None
    """Why it is where it is, in words, when the state alone does not say."""

    # lease: meaningful while active
    fence: int = 0
    """Rises at every claim, and starts above all that the id ever had: no zombie can match it."""
    worker: str | None = None
    lease_until: int | None = None
    started: bool = False
    """Whether this delivery began to run; a prefetched job has not."""
    cancel_requested: bool = False

    # outcome
    result: bytes | None = None
    error: ErrorInfo | None = None
    history: tuple[Attempt, ...] = ()

    # notes: changed by annotate
    progress: bytes | None = None
    logs: tuple[str, ...] = ()
    steps: dict[str, bytes] = msgspec.field(default_factory=dict)

    @property
    def ref(self) -> Ref:
        """The job's identity."""
        return Ref(self.queue, self.id)

    @property
    def arguments(self) -> Any:
        """The payload as plain JSON values: the arguments by parameter name."""
        return _plain(self, "payload", self.payload)

    @property
    def result_value(self) -> Any:
        """The result as plain JSON values; None if there is none. `JobHandle.result` types it."""
        return _plain(self, "result", self.result)

    @property
    def progress_value(self) -> Any:
        """The progress as plain JSON values; None if none was told."""
        return _plain(self, "progress", self.progress)


def _plain(job: JobRecord, what: str, data: bytes | None) -> Any:
    """Return what stored bytes hold.

    Raises:
        NotDecodable: they are no JSON.
    """
    try:
        return None if data is None else msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise NotDecodable(f"The {what} of job {job.ref} is no JSON: {error}.") from None
