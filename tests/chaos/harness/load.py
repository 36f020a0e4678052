"""The load of a chaos run: a producer that keeps books, and what is stored at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from taskmux import JobRecord, State, Taskmux
from taskmux.driver import Ref

from harness.checker import Evidence, Report, check
from harness.fleet import PATIENCE, QUEUE, Fleet, until
from harness.journal import Acked, Intent, Journal

__all__ = ["Job", "drained", "produce", "report"]

IN_FLIGHT = 100


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job to push."""

    id: str
    task: str = "work"
    arguments: Mapping[str, Any] = {}
    max_crashes: int = 1000
    """Far more than any innocent job meets: dying of other people's faults is another test."""

    @property
    def ref(self) -> Ref:
        return Ref(QUEUE, self.id)


async def produce(
    mux: Taskmux,
    journal: Journal,
    jobs: Iterable[Job],
    ready: Callable[[], bool] = lambda: True,
) -> None:
    """Push jobs, some together, writing down each intent and each acknowledgement.

    `ready` says whether the next ones may go, so that they come while others run.
    """

    async def push(job: Job) -> None:
        journal.write(Intent(ref=job.ref))
        await mux.enqueue(
            job.task, job.arguments, queue=QUEUE, id=job.id, max_crashes=job.max_crashes
        )
        journal.write(Acked(ref=job.ref))

    batch: list[Job] = []
    for job in jobs:
        batch.append(job)
        if len(batch) == IN_FLIGHT:
            await until("there is room for more jobs", ready)
            await asyncio.gather(*map(push, batch))
            batch.clear()
    await asyncio.gather(*map(push, batch))


async def drained(mux: Taskmux, patience: float = PATIENCE) -> None:
    """Wait until no job is unfinished.

    Raises:
        AssertionError: some never finish.
    """
    deadline = asyncio.get_running_loop().time() + patience
    while (counts := await mux.queue(QUEUE).counts()).unfinished:
        assert asyncio.get_running_loop().time() < deadline, f"never drained: {counts}"
        await asyncio.sleep(0.1)


async def report(mux: Taskmux, fleet: Fleet, poison: Iterable[Job] = ()) -> Report:
    """Check the journal against what is stored."""
    fleet.look()
    assert fleet.torn <= sum(process.doomed for process in fleet.processes)
    records: dict[Ref, JobRecord] = {}
    for state in State:
        async for job in mux.queue(QUEUE).jobs(state):
            records[job.ref] = job
    evidence = Evidence(
        entries=fleet.entries,
        records=records,
        total=(await mux.queue(QUEUE).counts()).total,
        lease=fleet.flags.lease,
        poison=frozenset(job.ref for job in poison),
    )
    return check(evidence)
