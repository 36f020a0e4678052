"""The two clocks of a worker's process."""

from __future__ import annotations

import time

__all__ = ["monotonic", "now_ms"]


def monotonic() -> float:
    """Return the process's monotonic clock in seconds: for leases and deadlines."""
    return time.monotonic()


def now_ms() -> int:
    """Return this machine's time, epoch milliseconds: for histories only, never for decisions."""
    return time.time_ns() // 1_000_000
