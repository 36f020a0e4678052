"""The suites: inherit one and give it a `url` fixture with an empty store."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest
from taskmux import State, Taskmux

from harness.fleet import LOOK_EVERY, QUEUE, Fleet, Process, WorkerFlags
from harness.journal import Ended, LeaseLost, Settled, Started
from harness.kill import Plan, run_kill_test
from harness.load import Job, drained, produce, report

__all__ = ["KillSuite", "PoisonSuite", "SignalSuite"]


class KillSuite:
    """Random kills, and stops past the lease, while jobs stream through."""

    plan: ClassVar[Plan]

    @pytest.mark.timeout(600)
    async def test_no_job_is_lost_and_no_zombie_is_believed(self, url: str, tmp_path: Path) -> None:
        plan = self.plan.scaled()
        found = await run_kill_test(url, plan, tmp_path)
        print(found)  # noqa: T201 - the numbers, for `pytest -s` and failures
        assert found.violations == []
        assert found.jobs == plan.jobs
        assert found.faults["SIGKILL"] == plan.kills
        assert found.faults["SIGSTOP"] >= plan.stops  # one that stopped the store is done again
        # The faults did hit running jobs, or nothing was shown.
        assert found.duplicates["holder killed"] > 0
        assert found.zombies > 0
        # Leases lapse where a fault strikes. A starved machine may lose a few more, not many.
        assert found.duplicates.get("lapse recorded", 0) <= plan.jobs / 100


class FleetSuite:
    """What suites with a few processes share."""

    flags: ClassVar = WorkerFlags(lease=1.0)

    @pytest.fixture
    async def mux(self, url: str) -> AsyncIterator[Taskmux]:
        async with Taskmux(url) as mux:
            yield mux

    @pytest.fixture
    def fleet(self, url: str, tmp_path: Path) -> Iterator[Fleet]:
        with Fleet(url, tmp_path, self.flags) as fleet:
            yield fleet

    async def push(self, mux: Taskmux, fleet: Fleet, *jobs: Job) -> None:
        await produce(mux, fleet.journal, jobs)

    async def running(self, fleet: Fleet, *jobs: Job) -> None:
        """Wait until the jobs' handlers have begun."""
        await fleet.until(
            f"{[job.id for job in jobs]} run",
            lambda: all(fleet.seen(Started, job.id) for job in jobs),
        )

    async def stop(self, mux: Taskmux, process: Process) -> None:
        """Stop a process, but not within a transaction.

        A store with one lock would stand still for everybody. Whether it does shows in a write;
        if so, the process goes on long before its leases lapse, and is stopped again.
        """
        while True:
            process.send(signal.SIGSTOP)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.flags.lease / 4):
                    await mux.enqueue("nothing", queue="elsewhere")
                return
            process.send(signal.SIGCONT)
            await asyncio.sleep(LOOK_EVERY)

    async def told(self, fleet: Fleet, process: Process, words: str) -> None:
        """Wait until a process has printed something."""
        await fleet.until(f"process {process.pid} says {words!r}", lambda: words in process.output)


LONG = 600.0
"""Seconds that a handler would run if nobody stopped it."""


class SignalSuite(FleetSuite):
    """What operators and kernels send, one at a time."""

    async def test_rolling_restarts_cost_nothing(self, mux: Taskmux, fleet: Fleet) -> None:
        tasks = ("work", "work", "work_in_thread")
        jobs = [
            Job(id=f"{n:04}", task=tasks[n % 3], arguments={"seconds": n % 7 * 0.01})
            for n in range(1500)
        ]
        restarts = 12
        await fleet.started(2)
        await self.push(mux, fleet, *jobs)
        for number in range(restarts):
            await fleet.done(len(jobs) * number / (restarts + 1))
            old = fleet.working()[0]
            await fleet.started()
            old.send(signal.SIGTERM)
            assert await old.ended() == 0
        await drained(mux)
        assert set(await fleet.shut_down()) == {0}
        found = await report(mux, fleet)
        assert found.violations == []
        assert found.starts == len(jobs)
        async for record in mux.queue(QUEUE).jobs(State.COMPLETED):
            assert (record.attempts, record.crashes, record.history) == (1, 0, ())

    async def test_a_second_sigterm_gives_the_jobs_back(self, mux: Taskmux, fleet: Fleet) -> None:
        jobs = [Job(id=f"{n}", arguments={"seconds": LONG}) for n in range(8)]
        await self.push(mux, fleet, *jobs)
        process = fleet.start(WorkerFlags(concurrency=4, lease=30, drain=LONG))
        await self.running(fleet, *jobs[:4])
        process.send(signal.SIGTERM)
        await self.told(fleet, process, "Draining")
        process.send(signal.SIGTERM)
        assert await process.ended() == 0
        waiting = [job async for job in mux.queue(QUEUE).jobs(State.WAITING)]
        assert [job.id for job in waiting] == [job.id for job in jobs]
        assert {(job.attempts, job.crashes, job.started) for job in waiting} == {(0, 0, False)}

    @pytest.mark.parametrize("task", ["ignore_cancellation", "work_in_thread"])
    async def test_two_interrupts_end_a_worker_whose_handler_will_not_stop(
        self, mux: Taskmux, fleet: Fleet, task: str
    ) -> None:
        deaf = Job(
            id="deaf", task=task, arguments={"seconds": LONG} if task == "work_in_thread" else {}
        )
        meek = Job(id="meek", arguments={"seconds": LONG})
        await self.push(mux, fleet, deaf, meek)
        process = fleet.start(WorkerFlags(lease=30, drain=LONG))
        await self.running(fleet, deaf, meek)
        process.send(signal.SIGINT)
        await self.told(fleet, process, "Draining")
        process.send(signal.SIGINT)
        assert await process.ended() == 0
        # The meek one was stopped and given back; the deaf one may not run twice within a lease.
        given_back = await mux.queue(QUEUE).get("meek")
        assert (given_back.state, given_back.attempts) == (State.WAITING, 0)
        kept = await mux.queue(QUEUE).get("deaf")
        assert (kept.state, kept.attempts) == (State.ACTIVE, 0)

    async def test_a_killed_workers_job_runs_again(self, mux: Taskmux, fleet: Fleet) -> None:
        job = Job(id="one", arguments={"seconds": 1.0})
        await self.push(mux, fleet, job)
        (first,) = await fleet.started()
        await self.running(fleet, job)
        while not (await mux.queue(QUEUE).get(job.id)).started:  # the mark follows the start
            await asyncio.sleep(LOOK_EVERY)
        first.send(signal.SIGKILL)
        await first.ended()
        fleet.start()
        await drained(mux)
        await fleet.shut_down()
        found = await report(mux, fleet)
        assert found.violations == []
        assert found.duplicates == {"holder killed": 1}
        record = await mux.queue(QUEUE).get("one")
        assert (record.attempts, record.crashes) == (1, 1)
        assert [attempt.outcome for attempt in record.history] == ["crashed"]

    async def test_a_zombies_outcome_is_refused(self, mux: Taskmux, fleet: Fleet) -> None:
        job = Job(id="one", arguments={"seconds": 1.0})
        await self.push(mux, fleet, job)
        (zombie,) = await fleet.started()
        await self.running(fleet, job)
        await self.stop(mux, zombie)
        await fleet.started()
        await drained(mux)
        zombie.send(signal.SIGCONT)
        await fleet.until("the zombie is refused", lambda: bool(fleet.seen(LeaseLost, "one")))
        await fleet.shut_down()
        found = await report(mux, fleet)
        assert found.violations == []
        assert found.duplicates == {"holder stopped": 1}
        told = [one.to for one in fleet.seen(Settled, "one") if isinstance(one, Settled)]
        assert told == [State.DELAYED, State.COMPLETED]  # its recovery, then the second run's end

    async def test_a_worker_that_wakes_starts_nothing_it_has_lost(
        self, mux: Taskmux, fleet: Fleet
    ) -> None:
        # Quick jobs first: a worker fetches ahead when its handlers are quick.
        quick = [Job(id=f"quick-{n}", arguments={"seconds": 0}) for n in range(100)]
        running = Job(id="running", arguments={"seconds": 1.5})
        prefetched = Job(id="prefetched", arguments={"seconds": 0})
        sleeper = fleet.start(WorkerFlags(concurrency=1, lease=self.flags.lease))
        await self.push(mux, fleet, *quick)
        await fleet.done(len(quick))
        await self.push(mux, fleet, running, prefetched)
        await self.running(fleet, running)
        while await mux.queue(QUEUE).job(prefetched.id).status() is not State.ACTIVE:
            await asyncio.sleep(LOOK_EVERY)
        await self.stop(mux, sleeper)
        (helper,) = await fleet.started()
        await drained(mux)
        sleeper.send(signal.SIGCONT)
        await fleet.shut_down()
        found = await report(mux, fleet)
        assert found.violations == []
        assert [start.pid for start in fleet.seen(Started, "prefetched")] == [helper.pid]

    async def test_a_blocked_event_loop_keeps_its_leases(self, mux: Taskmux, fleet: Fleet) -> None:
        blocking = Job(
            id="blocking", task="block_the_loop", arguments={"seconds": 3 * self.flags.lease}
        )
        beside = Job(id="beside", arguments={"seconds": 0.2})
        await fleet.started()
        await self.push(mux, fleet, beside, blocking)
        await self.running(fleet, blocking)
        await fleet.started()
        await drained(mux)
        await fleet.shut_down()
        found = await report(mux, fleet)
        assert found.violations == []
        assert found.starts == 2
        assert found.zombies == 0
        assert len(fleet.seen(Ended, "blocking")) == 1


class PoisonSuite(FleetSuite):
    """Jobs that bring their process down, among many that do not."""

    jobs: ClassVar = 500
    poison: ClassVar = 10
    max_crashes: ClassVar = 3

    @pytest.mark.timeout(600)
    async def test_poison_dies_and_nobody_else(self, mux: Taskmux, fleet: Fleet) -> None:
        every = self.jobs // self.poison
        poison = [
            Job(id=f"poison-{n}", task="poison", max_crashes=self.max_crashes)
            for n in range(self.poison)
        ]
        others = [
            Job(id=f"{n:05}", arguments={"seconds": 0.01}, max_crashes=self.max_crashes)
            for n in range(self.jobs)
        ]
        mixed = list(others)
        for number, job in enumerate(poison):
            mixed.insert(number * every, job)
        await self.push(mux, fleet, *mixed)
        for _ in range(4):
            fleet.start()
        await self._until_drained(mux, fleet)
        await fleet.shut_down()
        found = await report(mux, fleet, poison)
        print(found)  # noqa: T201 - the numbers, for `pytest -s` and failures
        assert found.violations == []
        dead = [record async for record in mux.queue(QUEUE).jobs(State.DEAD)]
        assert {record.id for record in dead} == {job.id for job in poison}
        for record in dead:
            assert (record.crashes, record.attempts) == (self.max_crashes, 0)
            assert [one.outcome for one in record.history] == ["crashed"] * self.max_crashes

    async def _until_drained(self, mux: Taskmux, fleet: Fleet) -> None:
        """Replace workers that die, as a supervisor does, until all is done."""

        async def replace() -> None:
            while True:
                fleet.look()
                for process in fleet.processes:
                    if not (process.alive or process.doomed):
                        process.doomed = True
                        fleet.start()
                await asyncio.sleep(0.05)

        keeping = asyncio.ensure_future(replace())
        try:
            await drained(mux)
        finally:
            keeping.cancel()
