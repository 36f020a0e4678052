"""The capability `presence`: a registry of live workers, and a way to reach them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from taskmux.driver.messages import HeldLease
from taskmux.model.workers import Command, WorkerInfo

__all__ = ["Beat", "BeatReply", "Presence"]


class Beat(msgspec.Struct, frozen=True):
    """A worker's heartbeat: itself, the leases it holds, and for how long this beat counts."""

    worker: WorkerInfo
    held: Sequence[HeldLease]
    ttl: int
    last: bool = False
    """The worker is going; forget it."""


class BeatReply(msgspec.Struct, frozen=True):
    """Which of the held jobs are asked to cancel, and what this worker was told, oldest first."""

    cancel: Sequence[HeldLease] = ()
    commands: Sequence[Command] = ()


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
