"""The kill run: workers are killed, and stopped past their lease, while jobs stream through."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from random import Random

import msgspec
from taskmux import Taskmux
from tests.scale import scaled

from harness.checker import Report
from harness.fleet import Fleet, Process, WorkerFlags
from harness.load import Job, drained, produce, report

__all__ = ["Plan", "run_kill_test"]

BACKLOG = 1_000
"""Jobs that wait at once: pushes go on during the whole run."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a kill run. Faults are spread over the jobs, so that all strike under load.

    `lease` and `longest_job` are in seconds.
    """

    jobs: int = 10_000
    workers: int = 4
    kills: int = 40
    stops: int = 10
    lease: float = 1.5
    concurrency: int = 10
    longest_job: float = 0.04
    seed: int = 20_240_229

    def scaled(self) -> Plan:
        """Return the plan at the scale of this run."""
        return msgspec.structs.replace(
            self,
            jobs=scaled(self.jobs, 1000),
            kills=scaled(self.kills, 4),
            stops=scaled(self.stops, 2),
        )


async def run_kill_test(url: str, plan: Plan, directory: Path) -> Report:
    """Run the plan on an empty store and return what the checker found."""
    rng = Random(plan.seed)
    jobs = [
        Job(id=f"{number:06}", arguments={"seconds": rng.uniform(0, plan.longest_job)})
        for number in range(plan.jobs)
    ]
    flags = WorkerFlags(concurrency=plan.concurrency, lease=plan.lease)
    with Fleet(url, directory, flags) as fleet:
        async with Taskmux(url) as mux:
            await fleet.started(plan.workers)

            def ready() -> bool:
                return len(fleet.acked) - len(fleet.finished) < BACKLOG

            async with asyncio.TaskGroup() as group:
                group.create_task(produce(mux, fleet.journal, jobs, ready))
                group.create_task(_inject(fleet, plan, rng))
            await drained(mux)
            assert set(await fleet.shut_down()) == {0}
            return await report(mux, fleet)


async def _inject(fleet: Fleet, plan: Plan, rng: Random) -> None:
    """Strike at random workers, each time that the next share of the jobs is done."""
    faults = [signal.SIGKILL] * plan.kills + [signal.SIGSTOP] * plan.stops
    rng.shuffle(faults)
    async with asyncio.TaskGroup() as group:
        for number, fault in enumerate(faults):
            share = plan.jobs * (number + rng.random()) / (len(faults) + 1)
            await fleet.done(share)
            await fleet.until("two workers work", lambda: len(fleet.working()) > 1)
            if fault is signal.SIGKILL:
                victim = rng.choice(fleet.working())
                victim.send(fault)
                await victim.ended()
                fleet.start()
            else:
                victim = await _stop(fleet, rng)
                group.create_task(_continue(victim, plan.lease * rng.uniform(2, 3)))


async def _stop(fleet: Fleet, rng: Random) -> Process:
    """Stop a worker while the others go on.

    One that is stopped inside a transaction of an embedded store stops them all: then nobody can
    take its jobs, which shows nothing. It continues, and another one is stopped.
    """
    for _ in range(20):
        fleet.look()
        ended = len(fleet.finished)
        victim = rng.choice(fleet.working())
        victim.send(signal.SIGSTOP)
        with suppress(AssertionError):
            await fleet.until("others go on", lambda: len(fleet.finished) > ended + 20, 0.5)  # noqa: B023 - called at once
            return victim
        victim.send(signal.SIGCONT)
    raise AssertionError("whoever is stopped, the store stands still")


async def _continue(victim: Process, pause: float) -> None:
    await asyncio.sleep(pause)  # a lease is a time: only time makes it lapse
    victim.send(signal.SIGCONT)
