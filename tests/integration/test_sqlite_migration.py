"""A file that an older taskmux wrote: it opens, and every job in it goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from msgspec.structs import replace
from taskmux.driver import (
    ClaimAsk,
    FindAsk,
    JobRecord,
    LineSettings,
    NewJob,
    Op,
    PushStatus,
    QueueSettings,
    Ref,
    State,
    transition,
)

from taskmux_sqlite import SQLiteDriver, schema

NOW = 1_700_000_000_000
SEQUENCES = {"_1": 1, "a1": 2, "a2": 3, "b1": 4, "_2": 5, "later": 0, "lapsed": 6, "done": 7}
MOVED: dict[str, dict[str, Any]] = {
    "later": {"state": State.DELAYED, "run_at": NOW - 5, "group": "b"},
    "lapsed": {"state": State.ACTIVE, "worker": "gone", "lease_until": NOW - 1, "group": "a"},
    "done": {"state": State.COMPLETED, "finished_at": NOW, "result": b"1"},
}
ASK = ClaimAsk("q", "worker", 10, 1000)


def old_job(name: str) -> JobRecord:
    group = name[0] if name[0] in "ab" else None
    job = JobRecord(queue="q", id=name, task="t", group=group, created_at=NOW, fence=NOW)
    return replace(job, **MOVED.get(name, {}))


def insert(connection: sqlite3.Connection, name: str, sequence: int) -> None:
    """Store a job as the first version did: it knew no lines, and kept the group in the body."""
    job = old_job(name)
    columns = {
        "queue": job.queue,
        "id": job.id,
        "state": job.state.value,
        "priority": job.priority,
        "sequence": sequence,
        "created_at": job.created_at,
        "run_at": job.run_at,
        "finished_at": job.finished_at,
        "expires_at": job.finished_at and job.finished_at + 1000,
        "fence": job.fence,
        "worker": job.worker,
        "lease_until": job.lease_until,
        "result": job.result,
    } | dict.fromkeys(("lifo", "attempts", "crashes", "children", "started", "cancel_requested"), 0)
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    values = tuple(columns.values())
    number = connection.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", values).lastrowid
    body = JobRecord(queue=job.queue, id=job.id, task=job.task, group=job.group)
    connection.execute("INSERT INTO bodies VALUES (?, ?)", (number, msgspec.msgpack.encode(body)))


@pytest.fixture
def old(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The connection of a process of the first version, which goes on while others upgrade."""
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in schema._FIRST:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
        connection.execute("INSERT INTO queues VALUES ('q', 7, NULL)")
        for name, sequence in SEQUENCES.items():
            insert(connection, name, sequence)
        yield connection


@pytest_asyncio.fixture
async def driver(tmp_path: Path) -> AsyncIterator[SQLiteDriver]:
    driver = SQLiteDriver(f"sqlite:///{tmp_path / 'jobs.db'}", clock=lambda: NOW)
    yield driver
    await driver.close()


async def test_an_older_file_opens_and_goes_on(
    old: sqlite3.Connection, driver: SQLiteDriver
) -> None:
    settings = msgspec.msgpack.encode(QueueSettings(rev=3, paused=True))
    old.execute("UPDATE queues SET settings = ?", (settings,))
    known = ("producer", "push", "", 5, NOW, msgspec.msgpack.encode({}))
    old.execute("INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?)", known)
    await driver.open()
    assert old.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    refs = [Ref("q", name) for name in SEQUENCES]
    assert await driver.get(refs) == [old_job(name) for name in SEQUENCES]
    page = await driver.find(FindAsk(queue="q", state=State.WAITING))
    assert [job.id for job in page.jobs] == ["_1", "a1", "a2", "b1", "_2"]
    (again,) = await driver.push(Op("producer", 5), [NewJob(old_job("removed"))])
    assert again.status is PushStatus.CREATED
    assert await driver.get([Ref("q", "removed")]) == [None]
    assert await driver.settings("q") == QueueSettings(rev=3, paused=True)
    limited = QueueSettings(rev=3, lines={"a": LineSettings(concurrency=2)})
    assert await driver.put_settings("q", limited)
    claimed = await driver.claim(Op("worker", 1), ASK)
    assert [job.id for job in claimed.jobs] == ["_1", "a1", "b1", "_2", "later"]
    done = [transition.complete(job, None) for job in claimed.jobs]
    await driver.apply(Op("worker", 1), done)
    claimed = await driver.claim(Op("worker", 2), ASK)
    assert [job.id for job in claimed.jobs] == ["a2"]


async def test_a_process_of_the_older_version_may_go_on_for_a_while(
    old: sqlite3.Connection, driver: SQLiteDriver
) -> None:
    known = old.execute("SELECT * FROM records").description
    await driver.open()
    # It reads records by the place of their columns,
    assert old.execute("SELECT * FROM records").description[: len(known)] == known
    # and lines are right whatever it writes.
    old.execute("UPDATE jobs SET state = 'completed' WHERE state = 'waiting' AND id <> 'a2'")
    insert(old, "_new", 8)
    for sequence, name in enumerate(["lapsed", "done", "later"], 9):
        back = "UPDATE jobs SET state = 'waiting', sequence = ? WHERE id = ?"
        old.execute(back, (sequence, name))
    claimed = await driver.claim(Op("worker", 1), ASK)
    assert [job.id for job in claimed.jobs] == ["a2", "_new", "later", "lapsed", "done"]


async def test_a_file_of_the_second_version_goes_on_and_learns_fences(
    tmp_path: Path, driver: SQLiteDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(schema, "_MIGRATIONS", schema._MIGRATIONS[:2])
        with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as old:
            schema._migrate(old, 0)
            old.execute("PRAGMA user_version = 2")
            old.execute("INSERT INTO queues (name, sequence) VALUES ('q', 7)")
    await driver.open()
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        found = connection.execute("SELECT sequence, fence_of_removed FROM queues").fetchall()
    assert found == [(7, 0)]
    for number in (1, 2):  # within one millisecond, so only the number kept tells the fences apart
        job = NewJob(JobRecord(queue="q", id="job", task="t"))
        await driver.push(Op("producer", number), [job])
        (claimed,) = (await driver.claim(Op("worker", number), ASK)).jobs
        assert claimed.fence == NOW + 2 * number - 1
        await driver.apply(Op("worker", 2 * number), [transition.complete(claimed, None)])
        removal = [transition.remove(claimed.ref)]
        await driver.apply(Op("worker", 2 * number + 1), removal)


async def test_a_body_that_cannot_be_read_stops_no_migration(
    old: sqlite3.Connection, driver: SQLiteDriver
) -> None:
    old.execute("UPDATE bodies SET body = x'ff' WHERE number = 1")
    old.execute("UPDATE bodies SET body = 'text' WHERE number = 2")
    old.execute("DELETE FROM bodies WHERE number = 3")
    await driver.open()
    claimed = await driver.claim(Op("worker", 1), ASK)
    assert [job.id for job in claimed.jobs] == ["_2", "b1", "later"]
