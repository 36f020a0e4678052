"""Who is next in a SQLite file, what rests, and who hears at once that there is room again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from taskmux.driver import (
    PROMOTE_LIMIT,
    Applied,
    ApplyStatus,
    Changes,
    ClaimAsk,
    Claimed,
    ErrorInfo,
    FindAsk,
    Guard,
    HeldLease,
    JobRecord,
    Keep,
    LeaseStatus,
    LineSettings,
    NewJob,
    Note,
    Op,
    Policy,
    PruneAsk,
    PushStatus,
    QueueSettings,
    ReclaimAsk,
    State,
    StoreIncompatible,
    Transition,
    transition,
)

from taskmux_sqlite import SQLiteDriver, wait

LEASE = 60_000


def new(name: str, **fields: object) -> NewJob:
    return NewJob(JobRecord(**{"queue": "q", "id": name, "task": "t"} | fields))


class Bench:
    """A driver on a file and a clock of its own, and its verbs with fewer arguments."""

    def __init__(self, file: Path) -> None:
        self.now = 1_700_000_000_000
        self.driver = SQLiteDriver(f"sqlite:///{file}", clock=lambda: self.now)
        self.number = 0

    def op(self) -> Op:
        self.number += 1
        return Op("test", self.number)

    async def push(self, *jobs: NewJob) -> list[PushStatus]:
        return [reply.status for reply in await self.driver.push(self.op(), jobs)]

    async def claim(self, queue: str = "q", limit: int = 10) -> Claimed:
        return await self.driver.claim(self.op(), ClaimAsk(queue, "worker", limit, LEASE))

    async def claimed(self, queue: str = "q", limit: int = 10) -> list[str]:
        return [job.id for job in (await self.claim(queue, limit)).jobs]

    async def apply(self, *transitions: Transition) -> Sequence[Applied]:
        return await self.driver.apply(self.op(), transitions)

    async def found(self, state: State, *, newest: bool = False, limit: int = 2) -> list[str]:
        """Return the names on all pages."""
        names: list[str] = []
        cursor = None
        while True:
            ask = FindAsk(queue="q", state=state, newest=newest, limit=limit, cursor=cursor)
            page = await self.driver.find(ask)
            names += [job.id for job in page.jobs]
            cursor = page.cursor
            if cursor is None:
                return names


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "jobs.db")
    await bench.driver.open()
    yield bench
    await bench.driver.close()


# -- room, and who hears of it ----------------------------------------------------------------


async def ended(bench: Bench, waiting: asyncio.Future[bool]) -> bool:
    """Return whether a wait has ended by the calls so far, which is before any poll."""
    await bench.driver.counts("q")  # what ends a wait is told to this loop before this answer
    await asyncio.sleep(0)
    return waiting.done()


def moved(job: JobRecord, to: State) -> Transition:
    return Transition(ref=job.ref, guard=Guard(fence=job.fence), to=to, delay=LEASE)


WAYS_TO_LEAVE = {
    "completed": lambda job: transition.complete(job, b"1"),
    "dead": lambda job: transition.bury(job, Changes(error=ErrorInfo("E", "m"))),
    "cancelled": lambda job: transition.cancelled(job, Changes()),
    "retried": lambda job: transition.again(job, Changes(attempts=1), 1000),
    "given back": transition.release,
    "blocked": lambda job: moved(job, State.BLOCKED),
    "moved": lambda job: moved(job, State.MOVED),
    "removed": lambda job: Transition(ref=job.ref, guard=Guard(fence=job.fence), remove=True),
}


@pytest.mark.parametrize("of", ["queue", "group"])
@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
async def test_a_lone_worker_hears_at_once_that_its_own_job_left_room(
    bench: Bench, way: str, of: str
) -> None:
    one = LineSettings(concurrency=1)
    await bench.driver.put_settings(
        "q", QueueSettings(concurrency=1) if of == "queue" else QueueSettings(groups=one)
    )
    await bench.push(new("a", group="g"), new("b", group="g"))
    (job,) = (await bench.claim()).jobs
    blocked = (await bench.claim()).blocked_by
    assert blocked == ("concurrency" if of == "queue" else "lines")
    waiting = asyncio.ensure_future(bench.driver.wait(["q"], 60))
    await asyncio.sleep(0)
    assert not await ended(bench, waiting)
    (applied,) = await bench.apply(WAYS_TO_LEAVE[way](job))
    assert applied.status is ApplyStatus.APPLIED
    assert await ended(bench, waiting)
    assert len(await bench.claimed()) == 1


async def test_a_lone_worker_hears_of_room_when_an_unreadable_job_is_set_aside(
    bench: Bench,
) -> None:
    await bench.driver.put_settings("q", QueueSettings(concurrency=1))
    await bench.push(new("a"), new("b"))
    await bench.claim()
    assert (await bench.claim()).blocked_by == "concurrency"
    waiting = asyncio.ensure_future(bench.driver.wait(["q"], 60))
    await asyncio.sleep(0)
    assert not await ended(bench, waiting)
    assert bench.driver._session is not None
    await bench.driver._session.ask(
        lambda store: store._connection.execute("UPDATE bodies SET body = x'ff' WHERE number = 1")
    )
    bench.now += LEASE
    assert await bench.driver.reclaim(bench.op(), ReclaimAsk("q", "rescuer", 10, LEASE)) == []
    assert await ended(bench, waiting)


async def test_a_driver_of_this_process_hears_of_a_push_without_a_poll(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait, "FASTEST", 3600)
    monkeypatch.setattr(wait, "SLOWEST", 3600)
    await bench.claim()
    waiting = asyncio.ensure_future(bench.driver.wait(["q"], 60))
    await asyncio.sleep(0)
    assert not await ended(bench, waiting)
    other = bench.driver.fork()
    await other.open()
    await other.push(Op("other", 1), [new("a")])
    await other.close()
    assert await waiting


# -- what rests -------------------------------------------------------------------------------


async def test_a_resting_queue_leaves_other_queues_alone(bench: Bench) -> None:
    await bench.push(new("a"), new("b"), new("a", queue="r"), new("b", queue="r"))
    (job,) = (await bench.claim(limit=1)).jobs
    other = (await bench.claim("r", 1)).jobs[0]
    await bench.apply(transition.limited(job, Changes(), 5000), transition.complete(other, None))
    assert (await bench.claim()).blocked_by == "rate"
    assert await bench.claimed("r") == ["b"]
    bench.now += 5000
    assert await bench.claimed() == ["a", "b"]


async def test_a_resting_line_leaves_other_lines_and_queues_alone(bench: Bench) -> None:
    names = ["x", "y"]
    jobs = [new(f"{name}{n}", group=name) for n in (1, 2) for name in names]
    await bench.push(*jobs, *(new(name, queue="r", group=name) for name in names))
    resting, other = (await bench.claim(limit=2)).jobs
    rest = transition.limited(resting, Changes(), 5000, line=True)
    await bench.apply(rest, transition.complete(other, None))
    assert await bench.claimed() == ["y2"]
    claimed = await bench.claim()
    assert (list(claimed.jobs), claimed.blocked_by, claimed.next_in) == ([], "lines", 5000)
    assert await bench.claimed("r") == names
    bench.now += 5000
    assert await bench.claimed() == ["x1", "x2"]


async def test_a_transition_that_ends_its_job_may_let_the_queue_rest(bench: Bench) -> None:
    await bench.push(new("a"), new("b"))
    (job,) = (await bench.claim(limit=1)).jobs
    (cancelled,) = await bench.apply(
        Transition(
            ref=job.ref, guard=Guard(fence=job.fence), to=State.DEAD, hold=5000, retention=Keep(1)
        )
    )
    assert cancelled == Applied(ApplyStatus.APPLIED, State.DEAD)
    assert (await bench.claim()).next_in == 5000
    bench.now += 5000
    assert await bench.claimed() == ["b"]


# -- order ------------------------------------------------------------------------------------


async def test_due_jobs_wait_in_due_order_then_as_they_were_made(bench: Bench) -> None:
    due = {"m": 30, "z": 10, "b": 20, "y": 10, "a": 20, "k": 5}
    await bench.push(
        *(new(name, state=State.DELAYED, run_at=bench.now + delay) for name, delay in due.items())
    )
    assert await bench.found(State.DELAYED) == ["k", "z", "y", "b", "a", "m"]
    bench.now += 29
    assert await bench.claimed() == ["k", "z", "y", "b", "a"]
    bench.now += 1
    assert await bench.claimed() == ["m"]


async def test_a_claim_promotes_those_that_are_due_first(bench: Bench) -> None:
    count = PROMOTE_LIMIT + 5
    last_due_first = [
        new(f"{number:03}", state=State.DELAYED, run_at=bench.now + count - number)
        for number in range(count)
    ]
    await bench.push(*last_due_first)
    bench.now += count
    names = sorted((one.job.id for one in last_due_first), reverse=True)
    claimed = await bench.claim(limit=count)
    assert [job.id for job in claimed.jobs] == names[:PROMOTE_LIMIT]
    assert claimed.next_in == 0
    assert await bench.claimed(limit=count) == names[PROMOTE_LIMIT:]


async def test_a_due_lifo_job_goes_to_the_front(bench: Bench) -> None:
    await bench.push(
        new("early"),
        new("later", state=State.DELAYED, run_at=bench.now + 1),
        new("front", state=State.DELAYED, run_at=bench.now + 2, lifo=True),
    )
    bench.now += 2
    assert await bench.claimed() == ["front", "early", "later"]


async def test_jobs_that_end_within_a_millisecond_are_listed_and_pruned_in_one_order(
    bench: Bench,
) -> None:
    keep = Policy(completed=Keep(age_ms=LEASE, count=3))
    made = ["g", "a", "f", "b", "e", "c", "d"]
    await bench.push(*(new(name, policy=keep) for name in made))
    jobs = (await bench.claim()).jobs
    await bench.apply(*(transition.complete(job, None) for job in reversed(jobs)))
    assert await bench.found(State.COMPLETED) == made
    assert await bench.found(State.COMPLETED, newest=True) == made[::-1]
    bench.now += 1
    await bench.driver.prune(PruneAsk("q", spare=0, memory=0))
    assert await bench.found(State.COMPLETED) == made[-3:]


async def test_jobs_are_listed_in_the_order_of_their_end(bench: Bench) -> None:
    await bench.push(new("a"), new("b"), new("c"))
    for job in reversed((await bench.claim()).jobs):
        bench.now += 1
        await bench.apply(transition.complete(job, None))
    assert await bench.found(State.COMPLETED) == ["c", "b", "a"]


# -- what was answered before -----------------------------------------------------------------


async def test_the_last_operation_of_each_origin_and_verb_is_known(bench: Bench) -> None:
    driver, ask = bench.driver, ClaimAsk("q", "worker", 1, LEASE)
    for number in (1, 2, 3):
        await driver.push(Op("one", number), [new(f"one-{number}")])
        await driver.push(Op("two", number), [new(f"two-{number}")])
    first = (await driver.claim(Op("one", 3), ask)).jobs
    second = (await driver.claim(Op("two", 3), ask)).jobs
    for job, origin in ((first[0], "one"), (second[0], "two")):
        await driver.apply(Op(origin, 3), [transition.complete(job, None)])
    bench.now += 1
    for origin, job in (("one", first[0]), ("two", second[0])):
        (pushed,) = await driver.push(Op(origin, 3), [new(f"{origin}-3")])
        (again,) = await driver.apply(Op(origin, 3), [transition.complete(job, None)])
        assert pushed.status is PushStatus.CREATED
        assert again == Applied(ApplyStatus.REPEATED, State.COMPLETED)
        assert (await driver.claim(Op(origin, 3), ask)).jobs == []  # it is held no more
    with pytest.raises(StoreIncompatible, match="Numbers of one origin must rise"):
        await driver.push(Op("one", 2), [new("late")])
    assert await driver.get([new("late").job.ref]) == [None]


async def test_a_late_claim_is_refused_after_one_that_found_nothing(bench: Bench) -> None:
    ask = ClaimAsk("q", "worker", 1, LEASE)
    assert (await bench.driver.claim(Op("one", 2), ask)).jobs == []  # nothing of it is stored
    await bench.push(new("a"))
    with pytest.raises(StoreIncompatible, match="Numbers of one origin must rise"):
        await bench.driver.claim(Op("one", 1), ask)
    assert (await bench.driver.claim(Op("one", 3), ask)).jobs != []


async def test_a_repeat_knows_what_each_transition_became(bench: Bench) -> None:
    await bench.push(new("a"), new("b"), new("c"))
    a, b, c = (await bench.claim()).jobs
    op = bench.op()
    batch = [
        transition.complete(a, None),
        transition.release(a),
        transition.cancel(b.ref, Keep()),
        transition.remove(new("nobody").job.ref),
        transition.release(c),
    ]
    before = await bench.driver.apply(op, batch)
    assert [reply.status for reply in before] == [
        "applied",
        "stale",
        "requested",
        "gone",
        "applied",
    ]
    after = await bench.driver.apply(op, batch)
    expected = ["repeated", "stale", "requested", "gone", "repeated"]
    assert [reply.status for reply in after] == expected
    assert [reply.state for reply in after] == [reply.state for reply in before]


# -- a queue that moves -----------------------------------------------------------------------


async def test_a_job_that_runs_while_its_queue_moves_is_settled_where_it_is(bench: Bench) -> None:
    await bench.push(new("done"), new("again"))
    done, again = (await bench.claim()).jobs
    assert await bench.driver.put_settings("q", QueueSettings(moved_to="redis://elsewhere"))
    assert await bench.push(new("late")) == [PushStatus.MOVED]
    leases = [HeldLease(job.ref, job.fence) for job in (done, again)]
    held = await bench.driver.extend(leases, LEASE)
    assert [one.status for one in held] == [LeaseStatus.HELD] * 2
    (noted,) = await bench.driver.annotate([Note(ref=done.ref, fence=done.fence, progress=b"1")])
    assert noted.status is ApplyStatus.APPLIED
    replies = await bench.apply(
        transition.complete(done, None), transition.again(again, Changes(attempts=1), 0)
    )
    assert [reply.state for reply in replies] == [State.COMPLETED, State.WAITING]
    assert await bench.claimed() == ["again"]
