from __future__ import annotations

import asyncio
from typing import Any

import pytest
from taskmux.model.job import JobRecord, Policy, State
from taskmux.policy.lifecycle import last_chance
from taskmux.worker.held import Held, Stop
from taskmux.worker.lanes import BURST, Lanes

NOWHERE: Any = None
"""The station of these jobs: lanes do not look at it."""


def job(name: str, *, crashes: int = 0, fence: int = 1) -> JobRecord:
    return JobRecord(
        queue="q",
        id=name,
        task="t",
        state=State.ACTIVE,
        crashes=crashes,
        policy=Policy(max_crashes=3),
        fence=fence,
    )


def last(name: str) -> JobRecord:
    """A job whose next crash would be its last."""
    return job(name, crashes=2)


class Crew:
    """Lanes and a few runners whose jobs end when the test says so."""

    def __init__(self, concurrency: int = 2, prefetch: int = 2) -> None:
        self.lanes = Lanes(concurrency, prefetch)
        self.lanes._mean_run = 0.0  # handlers are known to be quick
        self.given_back: list[str] = []
        self.patience = 60.0
        self.taken: asyncio.Queue[str] = asyncio.Queue()
        self.running: dict[str, asyncio.Event] = {}
        self.together: list[set[str]] = []
        self.tasks = [asyncio.ensure_future(self._lane()) for _ in range(concurrency)]

    async def _lane(self) -> None:
        while (held := await self.lanes.take()) is not None:
            if last_chance(held.job):
                self.given_back += [one.job.id for one in self.lanes.seclude(held)]
                await self.lanes.others_finish(self.patience)
                if not self.lanes.serving:
                    self.lanes.done(held)
                    continue
            self.running[held.job.id] = asyncio.Event()
            self.together.append(set(self.running))
            self.taken.put_nowait(held.job.id)
            await self.running[held.job.id].wait()
            del self.running[held.job.id]
            self.lanes.forget(held)
            self.lanes.done(held)

    def add(self, *jobs: JobRecord) -> None:
        self.lanes.add(jobs, NOWHERE, 1e9)

    async def started(self, count: int) -> list[str]:
        return [await self.taken.get() for _ in range(count)]

    def finish(self, *ids: str) -> None:
        for one in ids:
            self.running[one].set()

    async def settle(self) -> None:
        """Let every lane do what it can do now."""
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def crew():
    crew = Crew()
    yield crew
    for task in crew.tasks:
        task.cancel()
    await asyncio.wait(crew.tasks)


class TestRoom:
    async def test_an_empty_worker_wants_its_lanes_and_its_prefetch(self, crew):
        await crew.settle()
        assert crew.lanes.room == 4

    async def test_running_and_waiting_jobs_take_it_up(self, crew):
        crew.add(job("a"))
        assert crew.lanes.room == 3  # not started yet, and yet counted
        await crew.started(1)
        assert crew.lanes.room == 3
        crew.add(job("b"), job("c"), job("d"))
        await crew.started(1)
        assert (crew.lanes.room, crew.lanes.running) == (0, 2)

    async def test_more_than_was_asked_for_leaves_no_room(self, crew):
        crew.add(*(job(str(number)) for number in range(9)))
        assert crew.lanes.room < 0

    async def test_only_quick_handlers_are_fetched_ahead_for(self):
        lanes = Lanes(2, 8)
        assert lanes.room == 2  # nothing is known yet

        async def ran_for(seconds: float) -> None:
            lanes.add([job("a")], NOWHERE, 1e9)
            held = await lanes.take()
            held.began, held.ended = 100.0, 100.0 + seconds
            lanes.forget(held)
            lanes.done(held)

        for _ in range(40):
            await ran_for(0.001)
        assert lanes.room == 10
        await ran_for(5.0)
        assert lanes.room == 2  # behind a slow one nobody should wait

    async def test_outcomes_that_pile_up_leave_no_room(self):
        lanes = Lanes(2, 2, unsettled=1)
        lanes._mean_run = 0.0
        lanes.add([job("a")], NOWHERE, 1e9)
        held = await lanes.take()
        lanes.done(held)
        assert lanes.room == 0  # its outcome is on its way
        lanes.want.clear()
        lanes.forget(held)
        assert lanes.want.is_set()
        assert lanes.room == 4

    async def test_a_finished_job_makes_room_and_says_so(self, crew):
        crew.add(job("a"))
        await crew.started(1)
        crew.lanes.want.clear()
        crew.finish("a")
        await crew.lanes.want.wait()
        assert crew.lanes.room == 4


class TestOrder:
    async def test_jobs_start_in_the_order_they_came(self, crew):
        crew.add(*(job(name) for name in "abcd"))
        assert await crew.started(2) == ["a", "b"]
        crew.finish("b")
        assert await crew.started(1) == ["c"]
        crew.finish("a")
        assert await crew.started(1) == ["d"]

    async def test_no_more_run_than_there_are_lanes(self, crew):
        crew.add(*(job(name) for name in "abcd"))
        await crew.settle()
        assert max(map(len, crew.together)) == 2


class TestLastChance:
    async def test_it_waits_for_the_others_and_runs_alone(self, crew):
        crew.add(job("a"), last("poison"), job("b"), job("c"))
        await crew.started(1)
        await crew.settle()
        assert set(crew.running) == {"a"}
        assert crew.given_back == ["b", "c"]  # nobody is kept waiting behind it
        assert crew.lanes.room == 0
        crew.finish("a")
        assert await crew.started(1) == ["poison"]
        await crew.settle()
        assert set(crew.running) == {"poison"}
        crew.finish("poison")
        crew.add(job("d"))
        assert await crew.started(1) == ["d"]
        assert not [ids for ids in crew.together if "poison" in ids and len(ids) > 1]

    async def test_it_waits_for_the_last_of_the_others(self):
        crew = Crew(concurrency=3)
        crew.add(job("a"), job("b"), last("poison"))
        await crew.started(2)
        crew.finish("a")
        await crew.settle()
        assert set(crew.running) == {"b"}
        crew.finish("b")
        assert await crew.started(1) == ["poison"]
        crew.lanes.drain()
        crew.finish("poison")
        await asyncio.wait_for(asyncio.gather(*crew.tasks), 5)

    async def test_it_does_not_wait_for_ever(self, crew):
        crew.patience = 0.0
        crew.add(job("long"), last("poison"))
        assert await crew.started(2) == ["long", "poison"]

    async def test_two_of_them_run_one_after_the_other(self, crew):
        crew.add(last("p1"), last("p2"))
        assert await crew.started(1) == ["p1"]
        await crew.settle()
        assert set(crew.running) == {"p1"}
        assert crew.given_back == ["p2"]
        crew.finish("p1")
        crew.add(last("p2"))
        assert await crew.started(1) == ["p2"]
        assert [set(ids) for ids in crew.together] == [{"p1"}, {"p2"}]

    async def test_there_is_room_again_when_it_is_done(self, crew):
        crew.add(last("poison"))
        await crew.started(1)
        assert crew.lanes.room == 0
        crew.lanes.want.clear()
        crew.finish("poison")
        await crew.lanes.want.wait()
        assert crew.lanes.room == 4


class TestDraining:
    async def test_what_was_not_started_comes_back_and_the_rest_may_finish(self, crew):
        crew.add(*(job(name) for name in "abcd"))
        await crew.started(2)
        assert [held.job.id for held in crew.lanes.drain()] == ["c", "d"]
        assert crew.lanes.room == 0
        crew.finish("a", "b")
        await asyncio.wait_for(asyncio.gather(*crew.tasks), 5)  # every lane has gone home

    async def test_idle_lanes_go_home_at_once(self, crew):
        await crew.settle()
        crew.lanes.drain()
        await asyncio.wait_for(asyncio.gather(*crew.tasks), 5)

    async def test_nothing_is_started_that_arrives_late(self, crew):
        crew.add(job("a"))
        await crew.started(1)
        crew.lanes.drain()
        crew.add(job("late"))
        crew.finish("a")
        await asyncio.wait_for(asyncio.gather(*crew.tasks), 5)
        assert crew.taken.empty()
        assert [held.job.id for held in crew.lanes.held] == ["late"]

    async def test_a_last_chance_that_was_waiting_is_not_started(self, crew):
        crew.add(job("a"), last("poison"))
        await crew.started(1)
        await crew.settle()
        crew.lanes.drain()
        crew.finish("a")
        await asyncio.wait_for(asyncio.gather(*crew.tasks), 5)
        assert crew.taken.empty()
        assert [held.job.id for held in crew.lanes.held] == ["poison"]

    async def test_a_lane_that_was_cancelled_while_it_waited_takes_no_turn_away(self, crew):
        await crew.settle()
        crew.tasks[0].cancel()
        await crew.settle()
        crew.add(job("a"))
        assert await crew.started(1) == ["a"]

    async def test_idle_is_told_when_the_last_handler_ends(self, crew):
        crew.add(job("a"), job("b"))
        await crew.started(2)
        idle = asyncio.ensure_future(crew.lanes.idle())
        crew.finish("a")
        await crew.settle()
        assert not idle.done()
        crew.finish("b")
        await idle

    async def test_a_job_between_two_handlers_is_not_idle(self, crew):
        # A lane that has taken a job counts as running even before the handler's first step.
        crew.add(job("a"))
        await crew.started(1)
        assert crew.lanes.running == 1


class Interrupted:
    """An invocation that counts how often it is interrupted."""

    def __init__(self) -> None:
        self.times = 0

    def interrupt(self) -> None:
        self.times += 1

    def __await__(self) -> Any:
        raise NotImplementedError


class TestHeld:
    async def test_two_deliveries_of_one_job_are_two(self, crew):
        crew.add(job("a", fence=1), job("a", fence=2))
        (first,) = (one for one in crew.lanes.held if one.job.fence == 1)
        crew.lanes.forget(first)
        assert [one.job.fence for one in crew.lanes.held] == [2]

    async def test_an_interrupted_one_stops_once_and_for_the_first_reason(self):
        held = Held(job("a"), NOWHERE, 0.0)
        running = Interrupted()
        held.invocation = running
        held.interrupt(Stop.DRAIN)
        held.interrupt(Stop.CANCEL)
        assert (held.stop, running.times) == (Stop.DRAIN, 1)

    async def test_a_lost_lease_is_the_last_word(self):
        held = Held(job("a"), NOWHERE, 0.0)
        held.invocation = running = Interrupted()
        held.interrupt(Stop.TIMEOUT)
        held.interrupt(Stop.LOST)
        held.interrupt(Stop.DRAIN)
        assert (held.stop, running.times) == (Stop.LOST, 1)

    async def test_one_that_does_not_run_is_not_interrupted(self):
        held = Held(job("a"), NOWHERE, 0.0)
        held.interrupt(Stop.DRAIN)
        assert held.stop is None


class TestTurns:
    async def test_handlers_that_never_wait_leave_the_loop_its_turns(self):
        lanes = Lanes(2, 4 * BURST)
        lanes.add([job(str(number)) for number in range(2 * BURST)], NOWHERE, 1e9)
        done = 0
        seen: list[int] = []

        async def lane() -> None:
            nonlocal done
            while (held := await lanes.take()) is not None:
                lanes.done(held)
                done += 1

        async def look() -> None:
            while done < 2 * BURST:
                seen.append(done)
                await asyncio.sleep(0)

        runners = [asyncio.ensure_future(lane()) for _ in range(2)]
        await look()
        assert BURST in seen
        lanes.drain()
        await asyncio.gather(*runners)

    async def test_every_lane_is_called_where_handlers_wait(self):
        crew = Crew(concurrency=8)
        await crew.settle()
        crew.add(*(job(str(number)) for number in range(8)))
        assert sorted(await crew.started(8)) == [str(number) for number in range(8)]
        for task in crew.tasks:
            task.cancel()
        await asyncio.wait(crew.tasks)

    async def test_a_lane_that_is_cancelled_as_it_is_called_leaves_the_job_to_others(self):
        crew = Crew(concurrency=2)
        await crew.settle()
        crew.add(job("a"))  # the first lane is called
        crew.tasks[0].cancel()
        crew.add(job("b"))
        assert await crew.started(1) == ["a"]
        crew.tasks[1].cancel()
        await asyncio.wait(crew.tasks)
