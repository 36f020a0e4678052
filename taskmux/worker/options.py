"""A worker's settings, and the stores it serves."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence

import msgspec

from taskmux.driver import Driver
from taskmux.errors import DeclarationError

__all__ = ["Link", "WorkerOptions"]

MIN_LEASE_MS = 50
MAX_CONCURRENCY = 10_000


class Link(msgspec.Struct, frozen=True):
    """A store, and which of the worker's queues live in it."""

    driver: Driver
    queues: tuple[str, ...]


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker does; durations in milliseconds.

    `prefetch`: how many claimed jobs may wait for a free lane. `max_block_ms`: how long the
    renewal thread keeps leases for an event loop that does not turn. `idle_ms`: the longest sleep
    of an idle fetcher.
    """

    queues: tuple[str, ...]
    name: str
    concurrency: int = 10
    lease_ms: int = 30_000
    drain_ms: int = 25_000
    prefetch: int = 10
    max_block_ms: int = 300_000
    idle_ms: int = 5_000
    unsettled: int = 2_000

    @classmethod
    def checked(
        cls, queues: Sequence[str], *, concurrency: int, lease_ms: int, drain_ms: int
    ) -> WorkerOptions:
        """Return options with a fresh worker name.

        Raises:
            DeclarationError: no queue, or a number out of range.
        """
        if not queues:
            raise DeclarationError("A worker needs at least one queue, such as queues=['default'].")
        if isinstance(concurrency, bool) or not 1 <= concurrency <= MAX_CONCURRENCY:
            raise DeclarationError(
                f"concurrency {concurrency!r} is not a number from 1 to {MAX_CONCURRENCY}."
            )
        if lease_ms < MIN_LEASE_MS:
            raise DeclarationError(
                f"A lease of {lease_ms} ms cannot be renewed in time. Use at least "
                f"{MIN_LEASE_MS} ms; seconds are usual."
            )
        return cls(
            queues=tuple(queues),
            name=worker_name(),
            concurrency=concurrency,
            lease_ms=lease_ms,
            drain_ms=drain_ms,
            prefetch=concurrency,
        )


def worker_name() -> str:
    """Return a name that no other worker has: host, process and a random part."""
    host = re.sub(r"[^A-Za-z0-9.\-]", "-", socket.gethostname())[:64] or "host"
    return f"{host}-{os.getpid()}-{os.urandom(3).hex()}"
