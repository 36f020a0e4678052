"""A rate over many worker processes: no window above it, and none of it lost."""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

import pytest
from taskmux import State, Taskmux
from taskmux.policy.gcra import as_rate

from harness.fleet import QUEUE, Fleet, WorkerFlags

__all__ = ["RateSuite"]

SECONDS = int(os.environ.get("TASKMUX_TEST_RATE_SECONDS", "5"))
RATE = as_rate("20/s+10")
LEASE = 30.0


class RateSuite:
    """Sixteen lanes in four processes share one rate."""

    @pytest.mark.timeout(120 + 2 * SECONDS)
    async def test_no_window_is_above_and_all_of_it_is_used(
        self, url: str, tmp_path: Path, record_property: pytest.RecordProperty
    ) -> None:
        flags = WorkerFlags(concurrency=4, lease=LEASE)
        async with Taskmux(url) as mux:
            queue = mux.queue(QUEUE)
            await queue.pause()
            await queue.limit(rate=RATE)
            jobs = RATE.count * SECONDS
            for _ in range(SECONDS):
                calls = [mux.enqueue("claimed_at", queue=QUEUE) for _ in range(RATE.count)]
                await asyncio.gather(*calls)
            with Fleet(url, tmp_path, flags) as fleet:
                await fleet.started(4)
                await queue.resume()
                await fleet.done(jobs)
                await fleet.shut_down()
            found = [job async for job in queue.jobs(State.COMPLETED)]
        starts = sorted(int(job.result or 0) - round(LEASE * 1000) for job in found)
        assert len(starts) == jobs
        assert len({job.history for job in found}) == 1
        most = busiest(starts, RATE.per)
        used = (jobs - 1 - RATE.burst) * RATE.per / RATE.count / (starts[-1] - starts[0])
        print(f"busiest window {most}, used {used:.1%}")  # noqa: T201 - the numbers, for -s
        record_property("used", used)
        assert most <= RATE.count + RATE.burst
        assert used >= 0.95


def busiest(starts: Sequence[int], window: int) -> int:
    """Return the most starts within any window of so many milliseconds."""
    return max(bisect_left(starts, first + window) - at for at, first in enumerate(starts))
