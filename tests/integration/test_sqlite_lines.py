"""Lines and limits in a SQLite file: bounded work, hands at the tables, sleepers, what is kept."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from taskmux.driver import (
    Beat,
    ClaimAsk,
    Claimed,
    Command,
    CorruptRecord,
    FindAsk,
    JobRecord,
    LineSettings,
    NewJob,
    Op,
    PruneAsk,
    QueueSettings,
    Rate,
    ReclaimAsk,
    State,
    WorkerInfo,
    transition,
)

from taskmux_sqlite import SQLiteDriver
from taskmux_sqlite.store import Store

LEASE = 60_000
DAY = 86_400_000
MANY = 10_000

KEPT = {
    "paused": LineSettings(paused=True),
    "full": LineSettings(concurrency=1),
    "rate": LineSettings(rate=Rate(1, DAY)),
}


def new(name: str, **fields: object) -> NewJob:
    """Return a job of the group that its name begins with; `_` stands for none."""
    group = None if name.startswith("_") else name.partition("-")[0]
    return NewJob(JobRecord(**{"queue": "q", "id": name, "task": "t", "group": group} | fields))


class Bench:
    """A driver on a file and a clock of its own, and its verbs with fewer arguments."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.now = 1_700_000_000_000
        self.driver = SQLiteDriver(f"sqlite:///{file}", clock=lambda: self.now)
        self.number = 0

    def op(self) -> Op:
        self.number += 1
        return Op("test", self.number)

    async def push(self, *names: str) -> None:
        await self.driver.push(self.op(), list(map(new, names)))

    async def claim(self, limit: int = 10) -> Claimed:
        return await self.driver.claim(self.op(), ClaimAsk("q", "worker", limit, LEASE))

    async def claimed(self, limit: int = 10) -> list[str]:
        return [job.id for job in (await self.claim(limit)).jobs]

    async def set(self, settings: QueueSettings) -> None:
        assert await self.driver.put_settings("q", settings)

    async def steps_of_a_claim(self) -> int:
        """Return how many tens of SQLite's instructions a claim of one job takes."""
        counted: list[None] = []

        def watch(store: Store, *, on: bool) -> None:
            assert store._connection is not None
            handler = (lambda: counted.append(None)) if on else None
            store._connection.set_progress_handler(handler, 10)

        assert self.driver._session is not None
        await self.driver._session.ask(lambda store: watch(store, on=True))
        assert len(await self.claimed(1)) == 1
        await self.driver._session.ask(lambda store: watch(store, on=False))
        return len(counted)

    def by_hand(self, statement: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.file, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "jobs.db")
    await bench.driver.open()
    yield bench
    await bench.driver.close()


# -- bounded work ---------------------------------------------------------------------------------


async def shut(bench: Bench, groups: int) -> None:
    """Bring as many groups to where they may not give, and let claims find that out."""
    for number in range(2):
        await bench.push(*(f"g{group}-{number}" for group in range(groups)))
    claimed = await bench.claim(1000)
    while claimed.jobs or claimed.next_in == 0:
        claimed = await bench.claim(1000)
    assert claimed.blocked_by == "lines"


@pytest.mark.parametrize("why", KEPT)
async def test_a_claim_does_not_look_at_lines_that_may_not_give(bench: Bench, why: str) -> None:
    await bench.set(QueueSettings(groups=KEPT[why], lines={"free": LineSettings()}))
    steps = []
    for groups in (10, MANY):
        await shut(bench, groups)
        await bench.push(f"free-{groups}-1", f"free-{groups}-2")
        steps.append(await bench.steps_of_a_claim())
        await bench.claim(1)
        assert bench.by_hand("SELECT count(*), count(turn) FROM lines") == [(groups, 0)]
    assert steps[1] < steps[0] * 1.5


async def test_a_claim_among_many_lines_takes_no_more_than_among_few(bench: Bench) -> None:
    await bench.set(QueueSettings(groups=LineSettings(concurrency=100, rate=Rate(100, 1))))
    steps = []
    for groups in (10, MANY):
        await bench.push(*(f"g{group}-{groups}-{n}" for group in range(groups) for n in range(3)))
        steps.append(await bench.steps_of_a_claim())
    assert steps[1] < steps[0] * 1.5


async def test_lines_that_open_at_once_come_back_a_hundred_at_a_time(bench: Bench) -> None:
    await bench.set(QueueSettings(groups=LineSettings(rate=Rate(1, 1000))))
    await shut(bench, 250)
    bench.now += 1000
    steps = [await bench.steps_of_a_claim()]
    assert bench.by_hand("SELECT count(turn) FROM lines") == [(99,)]
    bench.now += 1000
    found = [await bench.claimed(100) for _ in range(4)]
    assert [len(names) for names in found] == [100, 100, 49, 0]
    await shut(bench, MANY)
    bench.now += 1000
    steps.append(await bench.steps_of_a_claim())
    assert steps[1] < steps[0] * 1.5


# -- hands at the tables --------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["queue", "line"])
async def test_a_lease_deleted_by_hand_frees_its_place(bench: Bench, of: str) -> None:
    one = LineSettings(concurrency=1)
    await bench.set(QueueSettings(concurrency=1) if of == "queue" else QueueSettings(groups=one))
    await bench.push("a-1", "a-2", "a-3")
    assert await bench.claimed() == ["a-1"]
    blocked = (await bench.claim()).blocked_by
    assert blocked == ("concurrency" if of == "queue" else "lines")
    waiting = asyncio.ensure_future(bench.driver.wait(["q"], 60))
    await asyncio.sleep(0)
    bench.by_hand("DELETE FROM jobs WHERE state = 'active'")
    assert await waiting
    assert await bench.claimed() == ["a-2"]
    bench.by_hand("UPDATE jobs SET state = 'dead', finished_at = 1 WHERE state = 'active'")
    assert await bench.claimed() == ["a-3"]


async def test_jobs_moved_by_hand_stand_in_their_lines(bench: Bench) -> None:
    await bench.push("a-1", "b-1", "b-2", "_1")
    bench.by_hand("UPDATE jobs SET state = 'blocked' WHERE id = 'a-1'")
    assert bench.by_hand("SELECT line FROM lines ORDER BY turn") == [("b",), (None,)]
    bench.by_hand("UPDATE jobs SET state = 'waiting' WHERE id = 'a-1'")
    bench.by_hand("DELETE FROM jobs WHERE id = '_1'")
    assert await bench.claimed() == ["b-1", "a-1", "b-2"]


async def test_a_line_without_jobs_stops_nothing(bench: Bench) -> None:
    await bench.push("a-1")
    bench.by_hand("INSERT INTO lines (queue, line, turn) VALUES ('q', 'nobody', 0.5)")
    assert await bench.claimed() == ["a-1"]
    empty = await bench.claim()
    assert (list(empty.jobs), empty.next_in, empty.blocked_by) == ([], None, None)


async def test_unreadable_jobs_end_their_lines(bench: Bench) -> None:
    await bench.set(QueueSettings(groups=LineSettings(concurrency=1)))
    await bench.push(*(f"bad{number}-1" for number in range(150)), "good-1")
    bench.by_hand("UPDATE bodies SET body = x'ff' WHERE number <= 150")
    assert await bench.claimed(2) == ["good-1"]
    assert bench.by_hand("SELECT * FROM lines") == []


async def test_a_damaged_meter_is_an_empty_one(bench: Bench) -> None:
    rate = Rate(1, DAY)
    await bench.set(QueueSettings(rate=rate, groups=LineSettings(rate=rate)))
    await bench.push("a-1", "a-2")
    assert await bench.claimed() == ["a-1"]
    for table in ("queues", "gates"):
        bench.by_hand(f"UPDATE {table} SET level = x'ff', held_until = 'later'")
    assert await bench.claimed() == ["a-2"]


async def test_a_damaged_sequence_is_reported(bench: Bench) -> None:
    await bench.push("a-1")
    bench.by_hand("UPDATE queues SET sequence = 'abc'")
    with pytest.raises(CorruptRecord, match="'abc', which is no number"):
        await bench.push("a-2")


@pytest.mark.parametrize("verb", ["push", "claim", "apply", "reclaim"])
async def test_a_damaged_reply_is_reported(bench: Bench, verb: str) -> None:
    op, ask = Op("origin", 1), ClaimAsk("q", "worker", 1, LEASE)
    calls: dict[str, Callable[[], object]] = {
        "push": lambda: bench.driver.push(op, [new("a-1")]),
        "claim": lambda: bench.driver.claim(op, ask),
        "apply": lambda: bench.driver.apply(op, [transition.complete(new("a-1").job, None)]),
        "reclaim": lambda: bench.driver.reclaim(op, ReclaimAsk("q", "rescuer", 1, LEASE)),
    }
    await bench.push("a-1")
    if verb == "reclaim":
        await bench.claim()
        bench.now += LEASE
    await calls[verb]()
    bench.by_hand("UPDATE operations SET reply = 'abc'")
    with pytest.raises(CorruptRecord, match=f"What {verb} origin:1 answered"):
        await calls[verb]()


# -- sleepers -------------------------------------------------------------------------------------


async def asleep(bench: Bench, waiting: asyncio.Future[bool]) -> bool:
    """Return whether a wait goes on after everything committed so far was looked at."""
    assert bench.driver._session is not None
    await bench.driver._session.ask(lambda store: store.look())
    await asyncio.sleep(0)
    return not waiting.done()


@pytest.mark.parametrize(
    "settings",
    [
        QueueSettings(concurrency=1),
        QueueSettings(groups=LineSettings(concurrency=1)),
        QueueSettings(rate=Rate(1, DAY)),
        QueueSettings(groups=LineSettings(rate=Rate(1, DAY))),
    ],
)
async def test_commits_of_others_do_not_wake_those_who_wait_for_room(
    bench: Bench, settings: QueueSettings
) -> None:
    await bench.set(settings)
    await bench.push("a-1", "a-2")
    (job,) = (await bench.claim()).jobs
    assert await bench.claimed() == []
    waiting = asyncio.ensure_future(bench.driver.wait(["q"], 60))
    other = bench.driver.fork()
    await other.open()
    await other.push(Op("other", 1), [new("a-3")])
    assert await asleep(bench, waiting)
    done = transition.complete(job, None)
    await other.apply(Op("other", 1), [done])
    if settings.rate:  # a run that ended makes no room in a rate, but new settings may
        assert await asleep(bench, waiting)
        await other.put_settings("q", QueueSettings(rev=1))
    assert await waiting
    await other.close()


# -- what is kept ---------------------------------------------------------------------------------


async def test_empty_meters_and_ended_holds_are_forgotten_by_prune(bench: Bench) -> None:
    await bench.set(QueueSettings(groups=LineSettings(rate=Rate(1, 1000))))
    await bench.push(*(f"g{number}-1" for number in range(50)), "_1")
    jobs = (await bench.claim(100)).jobs
    held = transition.limited(jobs[-1], transition.Changes(), 5000, line=True)
    await bench.driver.apply(bench.op(), [held])
    for later, left in ((900, 51), (200, 1), (5000, 0)):
        bench.now += later
        await bench.driver.prune(PruneAsk("elsewhere"))
        assert bench.by_hand("SELECT count(*) FROM gates") == [(left,)]


async def test_new_settings_end_the_rests_of_their_own_queue_only(bench: Bench) -> None:
    await bench.push("a-1")
    other = new("a-1", queue="r")
    await bench.driver.push(bench.op(), [other])
    for queue in ("q", "r"):
        (job,) = (await bench.driver.claim(bench.op(), ClaimAsk(queue, "w", 1, LEASE))).jobs
        rest = transition.limited(job, transition.Changes(), 5000, line=True)
        await bench.driver.apply(bench.op(), [rest])
    await bench.set(QueueSettings())
    assert await bench.claimed() == ["a-1"]
    resting = await bench.driver.claim(bench.op(), ClaimAsk("r", "w", 1, LEASE))
    assert (list(resting.jobs), resting.next_in) == ([], 5000)


@pytest.mark.parametrize("newest", [False, True])
async def test_pages_go_over_all_lines_in_order(bench: Bench, *, newest: bool) -> None:
    names = [f"{'_ab'[number % 3]}-{number:02}" for number in range(30)]
    jobs = [new(name, priority=5 - number // 10) for number, name in enumerate(names)]
    await bench.driver.push(bench.op(), jobs)
    seen: list[JobRecord] = []
    cursor = None
    while True:
        ask = FindAsk(queue="q", state=State.WAITING, newest=newest, cursor=cursor, limit=4)
        page = await bench.driver.find(ask)
        seen += page.jobs
        cursor = page.cursor
        if cursor is None:
            break
    expected = names[20:] + names[10:20] + names[:10]
    assert [job.id for job in seen] == (expected[::-1] if newest else expected)


async def test_a_silent_worker_hears_what_it_was_told_when_it_comes_back(bench: Bench) -> None:
    worker, other = (
        WorkerInfo(id=name, host="h", pid=1, queues=("q",), tasks=(), concurrency=1)
        for name in ("worker", "other")
    )
    await bench.driver.beat(Beat(worker, (), 1000))
    assert await bench.driver.tell("worker", Command("stop"))
    bench.now += 2000
    await bench.driver.beat(Beat(other, (), DAY))
    assert [one.id for one in await bench.driver.workers()] == ["other"]
    assert not await bench.driver.tell("worker", Command("pause"))
    assert (await bench.driver.beat(Beat(worker, (), 1000))).commands == [Command("stop")]
    await bench.driver.tell("worker", Command("pause"))
    bench.by_hand("UPDATE workers SET commands = x'ff'")
    assert (await bench.driver.beat(Beat(worker, (), 1000))).commands == []
    bench.now += DAY
    await bench.driver.beat(Beat(other, (), DAY))
    assert bench.by_hand("SELECT id FROM workers") == [("other",)]
