"""Triggers and schedules: when something is due, as data that becomes JSON and comes back.

A *slot* is one due instant, in epoch milliseconds. A trigger has slots; a schedule is a trigger,
what holds for the jobs of its slots, and how far it has come. `taskmux.policy.schedule` computes
with them, and its builders are where users' input is checked.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

import msgspec

__all__ = [
    "DIALECT",
    "AnyTrigger",
    "BoundedTrigger",
    "CronTrigger",
    "Exclusions",
    "InstantTrigger",
    "IntervalTrigger",
    "Misfire",
    "Plan",
    "Progress",
    "Schedule",
    "SlotJob",
    "Stamp",
    "Trigger",
]

DIALECT = 1
"""The version of our cron dialect: higher when an expression comes to mean something else."""

DAY_MS = 86_400_000

_Instant = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class CronTrigger(msgspec.Struct, frozen=True, tag_field="kind", tag="cron", omit_defaults=True):
    """The wall clock of a zone shows what the expression says.

    `gap`: a fixed time that a clock set forward skips is due at the first instant after the gap,
    or not at all. `repeated`: a fixed time that a clock set back shows twice is due the first time,
    or both times. `seconds`: where an expression of six fields has its seconds.
    """

    expression: str
    tz: str = "UTC"
    gap: Literal["shift", "skip"] = "shift"
    repeated: Literal["first", "both"] = "first"
    seconds: Literal["first", "last"] = "first"


class IntervalTrigger(
    msgspec.Struct, frozen=True, tag_field="kind", tag="interval", omit_defaults=True
):
    """Every so many milliseconds, counted from the anchor in both directions."""

    every_ms: Annotated[int, msgspec.Meta(ge=1)]
    anchor: _Instant = 0


class InstantTrigger(
    msgspec.Struct, frozen=True, tag_field="kind", tag="instant", omit_defaults=True
):
    """Once."""

    at: _Instant


class AnyTrigger(msgspec.Struct, frozen=True, tag_field="kind", tag="any", omit_defaults=True):
    """Whenever one of several is due; an instant that they share is one slot."""

    triggers: tuple[Trigger, ...]


class Exclusions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is left out. `weekdays`: 0 is Monday. `dates`: first and last days.

    Both are days in the zone. `spans`: from an instant until before another.
    """

    tz: str = "UTC"
    weekdays: tuple[int, ...] = ()
    dates: tuple[tuple[date, date], ...] = ()
    spans: tuple[tuple[_Instant, _Instant], ...] = ()


class BoundedTrigger(
    msgspec.Struct, frozen=True, tag_field="kind", tag="bounded", omit_defaults=True
):
    """Another trigger, from `start` to `end` (both are within), without what is excluded."""

    trigger: Trigger
    start: _Instant = 0
    end: _Instant | None = None
    exclude: Exclusions | None = None


Trigger = CronTrigger | IntervalTrigger | InstantTrigger | AnyTrigger | BoundedTrigger
"""When something is due."""


class Misfire(msgspec.Struct, frozen=True, omit_defaults=True):
    """What becomes of slots that nobody fired in time.

    A slot is late if it is older than `grace_ms` when it is seen. `skip`: late slots have no job.
    `once`: one job, for the latest slot, makes up for all that are late, unless one that is not
    late is due as well. `all`: each has its job. No slot older than `window_ms` is made up for, and
    at most `cap` jobs are made at a time, for the latest slots.
    """

    policy: Literal["skip", "once", "all"] = "once"
    window_ms: _Count = DAY_MS
    cap: Annotated[int, msgspec.Meta(ge=1)] = 100
    grace_ms: _Count = 10_000


class Stamp(msgspec.Struct, frozen=True):
    """What computed a schedule's slots, and a digest of the 50 that follow `since`."""

    dialect: int
    engine: str
    since: _Instant
    digest: str


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a schedule has come.

    `seen`: all slots up to this instant are decided, for good. `first`: the instant of the slot
    that `immediately` adds. `fired`: jobs made. `missed`: slots that were late when they were seen.
    `skipped`: slots that were due and have no job of their own.
    """

    seen: _Instant
    first: _Instant | None = None
    fired: _Count = 0
    missed: _Count = 0
    skipped: _Count = 0


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """A trigger by a name, what holds for the jobs of its slots, and how far it has come.

    `limit`: jobs in all. `jitter_ms`: a job is due up to so much after its slot.
    """

    id: str
    trigger: Trigger
    progress: Progress
    misfire: Misfire = Misfire()
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    jitter_ms: _Count = 0
    immediately: bool = False
    stamp: Stamp | None = None


class SlotJob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A job to make: its id, the slot that it is for, and when it is due."""

    id: str
    slot: int
    run_at: int


class Plan(msgspec.Struct, frozen=True):
    """What to do about a schedule now.

    `next_at`: the slot to look again at; None if none will come. `missed`, `skipped`: as in
    `Progress`, of this time; beyond 10,000 due slots both are only known to be at least that.
    `seen`: what the progress becomes.
    """

    jobs: tuple[SlotJob, ...]
    next_at: int | None
    missed: int
    skipped: int
    seen: int
