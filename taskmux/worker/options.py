"""A worker's settings."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence

import msgspec

from taskmux.model.errors import DeclarationError
from taskmux.model.units import brief, check_queue

__all__ = ["MAX_CONCURRENCY", "WorkerOptions", "check_concurrency"]

MIN_LEASE_MS = 50
MAX_CONCURRENCY = 10_000
MAX_WEIGHT = 1_000


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker does; durations in milliseconds.

    `prefetch`: how many claimed jobs may wait for a free lane. `max_block_ms`: how long the
    renewal thread keeps leases for an event loop that does not turn. `idle_ms`: the longest sleep
    of an idle fetcher. `drain_ms`: with the grace for the last writes below the 30 s of Kubernetes.
    `weights`: how often each queue comes first; empty: in their order.
    """

    queues: tuple[str, ...]
    name: str
    concurrency: int = 10
    lease_ms: int = 30_000
    drain_ms: int = 20_000
    prefetch: int = 10
    max_block_ms: int = 300_000
    idle_ms: int = 5_000
    unsettled: int = 2_000
    weights: dict[str, int] = {}

    @classmethod
    def checked(
        cls,
        queues: Sequence[str] | Mapping[str, int],
        *,
        concurrency: int,
        lease_ms: int,
        drain_ms: int,
    ) -> WorkerOptions:
        """Return options with a fresh worker name.

        Raises:
            DeclarationError: no queue, or a number out of range.
            InvalidName: a queue's name cannot be stored everywhere.
        """
        if isinstance(queues, str):
            raise DeclarationError(f"queues {queues!r} is one name. Write [{queues!r}].")
        names = tuple(check_queue(name) for name in dict.fromkeys(queues))
        weights = (
            {name: _weight(name, queues[name]) for name in names}
            if isinstance(queues, Mapping)
            else {}
        )
        if not queues:
            raise DeclarationError("A worker needs at least one queue, such as queues=['default'].")
        check_concurrency(concurrency)
        if lease_ms < MIN_LEASE_MS:
            raise DeclarationError(
                f"A lease of {lease_ms} ms cannot be renewed in time. Use at least "
                f"{MIN_LEASE_MS} ms; seconds are usual."
            )
        return cls(
            queues=names,
            weights=weights,
            name=worker_name(),
            concurrency=concurrency,
            lease_ms=lease_ms,
            drain_ms=drain_ms,
            prefetch=concurrency,
        )


def check_concurrency(value: object) -> int:
    """Return how many handlers may run at once.

    Raises:
        DeclarationError: it is no number in range.
    """
    in_range = isinstance(value, int) and 1 <= value <= MAX_CONCURRENCY
    if isinstance(value, bool) or not isinstance(value, int) or not in_range:
        raise DeclarationError(
            f"concurrency {value!r} is not a number from 1 to {MAX_CONCURRENCY}."
        )
    return value


def _weight(name: str, weight: object) -> int:
    in_range = isinstance(weight, int) and 1 <= weight <= MAX_WEIGHT
    if isinstance(weight, bool) or not isinstance(weight, int) or not in_range:
        raise DeclarationError(
            f"The weight of queue {name!r} is {brief(weight)}, not a number from 1 to {MAX_WEIGHT}."
        )
    return weight


def worker_name() -> str:
    """Return a name that no other worker has: host, process and a random part."""
    host = re.sub(r"[^A-Za-z0-9.\-]", "-", socket.gethostname())[:64] or "host"
    return f"{host}-{os.getpid()}-{os.urandom(3).hex()}"
