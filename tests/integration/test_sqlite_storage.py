"""What becomes of a SQLite file: unreadable rows, no room, backups, waits, cancelled calls."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest
import pytest_asyncio
from taskmux.driver import (
    Applied,
    ApplyStatus,
    Beat,
    ClaimAsk,
    CorruptRecord,
    Dedup,
    FindAsk,
    JobRecord,
    Keep,
    NewJob,
    Note,
    Op,
    Policy,
    PruneAsk,
    PushStatus,
    QueueSettings,
    ReclaimAsk,
    Ref,
    State,
    StoreFull,
    WorkerInfo,
    transition,
)

from taskmux_sqlite import SQLiteDriver
from taskmux_sqlite.store import Store
from taskmux_sqlite.wait import Waiter

Reply = TypeVar("Reply")

LEASE = 60_000


def new(name: str, **fields: object) -> NewJob:
    return NewJob(JobRecord(**{"queue": "q", "id": name, "task": "t"} | fields))


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

    async def push(self, *jobs: NewJob) -> set[PushStatus]:
        return {reply.status for reply in await self.driver.push(self.op(), jobs)}

    async def claim(self, limit: int = 10) -> list[JobRecord]:
        ask = ClaimAsk("q", "worker", limit, LEASE)
        return list((await self.driver.claim(self.op(), ask)).jobs)

    async def complete(self, jobs: Sequence[JobRecord]) -> Sequence[Applied]:
        done = [transition.complete(job, b"1") for job in jobs]
        return await self.driver.apply(self.op(), done)

    async def on_thread(self, do: Callable[[Store], Reply]) -> Reply:
        assert self.driver._session is not None
        return await self.driver._session.ask(do)

    def sqlite(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self.file, isolation_level=None))

    def break_body(self, *ids: str) -> None:
        with self.sqlite() as connection:
            connection.executemany(
                "UPDATE bodies SET body = x'00ff'"
                " WHERE number = (SELECT number FROM jobs WHERE id = ?)",
                [(name,) for name in ids],
            )


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "jobs.db")
    await bench.driver.open()
    yield bench
    await bench.driver.close()


# -- unreadable rows ------------------------------------------------------------------------------


async def test_unreadable_jobs_at_the_head_do_not_stop_the_queue(bench: Bench) -> None:
    ids = [f"{number}" for number in range(30)]
    await bench.push(*map(new, ids))
    bench.break_body(*ids[:25])
    assert [job.id for job in await bench.claim()] == ids[25:]
    counts = await bench.driver.counts("q")
    assert counts == dict.fromkeys(State, 0) | {State.ACTIVE: 5}
    with pytest.raises(CorruptRecord, match="q/0 cannot be read"):
        await bench.driver.get([Ref("q", "0")])


@pytest.mark.parametrize("part", ["bodies", "notes"])
async def test_a_lost_or_mangled_part_is_noticed(bench: Bench, part: str) -> None:
    await bench.push(new("bad", logs=("line",)), new("good"))
    with bench.sqlite() as connection:
        mangled = {"bodies": "DELETE FROM bodies", "notes": "UPDATE notes SET logs = x'c1'"}
        connection.execute(f"{mangled[part]} WHERE number = 1")
    assert [job.id for job in await bench.claim()] == ["good"]


async def test_unreadable_jobs_are_left_out_of_pages(bench: Bench) -> None:
    ids = [f"{number}" for number in range(9)]
    await bench.push(*map(new, ids))
    bench.break_body("0", "4", "8")
    seen: list[str] = []
    cursor = None
    while True:
        ask = FindAsk(queue="q", state=State.WAITING, limit=2, cursor=cursor)
        page = await bench.driver.find(ask)
        seen += [job.id for job in page.jobs]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == ["1", "2", "3", "5", "6", "7"]
    assert (await bench.driver.counts("q"))[State.WAITING] == 6


async def test_an_unreadable_finished_job_is_counted_nowhere(bench: Bench) -> None:
    await bench.push(new("bad"), new("good"))
    await bench.complete(await bench.claim())
    bench.break_body("bad")
    page = await bench.driver.find(FindAsk(queue="q", state=State.COMPLETED))
    assert [job.id for job in page.jobs] == ["good"]
    assert await bench.driver.counts("q") == dict.fromkeys(State, 0) | {State.COMPLETED: 1}


async def test_notes_on_unreadable_notes_spoil_no_neighbour(bench: Bench) -> None:
    await bench.push(new("bad", logs=("line",)), new("good"))
    bad, good = await bench.claim()
    with bench.sqlite() as connection:
        connection.execute("UPDATE notes SET logs = x'c1'")
    notes = [Note(ref=job.ref, fence=job.fence, log="more", log_index=1) for job in (bad, good)]
    replies = await bench.driver.annotate(notes)
    assert [reply.status for reply in replies] == [ApplyStatus.GONE, ApplyStatus.APPLIED]


async def test_a_row_in_an_unknown_state_is_no_job(bench: Bench) -> None:
    await bench.push(new("odd"))
    with bench.sqlite() as connection:
        connection.execute("UPDATE jobs SET state = 'odd', finished_at = 1, expires_at = 1")
    (answer,) = await bench.driver.apply(bench.op(), [transition.remove(Ref("q", "odd"))])
    assert answer == Applied(ApplyStatus.GONE)
    assert await bench.driver.counts("q") == dict.fromkeys(State, 0)
    with pytest.raises(CorruptRecord, match="odd"):
        await bench.driver.get([Ref("q", "odd")])


async def test_an_unreadable_lapsed_job_does_not_stop_recovery(bench: Bench) -> None:
    await bench.push(new("bad"), new("good"))
    await bench.claim()
    bench.break_body("bad")
    bench.now += LEASE
    lapsed = await bench.driver.reclaim(bench.op(), ReclaimAsk("q", "rescuer", 1, LEASE))
    assert [job.id for job in lapsed] == ["good"]


async def test_a_job_that_turned_unreadable_can_still_be_finished_or_removed(bench: Bench) -> None:
    await bench.push(new("a"), new("b"))
    (job,) = await bench.claim(1)
    bench.break_body("a", "b")
    (done,) = await bench.complete([job])
    assert done == Applied(ApplyStatus.APPLIED, State.COMPLETED)
    (gone,) = await bench.driver.apply(bench.op(), [transition.remove(Ref("q", "b"))])
    assert gone.status is ApplyStatus.APPLIED
    assert await bench.driver.get([Ref("q", "b")]) == [None]


async def test_a_set_aside_job_is_no_job_and_frees_its_key(bench: Bench) -> None:
    await bench.push(new("bad", dedup=Dedup("key")))
    bench.break_body("bad")
    assert await bench.claim() == []
    (answer,) = await bench.driver.apply(bench.op(), [transition.remove(Ref("q", "bad"))])
    assert answer == Applied(ApplyStatus.GONE)
    assert await bench.driver.queues() == []
    assert await bench.push(new("good", dedup=Dedup("key"))) == {PushStatus.CREATED}
    assert await bench.push(new("bad")) == {PushStatus.DUPLICATE}


async def test_unreadable_settings_are_reported_and_do_not_end_the_thread(bench: Bench) -> None:
    await bench.driver.put_settings("q", QueueSettings())
    with bench.sqlite() as connection:
        connection.execute("UPDATE queues SET settings = x'c1'")
    waiting = asyncio.ensure_future(bench.driver.wait(["q"], 60))
    with pytest.raises(CorruptRecord, match="settings"):
        await bench.claim()
    with pytest.raises(CorruptRecord, match="settings"):
        await waiting
    assert await bench.driver.counts("q") == dict.fromkeys(State, 0)


# -- room -----------------------------------------------------------------------------------------


async def test_a_full_database_says_so_and_takes_more_when_there_is_room(bench: Bench) -> None:
    def limit(pages: int) -> Callable[[Store], object]:
        query = f"PRAGMA max_page_count = {pages}"
        return lambda store: store._connection.execute(query).fetchall()

    await bench.on_thread(limit(60))
    op = bench.op()
    jobs = [new(f"{number}", payload=b"x" * 10_000) for number in range(50)]
    with pytest.raises(StoreFull, match="Make room"):
        await bench.driver.push(op, jobs)
    assert await bench.driver.counts("q") == dict.fromkeys(State, 0)
    await bench.on_thread(limit(10_000))
    replies = await bench.driver.push(op, jobs)
    assert {reply.status for reply in replies} == {PushStatus.CREATED}


async def test_a_pruned_job_leaves_nothing(bench: Bench) -> None:
    brief = Policy(completed=Keep(age_ms=0))
    await bench.push(*(new(f"{n}", policy=brief, logs=("line",)) for n in range(20)))
    await bench.complete(await bench.claim(20))
    assert await bench.driver.prune(PruneAsk("q", limit=15)) == 15
    assert await bench.driver.prune(PruneAsk("q", limit=15)) == 5
    with bench.sqlite() as connection:
        for table in ("jobs", "bodies", "notes"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


async def test_old_operations_are_forgotten_by_prune(bench: Bench) -> None:
    await bench.push(new("a"))
    await bench.driver.push(Op("other", 1), [new("b")])
    count = "SELECT count(*) FROM operations"
    for later, left in ((599_000, 2), (2_000, 0)):
        bench.now += later
        await bench.driver.prune(PruneAsk("q"))
        with bench.sqlite() as connection:
            assert connection.execute(count).fetchone() == (left,)


async def test_the_log_does_not_grow_with_the_work(bench: Bench) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.driver.wait(["nothing"], 60)).add_done_callback(lambda _: None)
        for batch in range(40):
            await bench.push(*(new(f"{batch}-{n}", payload=b"x" * 2000) for n in range(100)))
            await bench.complete(await bench.claim(100))
        log = bench.file.with_name("jobs.db-wal").stat().st_size
        assert bench.file.stat().st_size > 8_000_000
        assert log < 6_000_000
        await bench.driver.close()  # ends the wait


@pytest.mark.parametrize("way", ["VACUUM INTO", "backup"])
async def test_a_backup_made_at_work_can_be_opened(bench: Bench, way: str) -> None:
    await bench.push(new("a"), new("b"))
    await bench.claim(1)
    copy = bench.file.with_name("copy.db")
    with bench.sqlite() as connection:
        if way == "backup":
            with closing(sqlite3.connect(copy)) as target:
                connection.backup(target)
        else:
            connection.execute(f"VACUUM INTO '{copy}'")
    restored = SQLiteDriver(f"sqlite:///{copy}")
    await restored.open()
    refs = [Ref("q", "a"), Ref("q", "b")]
    assert await restored.get(refs) == await bench.driver.get(refs)
    await restored.close()


# -- waits ----------------------------------------------------------------------------------------


async def test_commits_without_work_wake_nobody(bench: Bench) -> None:
    await bench.claim()
    waiting = asyncio.ensure_future(bench.driver.wait(["q", "r"], 60))
    other = bench.driver.fork()
    await other.open()
    info = WorkerInfo(id="w", host="h", pid=1, queues=("q",), tasks=(), concurrency=1)
    await other.beat(Beat(info, (), ttl=1000))
    await other.push(Op("other", 1), [new("a", queue="elsewhere")])
    await other.put_settings("r", QueueSettings(paused=True))
    await other.push(Op("other", 2), [new("a", queue="r")])
    await bench.on_thread(lambda store: store.look())  # has seen all that by now
    await asyncio.sleep(0)
    assert not waiting.done()
    await other.put_settings("r", QueueSettings(rev=1))
    assert await waiting
    await other.close()


async def test_an_earlier_due_time_ends_the_wait(bench: Bench) -> None:
    await bench.driver.push(bench.op(), [NewJob(new("later", state=State.DELAYED).job, 5000)])
    await bench.claim()
    waiting = asyncio.ensure_future(bench.driver.wait(["q"], 60))
    await bench.driver.push(bench.op(), [NewJob(new("last", state=State.DELAYED).job, 6000)])
    await bench.on_thread(lambda store: store.look())
    await asyncio.sleep(0)
    assert not waiting.done()
    await bench.driver.push(bench.op(), [NewJob(new("soon", state=State.DELAYED).job, 10)])
    assert await waiting


async def test_several_queues_claimed_in_turn_miss_nothing(bench: Bench) -> None:
    await bench.claim()
    await bench.push(new("a"))  # after the claim of q, before that of r
    await bench.driver.claim(bench.op(), ClaimAsk("r", "worker", 1, LEASE))
    assert await bench.driver.wait(["q", "r"], 60)


async def test_a_new_wait_does_not_hide_a_change_from_an_older_one(bench: Bench) -> None:
    await bench.push(new("a", state=State.BLOCKED))
    await bench.claim()
    waiting = asyncio.ensure_future(bench.driver.wait(["q"], 60))
    await asyncio.sleep(0)

    def change_then_wait(store: Store) -> None:
        with bench.sqlite() as other:
            other.execute("UPDATE jobs SET state = 'waiting'")
        assert not store.add(Waiter(["r"], waits=lambda: False, wake=lambda: None))

    await bench.on_thread(change_then_wait)
    assert await waiting


async def test_what_found_nothing_finds_nothing_when_repeated(bench: Bench) -> None:
    op, ask = bench.op(), ClaimAsk("q", "worker", 1, LEASE)
    recover = ReclaimAsk("q", "rescuer", 1, LEASE)
    assert list((await bench.driver.claim(op, ask)).jobs) == []
    assert list(await bench.driver.reclaim(op, recover)) == []
    await bench.push(new("a"), new("b"))
    await bench.claim(1)
    bench.now += LEASE
    assert list((await bench.driver.claim(op, ask)).jobs) == []
    assert list(await bench.driver.reclaim(op, recover)) == []
    assert [job.id for job in await bench.claim()] == ["b"]


async def test_closing_ends_the_waits(bench: Bench) -> None:
    waits = [asyncio.ensure_future(bench.driver.wait(["q"], 60)) for _ in range(3)]
    await asyncio.sleep(0)
    await bench.driver.close()
    assert await asyncio.gather(*waits) == [True] * 3


# -- cancelled calls ------------------------------------------------------------------------------


async def test_cancelled_calls_leave_the_driver_sound(bench: Bench) -> None:
    rng = Random(7)
    calls = []
    for number in range(300):
        op = Op(f"origin-{number}", 1)
        calls.append(asyncio.ensure_future(bench.driver.push(op, [new(f"{number}")])))
        if rng.random() < 0.3:
            await asyncio.sleep(0)
        rng.choice(calls).cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    acknowledged = {
        f"{n}" for n, answer in enumerate(answers) if not isinstance(answer, BaseException)
    }
    page = await bench.driver.find(FindAsk(queue="q", state=State.WAITING, limit=1000))
    assert acknowledged <= {job.id for job in page.jobs}
    for number in range(300):
        (reply,) = await bench.driver.push(Op(f"origin-{number}", 1), [new(f"{number}")])
        assert (reply.status, reply.id) == (PushStatus.CREATED, f"{number}")
    assert (await bench.driver.counts("q"))[State.WAITING] == 300
