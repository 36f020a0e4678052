"""The tables: what is stored, which index serves which question, and how versions follow.

A job is a row of `jobs`, which every claim and every transition rewrites, and a row of `bodies`
with what never changes, so that a large payload is written once. `notes` has a row only for jobs
that report progress, steps or log lines. The view `records` puts the three together.

A state's index holds exactly the jobs in that state, so a job is in one of them at a time and a
change of state moves one entry. Counts are taken from these indexes alone (which is why each has
the state): nothing is kept twice.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from taskmux.driver import StoreIncompatible

__all__ = ["APPLICATION_ID", "CORRUPT", "VERSION", "check_owner", "migrate"]

APPLICATION_ID: Final = 0x74736B6D
"""Marks the file as ours: "tskm" in the header that `file(1)` and SQLite show."""

CORRUPT: Final = "corrupt"
"""The state of a row that could not be read: in no index but that of ids, so in nobody's way."""

_FIRST = (
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY,        -- order of creation
        queue TEXT NOT NULL,
        id TEXT NOT NULL,
        state TEXT NOT NULL,               -- a State's name, or 'corrupt'
        priority INTEGER NOT NULL,
        sequence INTEGER NOT NULL,         -- place within the priority; 0: never waited
        lifo INTEGER NOT NULL,
        dedup TEXT,
        created_at INTEGER NOT NULL,       -- instants are epoch milliseconds
        run_at INTEGER,
        finished_at INTEGER,
        expires_at INTEGER,                -- set exactly while the state is terminal
        keep_count INTEGER,
        attempts INTEGER NOT NULL,
        crashes INTEGER NOT NULL,
        children INTEGER NOT NULL,
        fence INTEGER NOT NULL,
        worker TEXT,
        lease_until INTEGER,
        started INTEGER NOT NULL,
        cancel_requested INTEGER NOT NULL,
        cause TEXT,
        reason TEXT,
        result BLOB,
        error BLOB,
        history BLOB,
        notice BLOB
    )
    """,
    "CREATE TABLE bodies (number INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    "CREATE TABLE notes (number INTEGER PRIMARY KEY, progress BLOB, steps BLOB, logs BLOB)",
    """
    CREATE TRIGGER jobs_deleted AFTER DELETE ON jobs BEGIN
        DELETE FROM bodies WHERE number = old.number;
        DELETE FROM notes WHERE number = old.number;
    END
    """,
    """
    CREATE VIEW records AS
    SELECT jobs.*, body, progress, steps, logs
    FROM jobs LEFT JOIN bodies USING (number) LEFT JOIN notes USING (number)
    """,
    "CREATE UNIQUE INDEX jobs_id ON jobs (queue, id)",
    "CREATE INDEX jobs_waiting ON jobs (queue, state, priority, sequence) WHERE state = 'waiting'",
    "CREATE INDEX jobs_delayed ON jobs (queue, state, run_at) WHERE state = 'delayed'",
    "CREATE INDEX jobs_blocked ON jobs (queue, state, created_at) WHERE state = 'blocked'",
    "CREATE INDEX jobs_active ON jobs (queue, state, lease_until) WHERE state = 'active'",
    "CREATE INDEX jobs_finished ON jobs (queue, state, finished_at) WHERE finished_at IS NOT NULL",
    "CREATE INDEX jobs_expiring ON jobs (queue, expires_at) WHERE expires_at IS NOT NULL",
    """
    CREATE INDEX jobs_counted ON jobs (queue, state, keep_count, finished_at)
    WHERE keep_count IS NOT NULL
    """,
    """
    CREATE UNIQUE INDEX jobs_dedup ON jobs (queue, dedup)
    WHERE dedup IS NOT NULL AND expires_at IS NULL
    """,
    """
    CREATE TABLE queues (
        name TEXT PRIMARY KEY,
        sequence INTEGER NOT NULL,         -- the last one given to a job of this queue
        settings BLOB
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE operations (              -- the last one of each origin, and its reply
        origin TEXT,
        verb TEXT,
        queue TEXT,
        number INTEGER NOT NULL,
        at INTEGER NOT NULL,
        reply BLOB NOT NULL,
        PRIMARY KEY (origin, verb, queue)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE workers (
        id TEXT PRIMARY KEY,
        expires_at INTEGER NOT NULL,
        info BLOB NOT NULL
    ) WITHOUT ROWID
    """,
)

_MIGRATIONS: Final = (_FIRST,)
"""Each makes the next version out of the one before; an empty file has version 0."""

VERSION: Final = len(_MIGRATIONS)

# One statement, so one snapshot: another process may be creating the tables at this moment.
_OWNER: Final = """
SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
FROM pragma_application_id, pragma_user_version
"""


def check_owner(connection: sqlite3.Connection, file: Path) -> int:
    """Return the schema's version, 0 for an empty file. Writes nothing.

    Raises:
        StoreIncompatible: the file is another application's, or a newer taskmux wrote it.
    """
    owner, version, objects = connection.execute(_OWNER).fetchone()
    if owner != APPLICATION_ID and (owner, version, objects) != (0, 0, 0):
        raise StoreIncompatible(
            f"{file} is another application's SQLite database; nothing was written to it. "
            f"Choose another file for taskmux."
        )
    if version > VERSION:
        raise StoreIncompatible(
            f"{file} was written by a newer taskmux (schema {version}; this one knows {VERSION}). "
            f"Upgrade taskmux here, or choose another file."
        )
    return int(version)


def migrate(connection: sqlite3.Connection, file: Path) -> None:
    """Bring the file to this schema in one transaction; of several openers one does the work.

    Raises:
        StoreIncompatible: as `check_owner`.
    """
    connection.execute("BEGIN IMMEDIATE")  # also finds out whether the file can be written
    try:
        version = check_owner(connection, file)
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        if version < VERSION:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
