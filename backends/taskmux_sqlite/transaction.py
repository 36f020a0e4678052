"""One atomic piece of work: its instant, the queues it touches, and what was answered before."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

import msgspec
from taskmux.driver import Op, Place, QueueSettings

from taskmux_sqlite.rows import decode_settings
from taskmux_sqlite.schema import CORRUPT
from taskmux_sqlite.watch import Watch

__all__ = ["Line", "Transaction"]


class Line(msgspec.Struct):
    """A queue's row: its settings, and the sequence that gives places in line."""

    sequence: int = 0
    settings: QueueSettings = QueueSettings()
    changed: bool = False

    def place(self, place: Place, kept: int = 0) -> int:
        """Return the sequence of a job that becomes waiting; `kept` is the one it had."""
        if place is Place.KEEP and kept:
            return kept
        self.sequence += 1
        self.changed = True
        return -self.sequence if place is Place.FRONT else self.sequence


class Transaction:
    """A transaction under way. `now` is read once, after the lock was taken."""

    def __init__(
        self, connection: sqlite3.Connection, now: int, watch: Watch, directory: Path
    ) -> None:
        self.execute: Final = connection.execute
        self.executemany: Final = connection.executemany
        self.now: Final = now
        self.watch: Final = watch
        self.directory: Final = directory
        self.brought = False
        """Whether there is more to claim, now or at a due time, so that waiters should look."""
        self._lines: dict[str, Line] = {}

    def line(self, queue: str) -> Line:
        """Return the queue's row; a queue that is not stored has an empty one."""
        line = self._lines.get(queue)
        if line is None:
            query = "SELECT sequence, settings FROM queues WHERE name = ?"
            row = self.execute(query, (queue,)).fetchone()
            line = Line() if row is None else Line(row[0], decode_settings(row[1]))
            self._lines[queue] = line
        return line

    def finish(self) -> None:
        """Write the queues' rows that changed. Called before the commit."""
        self.executemany(
            "INSERT INTO queues (name, sequence) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET sequence = excluded.sequence",
            [(queue, line.sequence) for queue, line in self._lines.items() if line.changed],
        )

    def recall(self, op: Op, verb: str, queue: str = "") -> bytes | None:
        """Return what this very operation answered, if it was the origin's last."""
        row = self.execute(
            "SELECT reply FROM operations"
            " WHERE origin = ? AND verb = ? AND queue = ? AND number = ?",
            (op.origin, verb, queue, op.number),
        ).fetchone()
        return None if row is None else row[0]

    def remember(self, op: Op, verb: str, reply: bytes, queue: str = "") -> None:
        """Keep an operation's answer in place of the origin's one before."""
        self.execute(
            "INSERT OR REPLACE INTO operations (origin, verb, queue, number, at, reply)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (op.origin, verb, queue, op.number, self.now, reply),
        )

    def set_aside(self, numbers: list[int]) -> None:
        """Take rows that cannot be read out of every queue, and free their keys."""
        self.executemany(
            "UPDATE jobs SET state = ?, dedup = NULL, finished_at = NULL, expires_at = NULL,"
            " keep_count = NULL WHERE number = ?",
            [(CORRUPT, number) for number in numbers],
        )
