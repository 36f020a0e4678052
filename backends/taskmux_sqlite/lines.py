"""Lines: whose job is next, among the groups of a queue in which jobs wait.

The lines of a queue that have waiting jobs take turns. Those that may give a job stand in a ring,
ordered by their turn. A claim reads the ring from its head, as far as it needs. A line that gave a
job goes behind all others. A line that may not give one now is parked: it leaves the ring, and no
claim looks at it before it may give again.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec
from taskmux.driver import LINE_LIMIT, JobRecord, LineSettings, QueueSettings, Ref, Standing

from taskmux_sqlite.gates import Gate, gate_of, read_gate, write_gate
from taskmux_sqlite.records import PRIORITY, ROW, SEQUENCE, readable
from taskmux_sqlite.transaction import Transaction

__all__ = ["Turns", "kept_back", "readmit", "standing"]

RING: Final = """
SELECT lines.line, turn, level, metered_at, held_until
FROM lines LEFT JOIN gates ON gates.queue = lines.queue AND gates.line IS lines.line
WHERE lines.queue = ? AND turn > ? ORDER BY turn LIMIT ?
"""

WAITING: Final = f"""
SELECT {ROW} FROM records
WHERE queue = ? AND state = 'waiting' AND line IS ? AND (priority, sequence) > (?, ?)
ORDER BY priority, sequence LIMIT ?
"""  # noqa: S608 - made of constants

RUNNING: Final = """
SELECT count(*) FROM (
    SELECT 1 FROM jobs WHERE queue = ? AND state = 'active' AND line = ? LIMIT ?
)
"""

LAST_TURN: Final = "SELECT ifnull(max(turn), 0) FROM lines WHERE queue = ?"

OPENED: Final = """
SELECT rowid FROM lines WHERE queue = ? AND opens_at <= ? ORDER BY opens_at, line LIMIT ?
"""

KEPT_BACK: Final = """
SELECT EXISTS (SELECT 1 FROM lines WHERE queue = :queue AND turn IS NOT NULL),
    EXISTS (SELECT 1 FROM lines WHERE queue = :queue AND turn IS NULL),
    (SELECT min(opens_at) FROM lines WHERE queue = :queue AND opens_at IS NOT NULL)
"""

READMIT: Final = """
UPDATE lines SET turn = ranked.turn, opens_at = NULL
FROM (
    SELECT line, row_number() OVER (ORDER BY line)
        + (SELECT ifnull(max(turn), 0) FROM lines WHERE queue = :queue) AS turn
    FROM lines WHERE queue = :queue AND turn IS NULL
) AS ranked
WHERE queue = :queue AND lines.line IS ranked.line
"""

STANDS: Final = """
SELECT it.line,
    (
        SELECT count(*) FROM jobs
        WHERE queue = :queue AND state = 'waiting' AND line IS it.line
        AND (priority, sequence) < (it.priority, it.sequence)
    ),
    (SELECT count(*) FROM jobs WHERE queue = :queue AND state = 'waiting' AND line IS it.line),
    (SELECT count(*) FROM jobs WHERE queue = :queue AND state = 'active' AND line IS it.line),
    (SELECT count(*) FROM jobs WHERE queue = :queue AND state = 'active'),
    (SELECT count(*) FROM lines WHERE queue = :queue)
FROM jobs AS it WHERE queue = :queue AND id = :id AND state = 'waiting'
"""
"""What a `Standing` begins with."""

_BEFORE_ALL: Final = (-(2**63), 0)

_Numbered = tuple[int, JobRecord]
"""A job's number, and the job."""


class _Line(msgspec.Struct):
    """A line of the ring as this claim sees it."""

    name: str | None
    settings: LineSettings
    gate: Gate
    given: int = 0
    """Jobs given by this claim."""
    jobs: list[_Numbered] = msgspec.field(default_factory=list)
    """Those read and not given yet."""
    after: tuple[int, int] = _BEFORE_ALL
    """Where in the line to read on."""
    ended: bool = False


class Turns:
    """The turns that one claim takes: it goes along the ring until it has its jobs."""

    def __init__(self, transaction: Transaction, queue: str, settings: QueueSettings) -> None:
        self._transaction: Final = transaction
        self._queue: Final = queue
        self._settings: Final = settings
        self._ahead: Final[deque[_Line]] = deque()
        self._behind: Final[deque[_Line]] = deque()
        self._read_to = 0
        self._read_all = False
        self._parked: Final[list[tuple[int | None, str, str | None]]] = []
        self._metered: Final[dict[str | None, _Line]] = {}

    def take(self, most: int) -> list[_Numbered]:
        """Return up to so many jobs in the order of turns; the caller makes them active.

        Call `finish` after that.
        """
        self._readmit_opened()
        taken: list[_Numbered] = []
        while len(taken) < most and len(self._parked) < LINE_LIMIT:
            line = self._next(most - len(taken))
            if line is None:
                break
            room = self._room(line)
            if room <= 0:
                self._park(line)
                continue
            jobs = self._give(line, most - len(taken), room)
            taken += jobs
            if jobs:
                self._behind.append(line)
        return taken

    def finish(self) -> None:
        """Store which lines are parked, which go behind the others, and what their rates spent.

        Called after the jobs were made active. A line whose last job was taken has no row any
        more, and none of this makes one.
        """
        transaction, queue = self._transaction, self._queue
        transaction.executemany(
            "UPDATE lines SET turn = NULL, opens_at = ? WHERE queue = ? AND line IS ?", self._parked
        )
        if self._ahead or len(self._behind) > 1 or not self._read_all:  # else nobody overtakes
            (last,) = transaction.execute(LAST_TURN, (queue,)).fetchone()
            transaction.executemany(
                "UPDATE lines SET turn = ? WHERE queue = ? AND line IS ?",
                [(turn, queue, line.name) for turn, line in enumerate(self._behind, last + 1)],
            )
        for line in self._metered.values():
            write_gate(transaction.execute, queue, line.name, line.gate, line.settings.rate)

    def _readmit_opened(self) -> None:
        """Let lines whose rate or hold has opened come back."""
        opened = (self._queue, self._transaction.now, LINE_LIMIT)
        rows = self._transaction.execute(OPENED, opened).fetchall()
        for (number,) in rows:
            self._transaction.execute(
                f"UPDATE lines SET opens_at = NULL, turn = ({LAST_TURN}) + 1 WHERE rowid = ?",  # noqa: S608 - made of constants
                (self._queue, number),
            )

    def _next(self, wanted: int) -> _Line | None:
        """Return the line whose turn it is."""
        if not self._ahead and not self._read_all:
            rows = self._transaction.execute(RING, (self._queue, self._read_to, wanted + 1))
            for name, turn, *gate in rows.fetchall():
                self._ahead.append(_Line(name, self._settings.line(name), gate_of(tuple(gate))))
                self._read_to = turn
            self._read_all = len(self._ahead) <= wanted
        ring = self._ahead or self._behind
        return ring.popleft() if ring else None

    def _room(self, line: _Line) -> int:
        """Return how many jobs the line may give now."""
        settings = line.settings
        if settings.paused:
            return 0
        room = line.gate.room(settings.rate, self._transaction.now)
        if settings.concurrency is not None:
            full = (self._queue, line.name, settings.concurrency)
            (running,) = self._transaction.execute(RUNNING, full).fetchone()
            room = min(room, settings.concurrency - running - line.given)
        return room

    def _park(self, line: _Line) -> None:
        now = self._transaction.now
        opens_in = line.gate.opens_in(line.settings.rate, now)
        self._parked.append((now + opens_in if opens_in else None, self._queue, line.name))

    def _give(self, line: _Line, wanted: int, room: int) -> list[_Numbered]:
        """Return the line's next job; as many as it may give if there is no other line."""
        others = len(self._ahead) + len(self._behind)
        if not line.jobs:
            self._read(line, -(-wanted // (1 + others)))
        turns = 1 if others or not self._read_all else min(wanted, room)
        jobs, line.jobs = line.jobs[:turns], line.jobs[turns:]
        line.given += len(jobs)
        if jobs and line.settings.rate is not None:
            line.gate = line.gate.spent(line.settings.rate, self._transaction.now, len(jobs))
            self._metered[line.name] = line
        return jobs

    def _read(self, line: _Line, count: int) -> None:
        """Read on in the line until there is a job that can be read, or none at all."""
        while not line.jobs and not line.ended:
            ask = (self._queue, line.name, *line.after, count)
            rows = self._transaction.execute(WAITING, ask).fetchall()
            line.jobs, corrupt = readable(rows)
            self._transaction.set_aside(corrupt)
            line.ended = len(rows) < count
            if rows:
                line.after = rows[-1][PRIORITY], rows[-1][SEQUENCE]
        if not line.jobs and not line.given:  # a row that somebody added by hand
            ended = (self._queue, line.name)
            self._transaction.execute("DELETE FROM lines WHERE queue = ? AND line IS ?", ended)


def readmit(transaction: Transaction, queue: str) -> None:
    """Let every parked line of a queue come back: the settings have changed."""
    transaction.execute(READMIT, {"queue": queue})


def kept_back(transaction: Transaction, queue: str) -> tuple[bool, int | None]:
    """Say whether all lines with waiting jobs are parked, and in how long the first may give.

    That is 0 if there is a line in the ring that this claim did not get to.
    """
    ring, parked, opens_at = transaction.execute(KEPT_BACK, {"queue": queue}).fetchone()
    if ring:
        return False, 0
    return bool(parked), None if opens_at is None else max(0, opens_at - transaction.now)


def standing(transaction: Transaction, ref: Ref) -> Standing | None:
    """See `Lines.standing`."""
    found = transaction.execute(STANDS, {"queue": ref.queue, "id": ref.id}).fetchone()
    if found is None:
        return None
    line, ahead, line_waiting, line_active, active, lines = found
    queue, now = transaction.queue(ref.queue), transaction.now
    settings, gate = queue.settings, read_gate(transaction.execute, ref.queue, line)
    return Standing(
        ahead,
        line_waiting,
        line_active,
        active,
        lines,
        opens_in=queue.gate.opens_in(settings.rate, now),
        line_opens_in=gate.opens_in(settings.line(line).rate, now),
    )
