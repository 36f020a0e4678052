"""The driver interface: the room a driver's author reads first. The kit is the second.

A driver is storage behind a URL scheme. It holds no policy: it never decides retry or dead, never
computes a backoff and never reads a payload. It stores records, keeps them in order, hands them
out under leases, and applies guarded changes. Everything a driver needs is re-exported here.

Rules that hold for every verb:

- **Atomic per item, not per batch.** Each job or transition happens whole or not at all; a batch
  may be cut anywhere by a crash, and the same batch under the same op finishes it.
- **Repeats are harmless.** The core may send the same op again after a lost reply. `push`,
  `claim`, `apply` and `reclaim` then answer as they did, and change nothing more.
- **Time is the store's.** Durations come in; instants are made from the store's clock. Callers on
  machines with wrong clocks change nothing.
- **Errors** are mapped at the boundary to `StoreError`s: `StoreUnavailable` (and `StoreBusy`)
  where sending again may help, the others where it does not. A client library's own exception
  never leaves a driver, and no message holds a credential.
- **A record that cannot be read** (foreign, corrupt) is set aside, counted nowhere, and never
  stops the queue; `get` raises `CorruptRecord` for it.

Groups, limits and holds are one capability more, `taskmux.driver.Lines`: a driver without
them ignores `JobRecord.group`, all settings but `paused` and `moved_to`, and `Transition.hold`.

The numbers (P1, C1, ...) are contracts. `taskmux.conformance` has a case for each.
"""

from __future__ import annotations

from taskmux.config import check_options, hide_credentials, split_url
from taskmux.driver.capabilities import CAPABILITIES, capabilities_of, require
from taskmux.driver.events import EVENT_DATA, EventPage, Events, StoreEvent, What
from taskmux.driver.hook import hookimpl
from taskmux.driver.lines import LINE_LIMIT, Lines
from taskmux.driver.messages import (
    Blocker,
    ClaimAsk,
    Claimed,
    Extended,
    FindAsk,
    HeldLease,
    LeaseStatus,
    NewJob,
    Note,
    Op,
    Page,
    PruneAsk,
    Pushed,
    PushStatus,
    ReclaimAsk,
)
from taskmux.driver.presence import Beat, BeatReply, Presence
from taskmux.driver.required import PROMOTE_LIMIT, Driver
from taskmux.driver.transactions import Transactions
from taskmux.model import errors, transition
from taskmux.model.dedup import Meeting, meeting, replaced, succeeding
from taskmux.model.errors import (
    ConfigError,
    CorruptRecord,
    InvalidURL,
    StoreBusy,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreIncompatible,
    StoreUnavailable,
    UnsupportedFeature,
)
from taskmux.model.job import (
    PENDING,
    TERMINAL,
    Attempt,
    BlockedCause,
    Dedup,
    ErrorInfo,
    JobRecord,
    Keep,
    Parent,
    Policy,
    Ref,
    State,
)
from taskmux.model.judge import Move, given, holds, judge
from taskmux.model.log import Log
from taskmux.model.queue import LineSettings, QueueSettings, Rate, Standing
from taskmux.model.transition import Applied, ApplyStatus, Changes, Guard, Place, Transition
from taskmux.model.workers import Command, WorkerInfo
from taskmux.policy import gcra

__all__ = [
    "CAPABILITIES",
    "EVENT_DATA",
    "LINE_LIMIT",
    "PENDING",
    "PROMOTE_LIMIT",
    "TERMINAL",
    "Applied",
    "ApplyStatus",
    "Attempt",
    "Beat",
    "BeatReply",
    "BlockedCause",
    "Blocker",
    "Changes",
    "ClaimAsk",
    "Claimed",
    "Command",
    "ConfigError",
    "CorruptRecord",
    "Dedup",
    "Driver",
    "ErrorInfo",
    "EventPage",
    "Events",
    "Extended",
    "FindAsk",
    "Guard",
    "HeldLease",
    "InvalidURL",
    "JobRecord",
    "Keep",
    "LeaseStatus",
    "LineSettings",
    "Lines",
    "Log",
    "Meeting",
    "Move",
    "NewJob",
    "Note",
    "Op",
    "Page",
    "Parent",
    "Place",
    "Policy",
    "Presence",
    "PruneAsk",
    "PushStatus",
    "Pushed",
    "QueueSettings",
    "Rate",
    "ReclaimAsk",
    "Ref",
    "Standing",
    "State",
    "StoreBusy",
    "StoreDenied",
    "StoreError",
    "StoreEvent",
    "StoreFull",
    "StoreIncompatible",
    "StoreUnavailable",
    "Transactions",
    "Transition",
    "UnsupportedFeature",
    "What",
    "WorkerInfo",
    "capabilities_of",
    "check_options",
    "errors",
    "gcra",
    "given",
    "hide_credentials",
    "holds",
    "hookimpl",
    "judge",
    "meeting",
    "replaced",
    "require",
    "split_url",
    "succeeding",
    "transition",
]
