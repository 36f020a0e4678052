from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from taskmux.conformance import DriverSuite
from taskmux.driver import Driver, Ref, StoreError, StoreIncompatible, StoreUnavailable

from taskmux_sqlite import SQLiteDriver

LEAKS = {
    "bodies without a job": "SELECT 1 FROM bodies WHERE number NOT IN (SELECT number FROM jobs)",
    "notes without a job": "SELECT 1 FROM notes WHERE number NOT IN (SELECT number FROM jobs)",
    "lines without a job, or jobs without a line": """
        SELECT queue, line FROM (SELECT queue, line FROM lines UNION ALL
            SELECT DISTINCT queue, line FROM jobs WHERE state = 'waiting')
        GROUP BY queue, line HAVING count(*) <> 2
    """,
    "lines in the ring with an instant": "SELECT 1 FROM lines WHERE turn + opens_at IS NOT NULL",
    "two lines with one turn": "SELECT 1 FROM lines GROUP BY queue, turn HAVING count(turn) > 1",
}
"""What a file must not hold. The last three: the ring is exactly the waiting jobs' lines."""


class TestSQLite(DriverSuite):
    """One file per test, on a clock that moves when told to."""

    @pytest.fixture
    def unopened_driver(self, tmp_path: Path) -> SQLiteDriver:
        self.clock = 1_700_000_000_000
        self.file = tmp_path / "jobs.db"
        return SQLiteDriver(f"sqlite:///{self.file}", clock=lambda: self.clock)

    async def advance(self, ms: float) -> None:
        self.clock += max(1, round(ms))

    # `cut` stays as it is: a file has no connection that somebody else could break. What can happen
    # to the file while it is open is tested in tests/integration/test_sqlite_emptied.py.

    async def damage(self, driver: Driver, ref: Ref) -> bool:
        with sqlite3.connect(self.file) as connection:
            connection.execute(
                "UPDATE bodies SET body = x'ff' WHERE number ="
                " (SELECT number FROM jobs WHERE queue = ? AND id = ?)",
                (ref.queue, ref.id),
            )
        connection.close()
        return True

    async def leaked(self, driver: Driver) -> list[str]:
        with closing(sqlite3.connect(self.file)) as connection:
            found = [
                f"{count} rows: {what}"
                for what, query in LEAKS.items()
                for (count,) in connection.execute(f"SELECT count(*) FROM ({query})")
                if count
            ]
            checked = connection.execute("PRAGMA integrity_check")
            return found + [line for (line,) in checked if line != "ok"]

    async def unfit(self) -> Sequence[tuple[Driver, type[StoreError]]]:
        text = self.file.with_name("text.db")
        text.write_text("This is no database, however long the text may be. " * 100)
        foreign = self.file.with_name("foreign.db")
        with sqlite3.connect(foreign) as connection:
            connection.execute("CREATE TABLE theirs (x)")
        connection.close()
        nowhere = self.file.parent / "nowhere" / "jobs.db"
        return [
            (SQLiteDriver(f"sqlite:///{text}"), StoreIncompatible),
            (SQLiteDriver(f"sqlite:///{foreign}"), StoreIncompatible),
            (SQLiteDriver(f"sqlite:///{nowhere}"), StoreUnavailable),
        ]
