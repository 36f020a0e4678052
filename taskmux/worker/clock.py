"""The two clocks of a worker's process."""

from __future__ import annotations

import time
from time import monotonic

__all__ = ["monotonic", "now_ms"]
# `monotonic` is for leases and deadlines. It is asked three times a job, so it is the clock itself.


def now_ms() -> int:
    """Return this machine's time, epoch milliseconds: for histories only, never for decisions."""
    return time.time_ns() // 1_000_000
