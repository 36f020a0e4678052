"""Rows of a SQLite file that something else has damaged: one of them never stops its queue."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from taskmux.driver import (
    ClaimAsk,
    CorruptRecord,
    JobRecord,
    NewJob,
    Op,
    PruneAsk,
    ReclaimAsk,
    Ref,
    State,
    StoreError,
    transition,
)

from taskmux_sqlite import SQLiteDriver
from taskmux_sqlite.store import Store

NOW = 1_700_000_000_000
CLAIM = ClaimAsk("q", "worker", 10, 60_000)
RECLAIM = ReclaimAsk("q", "rescuer", 10, 60_000)


@pytest_asyncio.fixture
async def driver(tmp_path: Path) -> AsyncIterator[SQLiteDriver]:
    driver = SQLiteDriver(f"sqlite:///{tmp_path / 'jobs.db'}", clock=lambda: NOW)
    await driver.open()
    await driver.push(Op("push", 1), [NewJob(JobRecord(queue="q", id=i, task="t")) for i in "ab"])
    yield driver
    await driver.close()


def damage(tmp_path: Path, assignments: str) -> None:
    """Change the row of the first job, `a`."""
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as connection:
        connection.execute(f"UPDATE jobs SET {assignments} WHERE number = 1")


@pytest.mark.parametrize(
    "assignment",
    [
        "id = CAST(x'ff' AS TEXT)",
        "id = x'ff'",
        "id = 'other'",
        "reason = CAST(x'ff' AS TEXT)",
        "fence = 'abc'",
        "fence = 9223372036854775807",
        "attempts = 9223372036854775807",
        "sequence = x'00'",
        "priority = 'abc'",
        "cause = 'abc'",
        "result = 'abcd'",
    ],
)
async def test_a_wrong_value_at_the_head_stops_nothing(
    driver: SQLiteDriver, tmp_path: Path, assignment: str
) -> None:
    damage(tmp_path, assignment)
    claimed = await driver.claim(Op("claim", 1), CLAIM)
    assert [job.id for job in claimed.jobs] == ["b"]
    assert await driver.counts("q") == dict.fromkeys(State, 0) | {State.ACTIVE: 1}
    if not assignment.startswith("id"):
        with pytest.raises(CorruptRecord, match="q/a cannot be read"):
            await driver.get([Ref("q", "a")])


@pytest.mark.parametrize("due", ["'soon'", "NULL", "x'ff'"])
async def test_a_delayed_job_without_a_due_time_is_set_aside(
    driver: SQLiteDriver, tmp_path: Path, due: str
) -> None:
    damage(tmp_path, f"state = 'delayed', run_at = {due}")
    claimed = await driver.claim(Op("claim", 1), CLAIM)
    assert [job.id for job in claimed.jobs] == ["b"]
    assert claimed.next_in is None
    assert await driver.reclaim(Op("reclaim", 1), RECLAIM) == []
    assert (await driver.counts("q"))[State.DELAYED] == 0
    with pytest.raises(CorruptRecord):
        await driver.get([Ref("q", "a")])


@pytest.mark.parametrize("end", ["'x'", "NULL", "x'ff'"])
async def test_a_lease_without_an_end_lapses(
    driver: SQLiteDriver, tmp_path: Path, end: str
) -> None:
    await driver.claim(Op("claim", 1), CLAIM)
    damage(tmp_path, f"lease_until = {end}")
    jobs = await driver.reclaim(Op("reclaim", 1), RECLAIM)
    assert [job.id for job in jobs] == ["a"]


async def test_a_count_that_is_none_does_not_stop_pruning(
    driver: SQLiteDriver, tmp_path: Path
) -> None:
    claimed = await driver.claim(Op("claim", 1), CLAIM)
    done = [transition.complete(job, b"1") for job in claimed.jobs]
    await driver.apply(Op("apply", 1), done)
    damage(tmp_path, "keep_count = 'abc'")
    assert await driver.prune(PruneAsk("q")) == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_failing_close_is_not_waited_for_in_vain(
    driver: SQLiteDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = Store.close

    def fail(store: Store) -> None:
        close(store)
        raise OSError

    monkeypatch.setattr(Store, "close", fail)
    async with asyncio.timeout(10):
        await driver.close()
    assert not [one for one in threading.enumerate() if one.name == "taskmux-jobs.db"]


async def test_both_of_two_failing_opens_fail(tmp_path: Path) -> None:
    driver = SQLiteDriver(f"sqlite:///{tmp_path / 'missing' / 'jobs.db'}")
    answers = await asyncio.gather(driver.open(), driver.open(), return_exceptions=True)
    assert [isinstance(answer, StoreError) for answer in answers] == [True, True]
