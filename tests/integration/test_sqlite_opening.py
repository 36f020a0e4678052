"""Opening a SQLite file: what is accepted, what is refused, and what the refusal says."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from taskmux.driver import (
    InvalidURL,
    JobRecord,
    NewJob,
    Op,
    PushStatus,
    Ref,
    StoreBusy,
    StoreError,
    StoreIncompatible,
    StoreUnavailable,
)
from taskmux.plugins.loading import driver_for, plugin_manager

from taskmux_sqlite import SQLiteDriver
from taskmux_sqlite.schema import APPLICATION_ID, VERSION

NOBODY = 65534


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SQLiteDriver]:
    driver = SQLiteDriver(url)
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


async def push(driver: SQLiteDriver, *ids: str, number: int = 1) -> list[PushStatus]:
    jobs = [NewJob(JobRecord(queue="q", id=name, task="t")) for name in ids]
    return [reply.status for reply in await driver.push(Op("test", number), jobs)]


async def refusal(url: str, kind: type[StoreError]) -> str:
    driver = SQLiteDriver(url)
    with pytest.raises(StoreError) as caught:
        await driver.open()
    assert type(caught.value) is kind
    await driver.close()
    return str(caught.value)


def sqlite(file: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(file, isolation_level=None))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [one.name for one in threading.enumerate() if one.name.startswith("taskmux-")] == []


# -- URLs -----------------------------------------------------------------------------------------


async def test_a_relative_path_counts_from_where_the_driver_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    driver = SQLiteDriver("sqlite:///jobs.db")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    fork = driver.fork()
    for one in (driver, fork):
        await one.open()
        await one.close()
    assert (tmp_path / "jobs.db").is_file()
    assert list(elsewhere.iterdir()) == []


async def test_an_absolute_path_may_have_any_characters(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path}/a%20b%23c%3F%C3%A9.db?busy_timeout=70"):
        assert (tmp_path / "a b#c?é.db").is_file()


async def test_plugins_find_the_driver(tmp_path: Path) -> None:
    driver = driver_for(f"sqlite:///{tmp_path}/jobs.db", plugin_manager())
    assert isinstance(driver, SQLiteDriver)
    assert driver.url == f"sqlite:///{tmp_path}/jobs.db"


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("sqlite://", "memory://"),
        ("sqlite:///", "memory://"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite://?busy_timeout=1", "memory://"),
        ("sqlite://jobs.db", "three slashes"),
        ("sqlite://host/jobs.db", "three slashes"),
        ("sqlite:///jobs.db#part", "%23"),
        ("sqlite:///a%00b.db", "NUL"),
        ("sqlite:///jobs.db?timeout=5", "busy_timeout"),
        ("sqlite:///jobs.db?busy_timeout=5s", "milliseconds"),
        ("sqlite:///jobs.db?busy_timeout=-1", "milliseconds"),
        ("sqlite:///jobs.db?busy_timeout=600001", "milliseconds"),
        (f"sqlite:///jobs.db?busy_timeout={'9' * 5000}", "milliseconds"),
        ("sqlite:///jobs.db?busy_timeout=٣", "milliseconds"),
        ("sqlite:///jobs.db?synchronous=off", "'full' or 'normal'"),
    ],
)
def test_a_wrong_url_is_refused_with_advice(url: str, advice: str) -> None:
    with pytest.raises(InvalidURL) as caught:
        SQLiteDriver(url)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("option", "level"), [("", 2), ("?synchronous=full", 2), ("?synchronous=NORMAL", 1)]
)
async def test_synchronous_is_as_asked(tmp_path: Path, option: str, level: int) -> None:
    async with opened(f"sqlite:///{tmp_path}/jobs.db{option}") as driver:
        assert driver._session is not None
        query = "PRAGMA synchronous"
        ask = driver._session.ask(lambda store: store._connection.execute(query).fetchone())
        assert await ask == (level,)


# -- files that do not fit ------------------------------------------------------------------------


async def test_a_missing_directory(tmp_path: Path) -> None:
    message = await refusal(f"sqlite:///{tmp_path}/no/jobs.db", StoreUnavailable)
    assert f"no directory {tmp_path}/no" in message
    assert "Create it" in message


async def test_a_directory_in_its_place(tmp_path: Path) -> None:
    assert "is a directory" in await refusal(f"sqlite:///{tmp_path}", StoreUnavailable)


async def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    await refusal(f"sqlite:///{tmp_path}/{'x' * 5000}/jobs.db", StoreUnavailable)


async def test_no_database_at_all(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    text = "Dear diary, today nothing happened. " * 200
    file.write_text(text)
    assert "Choose another file" in await refusal(f"sqlite:///{file}", StoreIncompatible)
    assert file.read_text() == text


@pytest.mark.parametrize(
    "theirs",
    [
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY)",
        "PRAGMA application_id = 1196444487",
        "PRAGMA user_version = 3",
        "PRAGMA application_id = 1196444487; CREATE TABLE jobs (id TEXT)",
    ],
)
async def test_another_applications_database_is_not_touched(tmp_path: Path, theirs: str) -> None:
    file = tmp_path / "theirs.db"
    with sqlite(file) as connection:
        connection.executescript(theirs)
    before = file.read_bytes()
    assert "Choose another file" in await refusal(f"sqlite:///{file}", StoreIncompatible)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.db"]


async def test_an_empty_file_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    file.touch()
    async with opened(f"sqlite:///{file}") as driver:
        assert await push(driver, "a") == [PushStatus.CREATED]
    with sqlite(file) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_newer_schema(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    async with opened(f"sqlite:///{file}"):
        pass
    with sqlite(file) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    assert "Upgrade taskmux" in await refusal(f"sqlite:///{file}", StoreIncompatible)


async def test_an_old_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    assert "3.35" in await refusal(f"sqlite:///{tmp_path}/jobs.db", StoreIncompatible)


async def test_a_file_system_without_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    # A database in memory answers as such file systems do: it keeps another journal mode.
    monkeypatch.setattr(sqlite3, "connect", lambda _, **options: connect(":memory:", **options))
    assert "local disk" in await refusal(f"sqlite:///{tmp_path}/jobs.db", StoreIncompatible)


@pytest.mark.parametrize(
    ("made", "file_mode", "directory_mode"),
    [(True, 0o444, 0o777), (True, 0o000, 0o777), (False, 0o666, 0o555), (False, 0o666, 0o000)],
)
def test_missing_permission(made: bool, file_mode: int, directory_mode: int) -> None:
    # As another user, in a process and a directory of its own: root may read everything.
    code = """if True:
        import asyncio, os, sys
        from taskmux_sqlite import SQLiteDriver

        if os.getuid() == 0:
            os.setgid(int(sys.argv[2]))
            os.setuid(int(sys.argv[2]))
        try:
            asyncio.run(SQLiteDriver("sqlite:///" + sys.argv[1]).open())
        except Exception as error:
            print(type(error).__name__, error)
    """
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "jobs.db"
        if made:
            with sqlite(file) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
            file.chmod(file_mode)
        Path(directory).chmod(directory_mode)
        command = [sys.executable, "-c", code, str(file), str(NOBODY)]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        Path(directory).chmod(0o700)
    assert answer.stdout.startswith("StoreDenied ")
    assert "mode" in answer.stdout


# -- together -------------------------------------------------------------------------------------


async def test_many_open_an_empty_file_at_once(tmp_path: Path) -> None:
    drivers = [SQLiteDriver(f"sqlite:///{tmp_path}/jobs.db") for _ in range(16)]
    try:
        await asyncio.gather(*(driver.open() for driver in drivers))
        replies = [
            await push(driver, f"job-{number}", number=number)
            for number, driver in enumerate(drivers)
        ]
        assert replies == [[PushStatus.CREATED]] * 16
    finally:
        await asyncio.gather(*(driver.close() for driver in drivers))


async def test_open_and_close_again(tmp_path: Path) -> None:
    driver = SQLiteDriver(f"sqlite:///{tmp_path}/jobs.db")
    for number in range(3):
        await asyncio.gather(driver.open(), driver.open())
        await push(driver, "a", number=number)
        await asyncio.gather(driver.close(), driver.close())
    with pytest.raises(StoreUnavailable, match="not open"):
        await driver.counts("q")
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.db"]


def test_one_instance_may_be_opened_in_one_loop_after_another(tmp_path: Path) -> None:
    driver = SQLiteDriver(f"sqlite:///{tmp_path}/jobs.db")

    async def use() -> None:
        await asyncio.gather(driver.open(), driver.open(), driver.open())
        await asyncio.gather(driver.close(), driver.close())

    for _ in range(2):
        asyncio.run(use())


async def test_a_cancelled_open_leaves_nothing(tmp_path: Path) -> None:
    driver = SQLiteDriver(f"sqlite:///{tmp_path}/jobs.db")
    opening = asyncio.ensure_future(driver.open())
    await asyncio.sleep(0)
    (thread,) = [one for one in threading.enumerate() if one.name == "taskmux-jobs.db"]
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    await asyncio.to_thread(thread.join)
    await driver.open()
    assert await push(driver, "a") == [PushStatus.CREATED]
    await driver.close()


async def test_a_file_locked_by_another(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    async with opened(f"sqlite:///{file}?busy_timeout=20") as driver:
        with sqlite(file) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy, match="busy_timeout"):
                await push(driver, "a")
            assert await driver.get([Ref("q", "a")]) == [None]  # readers are not locked out
            other.execute("ROLLBACK")
            assert await push(driver, "a") == [PushStatus.CREATED]


async def test_a_new_file_locked_by_another(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    with sqlite(file) as other:
        other.execute("BEGIN EXCLUSIVE")
        await refusal(f"sqlite:///{file}?busy_timeout=20", StoreBusy)
        other.execute("ROLLBACK")
    async with opened(f"sqlite:///{file}") as driver:
        assert await push(driver, "a") == [PushStatus.CREATED]
