"""One atomic piece of work: its instant, the queues it touches, and what was answered before."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from taskmux.driver import (
    EVENT_DATA,
    CorruptRecord,
    Op,
    Place,
    QueueSettings,
    State,
    StoreIncompatible,
    What,
)

from taskmux_sqlite import events
from taskmux_sqlite.gates import Gate, gate_of
from taskmux_sqlite.records import LARGEST, decode_settings
from taskmux_sqlite.schema import CORRUPT
from taskmux_sqlite.wait import Watch

__all__ = ["QueueRow", "Transaction", "outdated"]

Reply = TypeVar("Reply")


def outdated(verb: str, op: Op) -> StoreIncompatible:
    """Return the error of an operation that comes too late: its sender has gone on."""
    return StoreIncompatible(
        f"{verb} {op} came after a later one of its origin, so nothing was done. Numbers of one "
        f"origin must rise; only the last operation may be sent again."
    )


class QueueRow(msgspec.Struct):
    """A queue's row: its settings, the sequence that gives places in line, and its gate."""

    sequence: int = 0
    fence_of_removed: int = 0
    """The highest fence of removed jobs that was ahead of the time: new ones start above it."""
    settings: QueueSettings = QueueSettings()
    gate: Gate = Gate()
    limited: bool = False
    changed: bool = False

    @classmethod
    def of(cls, queue: str, row: tuple[Any, ...]) -> QueueRow:
        """Return the row that the columns make.

        Raises:
            CorruptRecord: the sequence or the settings cannot be read.
        """
        sequence, fence, settings, *gate = row
        if not isinstance(sequence, int):
            raise CorruptRecord(
                f"Queue {queue!r} has the sequence {sequence!r}, which is no number. Set it in the "
                f"table 'queues' to one above every sequence of the queue's jobs."
            )
        decoded = decode_settings(settings)
        if not isinstance(fence, int) or fence > LARGEST:
            fence = 0  # somebody's mistake; the time alone is nearly as good
        return cls(sequence, fence, decoded, gate_of(tuple(gate)), decoded.limited)

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
        self.connection: Final = connection
        self.execute: Final = connection.execute
        self.executemany: Final = connection.executemany
        self.now: Final = now
        self.watch: Final = watch
        self.directory: Final = directory
        self.brought = False
        """Whether there is more to claim, now or at a due time, so that waiters should look."""
        self._queues: dict[str, QueueRow] = {}
        self._told: defaultdict[str, list[events.Told]] = defaultdict(list)

    def queue(self, name: str) -> QueueRow:
        """Return the queue's row; a queue that is not stored has an empty one.

        Raises:
            CorruptRecord: the row cannot be read.
        """
        queue = self._queues.get(name)
        if queue is None:
            row = self.execute(
                "SELECT sequence, fence_of_removed, settings, level, metered_at, held_until"
                " FROM queues WHERE name = ?",
                (name,),
            ).fetchone()
            queue = self._queues[name] = QueueRow() if row is None else QueueRow.of(name, row)
        return queue

    def set_gate(self, name: str, gate: Gate) -> None:
        """Store how much of its rate a whole queue has spent, and until when it rests."""
        queue = self.queue(name)
        queue.gate, queue.changed = gate, True

    @property
    def told(self) -> bool:
        """Whether it leaves events."""
        return bool(self._told)

    def tell(
        self,
        queue: str,
        what: What,
        job_id: str = "",
        state: State | None = None,
        data: bytes | None = None,
    ) -> None:
        """Leave an event of a job, or of the queue."""
        if data is not None and len(data) > EVENT_DATA:
            data = None
        self._told[queue].append((what.value, job_id, None if state is None else state.value, data))

    def removed(self, name: str, fences: Iterable[object]) -> None:
        """Note the fences of removed jobs: those that are not below the time must not come again.

        That is so only where jobs were claimed more often than milliseconds passed, or the clock
        was set back; elsewhere the time is all that new jobs need, and nothing is read or written.
        """
        ahead = [
            fence for fence in fences if isinstance(fence, int) and self.now <= fence <= LARGEST
        ]
        if ahead:
            queue = self.queue(name)
            queue.fence_of_removed = max(queue.fence_of_removed, *ahead)
            queue.changed = True

    def finish(self) -> None:
        """Write the queues' rows that changed, and the events. Called before the commit."""
        for name, told in self._told.items():
            kept = self.queue(name).settings.events
            events.store(self.connection, name, kept, self.now, told)
        self.executemany(
            "INSERT INTO queues"
            " (name, sequence, fence_of_removed, level, metered_at, held_until)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE"
            " SET sequence = excluded.sequence, fence_of_removed = excluded.fence_of_removed,"
            " level = excluded.level, metered_at = excluded.metered_at,"
            " held_until = excluded.held_until",
            [
                (
                    name,
                    queue.sequence,
                    queue.fence_of_removed,
                    *msgspec.structs.astuple(queue.gate),
                )
                for name, queue in self._queues.items()
                if queue.changed
            ],
        )

    def recall(
        self, op: Op, verb: str, decode: Callable[[bytes], Reply], queue: str = ""
    ) -> Reply | None:
        """Return what this very operation answered, if it was the origin's last.

        Raises:
            CorruptRecord: there is an answer, but it cannot be decoded.
            StoreIncompatible: the origin has sent a later one.
        """
        row = self.execute(
            "SELECT number, reply FROM operations"
            " WHERE origin = ? AND verb = ? AND queue = ? AND number >= ?",
            (op.origin, verb, queue, op.number),
        ).fetchone()
        if row is None:
            return None
        if row[0] != op.number:
            raise outdated(verb, op)
        try:
            return decode(row[1])
        except (msgspec.MsgspecError, TypeError) as error:
            raise CorruptRecord(
                f"What {verb} {op} answered before cannot be read: {error}. Delete the row of "
                f"origin {op.origin!r} from the table 'operations'; the operation is then done "
                f"anew when it is sent again."
            ) from error

    def remember(self, op: Op, verb: str, reply: bytes, queue: str = "") -> None:
        """Keep an operation's answer in place of the origin's one before."""
        self.execute(
            "INSERT OR REPLACE INTO operations (origin, verb, queue, number, at, reply)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (op.origin, verb, queue, op.number, self.now, reply),
        )

    def set_aside(self, numbers: list[int]) -> None:
        """Take rows that cannot be read out of every queue, and free their keys and places."""
        self.brought |= bool(numbers)
        self.executemany(
            "DELETE FROM throttles WHERE (queue, id) IN"
            " (SELECT queue, id FROM jobs WHERE number = ?)",
            [(number,) for number in numbers],
        )
        self.executemany(
            "UPDATE jobs SET state = ?, dedup = NULL, throttle = NULL, follows = NULL,"
            " finished_at = NULL, expires_at = NULL, keep_count = NULL WHERE number = ?",
            [(CORRUPT, number) for number in numbers],
        )
