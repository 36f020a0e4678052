"""The app under test: what `taskmux worker harness.app:mux` imports in each worker process."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from taskmux import Context, JobRecord, Taskmux, hookimpl
from taskmux.model.transition import Transition

from harness.journal import Down, Ended, Fault, Journal, LeaseLost, Settled, Started, Up

journal: Final = Journal(Path(os.environ["CHAOS_JOURNAL"]))


class Witness:
    """Writes down what the worker is told about its runs."""

    @hookimpl
    def taskmux_settled(self, job: JobRecord, transition: Transition) -> None:
        journal.write(Settled(ref=job.ref, fence=job.fence, to=transition.to))

    @hookimpl
    def taskmux_lease_lost(self, job: JobRecord) -> None:
        journal.write(LeaseLost(ref=job.ref, fence=job.fence))

    @hookimpl
    def taskmux_worker_started(self) -> None:
        journal.write(Up())

    @hookimpl
    def taskmux_worker_stopped(self) -> None:
        journal.write(Down())


mux: Final = Taskmux(os.environ["CHAOS_URL"], plugins=[Witness()])


@contextmanager
def witnessed(ctx: Context) -> Iterator[None]:
    """Write down that a handler begins, and that it is about to return."""
    journal.write(Started(ref=ctx.job.ref, fence=ctx.fence))
    yield
    journal.write(Ended(ref=ctx.job.ref, fence=ctx.fence))


# Each handler returns its fence: the stored result tells whose outcome was taken.


@mux.task(name="work")
async def work(ctx: Context, seconds: float) -> int:
    with witnessed(ctx):
        await asyncio.sleep(seconds)
    return ctx.fence


@mux.task(name="work_in_thread")
def work_in_thread(ctx: Context, seconds: float) -> int:
    with witnessed(ctx):
        time.sleep(seconds)
    return ctx.fence


@mux.task(name="block_the_loop")
async def block_the_loop(ctx: Context, seconds: float) -> int:
    with witnessed(ctx):
        time.sleep(seconds)
    return ctx.fence


@mux.task(name="ignore_cancellation")
async def ignore_cancellation(ctx: Context) -> int:
    with witnessed(ctx):
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue


@mux.task(name="claimed_at")
async def claimed_at(ctx: Context) -> int:
    """Return when the lease ends: a lease after the instant of the claim, by the store's clock."""
    return ctx.job.lease_until or 0


@mux.task(name="poison")
async def poison(ctx: Context) -> int:
    with witnessed(ctx):
        journal.write(Fault(name="exit"))
        os._exit(1)
