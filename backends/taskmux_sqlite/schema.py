"""The tables: what is stored, which index serves which question, and how versions follow.

A job is a row of `jobs`, which every claim and every transition rewrites, and a row of `bodies`
with what never changes, so that a large payload is written once. `notes` has a row only for jobs
that report progress, steps or log lines. The view `records` puts the three together.

A state's index holds exactly the jobs in that state, so a job is in one of them at a time and a
change of state moves one entry. Counts are taken from these indexes alone (which is why each has
the state): nothing is kept twice. Only jobs of named lines are in a second index of their state.

`lines` has a row for each line of a queue in which a job waits: those with a turn are in the ring,
the others are parked. Triggers keep these rows right whatever statement changes a job, even one
typed in a shell. `gates` says how much of its rate a line has spent, and until when it rests; it
outlives the line's waiting jobs. A queue's own gate is in its row of `queues`.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
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
        notice BLOB                        -- of a former version; nothing reads or writes it
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
    "DROP VIEW IF EXISTS records",  # in a file that somebody emptied by hand
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

# What becomes of a line when a job comes to wait in it, waits there no more, or stops running. The
# conditions are written twice: triggers whose statements have nothing to do are too slow to run.
_NO_LINE = "NOT EXISTS (SELECT 1 FROM lines WHERE queue = new.queue AND line IS new.line)"
_NO_JOB = """NOT EXISTS (
    SELECT 1 FROM jobs WHERE queue = old.queue AND state = 'waiting' AND line IS old.line
)"""
_BEGINS = f"""
    INSERT INTO lines (queue, line, turn)
    SELECT new.queue, new.line,
        (SELECT ifnull(max(turn), 0) + 1 FROM lines WHERE queue = new.queue)
    WHERE new.state = 'waiting' AND {_NO_LINE};
"""  # noqa: S608 - made of constants
_ENDS = f"""
    DELETE FROM lines
    WHERE old.state = 'waiting' AND queue = old.queue AND line IS old.line AND {_NO_JOB};
"""  # noqa: S608 - made of constants
_HAS_ROOM = """
    UPDATE lines
    SET turn = (SELECT ifnull(max(turn), 0) + 1 FROM lines WHERE queue = old.queue),
        opens_at = NULL
    WHERE old.state = 'active' AND queue = old.queue AND line = old.line AND turn IS NULL;
"""

_SECOND = (
    "ALTER TABLE jobs ADD COLUMN line TEXT",  # NULL: the queue's common one
    "UPDATE jobs SET line = (SELECT group_of(body) FROM bodies WHERE number = jobs.number)",
    "DROP INDEX jobs_waiting",
    """
    CREATE INDEX jobs_waiting ON jobs (queue, state, line, priority, sequence)
    WHERE state = 'waiting'
    """,
    """
    CREATE INDEX jobs_lined ON jobs (queue, state, priority, sequence)
    WHERE line IS NOT NULL AND state = 'waiting'
    """,
    """
    CREATE INDEX jobs_running ON jobs (queue, state, line)
    WHERE line IS NOT NULL AND state = 'active'
    """,
    "DROP VIEW records",
    # The new column comes last: processes of the version before may still read the view.
    """
    CREATE VIEW records AS
    SELECT number, queue, id, state, priority, sequence, lifo, dedup, created_at, run_at,
        finished_at, expires_at, keep_count, attempts, crashes, children, fence, worker,
        lease_until, started, cancel_requested, cause, reason, result, error, history, notice,
        body, progress, steps, logs, line
    FROM jobs LEFT JOIN bodies USING (number) LEFT JOIN notes USING (number)
    """,
    """
    CREATE TABLE lines (                   -- those in which jobs wait
        queue TEXT NOT NULL,
        line TEXT,
        turn INTEGER,                      -- place in the ring; NULL: parked
        opens_at INTEGER                   -- when a parked line may give by time alone
    )
    """,
    "CREATE UNIQUE INDEX lines_name ON lines (queue, line)",
    "CREATE INDEX lines_ring ON lines (queue, turn)",
    "CREATE INDEX lines_opening ON lines (queue, opens_at, line) WHERE opens_at IS NOT NULL",
    """
    INSERT INTO lines (queue, line, turn)
    SELECT queue, line, row_number() OVER (PARTITION BY queue ORDER BY min(sequence))
    FROM jobs WHERE state = 'waiting' GROUP BY queue, line
    """,
    f"""
    CREATE TRIGGER jobs_came AFTER INSERT ON jobs WHEN new.state = 'waiting' AND {_NO_LINE}
    BEGIN {_BEGINS} END
    """,
    f"""
    CREATE TRIGGER jobs_moved AFTER UPDATE OF state ON jobs WHEN old.state <> new.state AND (
        (old.line IS NOT NULL AND old.state = 'active')
        OR (new.state = 'waiting' AND {_NO_LINE})
        OR (old.state = 'waiting' AND {_NO_JOB})
    ) BEGIN {_HAS_ROOM} {_BEGINS} {_ENDS} END
    """,
    f"""
    CREATE TRIGGER jobs_left AFTER DELETE ON jobs WHEN old.state IN ('active', 'waiting')
    BEGIN {_HAS_ROOM} {_ENDS} END
    """,
    """
    CREATE TABLE gates (                   -- of lines: see taskmux_sqlite.gates
        queue TEXT NOT NULL,
        line TEXT,
        level REAL NOT NULL,
        metered_at INTEGER NOT NULL,
        held_until INTEGER NOT NULL,
        empty_at INTEGER NOT NULL          -- from then on it is as if there were none
    )
    """,
    "CREATE UNIQUE INDEX gates_name ON gates (queue, line)",
    "CREATE INDEX gates_empty ON gates (empty_at)",
    "ALTER TABLE queues ADD COLUMN level REAL NOT NULL DEFAULT 0",
    "ALTER TABLE queues ADD COLUMN metered_at INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE queues ADD COLUMN held_until INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE workers ADD COLUMN commands BLOB",
)

_THIRD = (
    # The highest fence of removed jobs that was ahead of the time then; 0: there was none.
    "ALTER TABLE queues ADD COLUMN fence_of_removed INTEGER NOT NULL DEFAULT 0",
)

_FOURTH = (
    "ALTER TABLE jobs ADD COLUMN throttle TEXT",  # the key that it owns for a time
    "ALTER TABLE jobs ADD COLUMN follows TEXT",  # the key whose owner it waits for to end
    "ALTER TABLE jobs ADD COLUMN followed INTEGER",  # 1: a job waits for this one to end
    "CREATE UNIQUE INDEX jobs_following ON jobs (queue, follows) WHERE follows IS NOT NULL",
    """
    CREATE TABLE throttles (               -- keys that are owned for a time
        queue TEXT NOT NULL,
        key TEXT NOT NULL,
        id TEXT NOT NULL,                  -- of the owner, which may be pruned
        until INTEGER NOT NULL,
        PRIMARY KEY (queue, key)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX throttles_over ON throttles (queue, until)",
)

_EVENTS = (
    """
    CREATE TABLE events (                  -- a row for each transaction and queue
        queue TEXT NOT NULL,
        last INTEGER NOT NULL,             -- the number of its last event, counted from 1
        first INTEGER NOT NULL,
        at INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (queue, last)
    ) WITHOUT ROWID
    """,
)

_MIGRATIONS: Final = (_FIRST, _SECOND, _THIRD, _FOURTH, _EVENTS)
"""Each makes the next version out of the one before; an empty file has version 0."""

VERSION: Final = len(_MIGRATIONS)


class _Body(msgspec.Struct):
    """What the first schema kept of a job's line."""

    group: str | None = None


_body: Final = msgspec.msgpack.Decoder(_Body).decode


def _group_of(body: object) -> str | None:
    """Return the group of a job of the first schema; none of one that cannot be read."""
    try:
        return _body(body).group if isinstance(body, bytes) else None
    except msgspec.MsgspecError:
        return None


# One statement, so one snapshot: another process may be creating the tables at this moment.
_OWNER: Final = """
SELECT application_id, user_version, (SELECT group_concat(name) FROM sqlite_schema)
FROM pragma_application_id, pragma_user_version
"""


def check_owner(connection: sqlite3.Connection, file: Path) -> int:
    """Return the schema's version, 0 for a file without tables. Writes nothing.

    Raises:
        StoreIncompatible: the file is another application's, a newer taskmux wrote it, or
            somebody dropped some of its tables.
    """
    owner, version, listed = connection.execute(_OWNER).fetchone()
    names = set(listed.split(",")) if listed else set()
    if owner != APPLICATION_ID and (owner or version or names):
        raise StoreIncompatible(
            f"{file} is another application's SQLite database; nothing was written to it. "
            f"Choose another file for taskmux."
        )
    if version > VERSION:
        raise StoreIncompatible(
            f"{file} was written by a newer taskmux (schema {version}; this one knows {VERSION}). "
            f"Upgrade taskmux here, or choose another file."
        )
    if names <= {"records"}:  # new, or emptied by somebody who dropped every table
        return 0
    missing = sorted(_all_names() - names) if version == VERSION else []
    if missing:
        raise StoreIncompatible(
            f"{file} has lost {len(missing)} parts of its schema, such as {missing[0]!r}. Restore "
            f"a backup, or stop every process that uses the file and delete it with its -wal and "
            f"-shm files."
        )
    return int(version)


@cache
def _all_names() -> frozenset[str]:
    """Return the names of everything in a whole schema."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        _migrate(connection, 0)
        return frozenset(name for (name,) in connection.execute("SELECT name FROM sqlite_schema"))


def migrate(connection: sqlite3.Connection, file: Path) -> None:
    """Bring the file to this schema in one transaction; of several openers one does the work.

    Raises:
        StoreIncompatible: as `check_owner`.
    """
    connection.execute("BEGIN IMMEDIATE")  # also finds out whether the file can be written
    try:
        version = check_owner(connection, file)
        if version < VERSION:
            _migrate(connection, version)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    connection.create_function("group_of", 1, _group_of, deterministic=True)
    for statements in _MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
