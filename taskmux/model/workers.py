"""What a worker tells about itself, and what it can be told. Plain data."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Command", "WorkerInfo"]


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


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that a worker is told to do with its next beat.

    `value` is the new concurrency, for that verb.
    """

    verb: Literal["pause", "resume", "stop", "concurrency"]
    value: int = 0

    def __str__(self) -> str:
        """Return it in words: `stop`, `run 20 handlers at once`."""
        many = "1 handler" if self.value == 1 else f"{self.value} handlers"
        return f"run {many} at once" if self.verb == "concurrency" else self.verb
