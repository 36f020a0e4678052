"""A SQLite file that is moved, deleted, replaced or emptied while drivers have it open.

Each says what happened, none hangs, and all go on with what is there as soon as that can be used.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from taskmux.driver import (
    ClaimAsk,
    Dedup,
    JobRecord,
    NewJob,
    Op,
    PushStatus,
    QueueSettings,
    Ref,
    State,
    StoreBusy,
    StoreDenied,
    StoreError,
    StoreIncompatible,
    StoreUnavailable,
    errors,
    transition,
)

from taskmux_sqlite import SQLiteDriver, opening

LEASE = 60_000
NONE = dict.fromkeys(State, 0)


class Bench:
    """Two drivers on one file: one of them is open when something happens to the file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.driver = SQLiteDriver(f"sqlite:///{file}?busy_timeout=50")
        self.other = self.driver.fork()
        self.number = 0

    async def push(self, driver: SQLiteDriver, name: str) -> PushStatus:
        self.number += 1
        job = JobRecord(queue="q", id=name, task="t", dedup=Dedup(name))
        (reply,) = await driver.push(Op("test", self.number), [NewJob(job)])
        return reply.status

    async def claimed(self, driver: SQLiteDriver) -> list[str]:
        self.number += 1
        ask = ClaimAsk("q", "worker", 10, LEASE)
        return [job.id for job in (await driver.claim(Op("test", self.number), ask)).jobs]

    async def refusals(self) -> list[type[Exception]]:
        """Return what every kind of call raises."""
        self.number += 1
        calls: list[Callable[[], object]] = [
            lambda: self.push(self.driver, "refused"),
            lambda: self.claimed(self.driver),
            lambda: self.driver.get([Ref("q", "a")]),
            lambda: self.driver.counts("q"),
            lambda: self.driver.wait(["q"], 60),
            lambda: self.driver.put_settings("q", QueueSettings()),
        ]
        answers = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
        return [type(answer) for answer in answers]

    def leftovers(self) -> list[Path]:
        return [self.file.with_name(f"{self.file.name}{end}") for end in ("-wal", "-shm")]

    def sqlite(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.file, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    def tables(self) -> list[str]:
        query = "SELECT name FROM sqlite_schema WHERE type = 'table'"
        with closing(sqlite3.connect(self.file)) as connection:
            return [name for (name,) in connection.execute(query)]

    def check(self) -> None:
        with closing(sqlite3.connect(self.file)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "jobs.db")
    await bench.driver.open()
    assert await bench.push(bench.driver, "a") is PushStatus.CREATED
    yield bench
    await bench.driver.close()
    await bench.other.close()


# -- the file ---------------------------------------------------------------------------------


def delete(bench: Bench) -> None:
    for file in (bench.file, *bench.leftovers()):
        file.unlink()


def delete_only_the_database(bench: Bench) -> None:
    bench.file.unlink()


def move(bench: Bench) -> None:
    bench.file.rename(bench.file.with_name("away.db"))


@pytest.mark.parametrize("how", [delete, delete_only_the_database, move])
async def test_a_file_that_is_gone_is_said_to_be(
    bench: Bench, how: Callable[[Bench], None]
) -> None:
    how(bench)
    assert set(await bench.refusals()) == {StoreUnavailable}
    with pytest.raises(StoreUnavailable, match=r"moved or deleted.*Put it back.*or restart"):
        await bench.push(bench.driver, "b")
    assert not bench.file.exists()  # nobody who has it open makes it anew


@pytest.mark.parametrize("how", [delete, delete_only_the_database, move])
async def test_a_new_driver_begins_anew_and_the_others_follow(
    bench: Bench, how: Callable[[Bench], None]
) -> None:
    how(bench)
    await bench.other.open()
    assert await bench.push(bench.other, "a") is PushStatus.CREATED  # its key is free, too
    with pytest.raises(StoreUnavailable, match=r"replaced by another file.*next try"):
        await bench.claimed(bench.driver)
    assert await bench.claimed(bench.driver) == ["a"]
    assert await bench.push(bench.driver, "b") is PushStatus.CREATED
    assert await bench.push(bench.other, "b") is PushStatus.DUPLICATE
    bench.check()
    await bench.driver.close()  # must not take the new file's log away
    assert await bench.other.counts("q") == NONE | {State.ACTIVE: 1, State.WAITING: 1}
    assert await bench.claimed(bench.other) == ["b"]
    await bench.other.close()
    bench.check()


async def test_a_file_that_was_put_back_goes_on(bench: Bench) -> None:
    away = bench.file.with_name("away.db")
    bench.file.rename(away)
    assert set(await bench.refusals()) == {StoreUnavailable}
    away.rename(bench.file)
    assert await bench.claimed(bench.driver) == ["a"]
    assert await bench.push(bench.driver, "b") is PushStatus.CREATED


@pytest.mark.parametrize("left", [True, False], ids=["log left", "log deleted"])
async def test_an_empty_file_in_its_place_is_used(bench: Bench, *, left: bool) -> None:
    (job,) = (await bench.driver.claim(Op("w", 1), ClaimAsk("q", "w", 1, LEASE))).jobs
    empty = bench.file.with_name("empty.db")
    empty.touch()
    if not left:
        for file in bench.leftovers():
            file.unlink()
    empty.replace(bench.file)
    with pytest.raises(StoreUnavailable, match="replaced"):
        await bench.driver.counts("q")
    assert await bench.driver.counts("q") == NONE
    (gone,) = await bench.driver.apply(Op("w", 2), [transition.complete(job, None)])
    assert gone.state is None
    assert await bench.push(bench.driver, "a") is PushStatus.CREATED
    await bench.other.open()
    assert await bench.claimed(bench.other) == ["a"]
    bench.check()


async def test_another_process_may_begin_anew(bench: Bench) -> None:
    bench.file.unlink()  # the log's index stays, and is locked by this process
    code = f"""if True:
        import asyncio
        from taskmux.driver import JobRecord, NewJob, Op
        from taskmux_sqlite import SQLiteDriver

        async def main():
            driver = SQLiteDriver("sqlite:///{bench.file}")
            await driver.open()
            for number in range(200):
                job = JobRecord(queue="q", id=str(number), task="t", payload=b"x" * 9000)
                await driver.push(Op("process", number), [NewJob(job)])
            await driver.close()

        asyncio.run(main())
    """
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=True)
    with pytest.raises(StoreUnavailable, match="replaced"):
        await bench.claimed(bench.driver)
    assert len(await bench.claimed(bench.driver)) == 10
    bench.check()


async def test_waits_end_when_the_file_is_replaced(bench: Bench) -> None:
    await bench.claimed(bench.driver)
    waiting = asyncio.ensure_future(bench.driver.wait(["q"], 60))
    await asyncio.sleep(0)
    await bench.driver.counts("q")  # served after the wait was taken up
    delete(bench)
    assert await waiting  # the next claim says what happened


async def test_a_file_that_was_emptied_in_place_is_said_to_be(bench: Bench) -> None:
    os.truncate(bench.file, 0)
    assert set(await bench.refusals()) == {StoreIncompatible}
    with pytest.raises(StoreIncompatible, match=r"was emptied.*-wal and -shm"):
        await bench.push(bench.driver, "b")
    with pytest.raises(StoreBusy):  # as long as somebody has the old one open
        await bench.other.open()
    await bench.driver.close()
    for file in (bench.file, *bench.leftovers()):
        file.unlink(missing_ok=True)
    await bench.driver.open()
    assert await bench.push(bench.driver, "a") is PushStatus.CREATED


# -- its tables -------------------------------------------------------------------------------


@pytest.mark.parametrize("view", [True, False], ids=["and the view", "but the view"])
async def test_dropped_tables_are_made_anew(bench: Bench, *, view: bool) -> None:
    await bench.other.open()
    drops = [f"DROP TABLE {name}" for name in bench.tables()]
    bench.sqlite(*drops, *["DROP VIEW records"] * view)
    with pytest.raises(StoreUnavailable, match=r"dropped.*makes them anew"):
        await bench.claimed(bench.driver)
    assert await bench.claimed(bench.driver) == []
    assert await bench.push(bench.driver, "a") is PushStatus.CREATED
    assert await bench.claimed(bench.other) == ["a"]
    late = SQLiteDriver(bench.driver.url)
    await late.open()
    assert await bench.push(late, "a") is PushStatus.DUPLICATE
    await late.close()


async def test_a_wait_meets_dropped_tables(bench: Bench) -> None:
    bench.sqlite(*(f"DROP TABLE {name}" for name in bench.tables()))
    with pytest.raises(StoreUnavailable, match="dropped"):
        await bench.driver.wait(["q"], 60)
    assert await bench.driver.wait(["q"], 0) is False


@pytest.mark.parametrize("drop", ["DROP TABLE jobs", "DROP TABLE operations", "DROP VIEW records"])
async def test_a_lost_part_is_named(bench: Bench, drop: str) -> None:
    bench.sqlite(drop)
    for _ in range(2):
        with pytest.raises(StoreIncompatible, match=r"has lost.*Restore a backup"):
            await bench.claimed(bench.driver)
    with pytest.raises(StoreIncompatible, match="has lost"):
        await bench.other.open()


async def test_a_lost_index_is_named_when_the_file_is_opened(bench: Bench) -> None:
    bench.sqlite("DROP INDEX jobs_dedup")
    with pytest.raises(StoreIncompatible, match=r"1 parts.*'jobs_dedup'"):
        await bench.other.open()


async def test_rows_deleted_by_hand_are_gone_and_nothing_else(bench: Bench) -> None:
    bench.sqlite(*(f"DELETE FROM {name}" for name in bench.tables()))
    assert await bench.claimed(bench.driver) == []
    assert await bench.push(bench.driver, "a") is PushStatus.CREATED
    assert await bench.claimed(bench.driver) == ["a"]


# -- what the file does not let in --------------------------------------------------------------


async def on_thread(bench: Bench, query: str) -> None:
    assert bench.driver._session is not None
    await bench.driver._session.ask(lambda store: store._connection.execute(query).fetchall())


async def test_a_file_that_turned_read_only_denies_writes(bench: Bench) -> None:
    await on_thread(bench, "PRAGMA query_only = 1")  # the same error as of a read-only file
    with pytest.raises(StoreDenied, match="right to read and write"):
        await bench.push(bench.driver, "b")
    assert await bench.driver.counts("q") == NONE | {State.WAITING: 1}
    await on_thread(bench, "PRAGMA query_only = 0")
    assert await bench.push(bench.driver, "b") is PushStatus.CREATED


async def test_a_value_over_sqlites_limit_is_too_large(bench: Bench) -> None:
    assert bench.driver._session is not None
    limit = sqlite3.SQLITE_LIMIT_LENGTH
    await bench.driver._session.ask(lambda store: store._connection.setlimit(limit, 100_000))
    large = JobRecord(queue="q", id="large", task="t", payload=b"x" * 200_000)
    with pytest.raises(errors.PayloadTooLarge, match="smaller"):
        await bench.driver.push(Op("large", 1), [NewJob(large)])
    assert await bench.push(bench.driver, "b") is PushStatus.CREATED


@pytest.mark.parametrize(
    "field", [{"priority": 2**63}, {"reason": "\ud800"}], ids=["number", "text"]
)
async def test_a_value_that_sqlite_cannot_hold_is_refused(
    bench: Bench, field: dict[str, object]
) -> None:
    odd = JobRecord(**{"queue": "q", "id": "odd", "task": "t"} | field)
    with pytest.raises(StoreError, match="does not fit"):
        await bench.driver.push(Op("odd", 1), [NewJob(odd)])
    assert await bench.push(bench.driver, "b") is PushStatus.CREATED


def test_the_logs_index_of_a_file_that_a_rival_began_meanwhile_stays(tmp_path: Path) -> None:
    file, index = tmp_path / "jobs.db", tmp_path / "jobs.db-shm"
    file.touch()
    index.touch()

    class Rival:
        """A connection whose lock comes after another process has made the database."""

        def execute(self, _: str) -> None:
            file.write_bytes(b"begun")

        def rollback(self) -> None:
            pass

    opening._remove_leftovers(Rival(), file)
    assert index.exists()
