"""Wait: who sleeps until which queues have work, and when to look whether they have.

Commits of other connections are seen by polling `PRAGMA data_version`, which reads a number from
shared memory. The poll runs only while somebody waits: every 2 ms right after a change, then about
every twentieth of the time that nothing happened, up to 50 ms. The connection's own commits do not
change that number and are counted here. A change alone wakes nobody: work must be there too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from taskmux_sqlite.gates import Gate, gate_of
from taskmux_sqlite.records import decode_settings

__all__ = ["Waiter", "Watch"]

FASTEST: Final = 0.002
SLOWEST: Final = 0.05
SLOWER: Final = 1.05

READY: Final = """
SELECT
    EXISTS (SELECT 1 FROM lines WHERE queue = name AND turn IS NOT NULL),
    (
        SELECT CAST(min(run_at) AS INTEGER) FROM jobs
        WHERE queue = name AND state = 'delayed' AND run_at < ''
    ),
    settings, level, metered_at, held_until
FROM queues WHERE name = ?
"""
"""What there is to claim: parked lines do not count, since they may not give a job now."""

ACTIVE: Final = """
SELECT count(*) FROM (SELECT 1 FROM jobs WHERE queue = ? AND state = 'active' LIMIT ?)
"""

Version = tuple[int, int]
"""The connection's data version and the number of its own commits that left more to claim."""


Shut = tuple[int, Gate]
"""The revision of a queue's settings, and its gate."""


class Waiter(msgspec.Struct, eq=False):
    """Somebody who waits for work in some queues, or for something else that `ready` looks for.

    `waits` and `wake` may be called anywhere.
    """

    queues: Sequence[str]
    waits: Callable[[], bool]
    wake: Callable[[], None]
    ready: Callable[[sqlite3.Connection], bool] | None = None


class _Seen(msgspec.Struct, gc=False):
    """What a queue's last claim saw."""

    version: Version
    due: int | None
    """When the next delayed job was due."""
    shut: Shut | None
    """The rate that kept everything back: the claim told its worker when it lets a job go."""


class Watch:
    """The waiters of one connection. Lives on the connection's thread."""

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None
        self._own = 0
        self._seen: dict[str, _Seen] = {}
        self._waiters: list[Waiter] = []
        self._last: Version = (0, 0)
        self._interval = FASTEST

    def use(self, connection: sqlite3.Connection) -> None:
        """Watch through this connection from now on. What it saw before does not compare."""
        self._connection = connection
        self._own += 1

    def brought(self) -> None:
        """Note that a commit of this connection left more to claim."""
        self._own += 1

    def claimed(self, queue: str, due: int | None, shut: Shut | None) -> None:
        """Note what a claim saw. Called inside its transaction, so nothing comes in between."""
        self._seen[queue] = _Seen(self._version(), due, shut)

    def add(self, waiter: Waiter) -> bool:
        """Return whether there is work that no claim has seen; if not, the waiter is woken later.

        W3 is kept because what a claim saw is compared with what is there now.
        """
        version = self._version()
        if waiter.ready is not None and self._is_ready(waiter.ready):
            return True
        for queue in waiter.queues:
            seen = self._seen.get(queue)
            if (seen is None or seen.version != version) and self._ready(queue):
                return True
        if not self._waiters:  # the others have looked only as far as the last check
            self._last = version
        self._interval = FASTEST
        self._waiters.append(waiter)
        return False

    def waits(self) -> bool:
        """Return whether anybody still waits."""
        self._waiters = [waiter for waiter in self._waiters if waiter.waits()]
        return bool(self._waiters)

    def pause(self) -> float | None:
        """Return how many seconds to sleep before the next look; None: until called."""
        return self._interval if self.waits() else None

    def slow_down(self) -> None:
        """Look less often: nothing has changed."""
        self._interval = min(self._interval * SLOWER, SLOWEST)

    def check(self) -> bool:
        """Wake those whose work has come; return whether anything changed since the last look."""
        version = self._version()
        if version == self._last:
            return False
        self._last = version
        self._interval = FASTEST
        for waiter in self._waiters:
            if any(map(self._ready, waiter.queues)) or (
                waiter.ready is not None and self._is_ready(waiter.ready)
            ):
                waiter.wake()
        return True

    def release(self) -> None:
        """Wake everybody: the connection closes."""
        for waiter in self._waiters:
            waiter.wake()
        self._waiters = []

    def _is_ready(self, ready: Callable[[sqlite3.Connection], bool]) -> bool:
        assert self._connection is not None
        return ready(self._connection)

    def follows(self) -> bool:
        """Return whether anybody waits for events."""
        return any(waiter.ready is not None for waiter in self._waiters)

    def _version(self) -> Version:
        assert self._connection is not None
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version), self._own

    def _ready(self, queue: str) -> bool:
        """Return whether a claim may find a job, or learn of an earlier due time."""
        assert self._connection is not None
        row = self._connection.execute(READY, (queue,)).fetchone()
        if row is None:
            return False
        ring, due, column, *gate = row
        settings, seen = decode_settings(column), self._seen.get(queue)
        if settings.paused:
            return False
        known = None if seen is None else seen.due
        if due is not None and (known is None or due < known):
            return True
        shut = seen is not None and seen.shut == (settings.rev, gate_of(tuple(gate)))
        return ring == 1 and not shut and self._has_room(queue, settings.concurrency)

    def _has_room(self, queue: str, concurrency: int | None) -> bool:
        if concurrency is None:
            return True
        assert self._connection is not None
        (active,) = self._connection.execute(ACTIVE, (queue, concurrency)).fetchone()
        return bool(active < concurrency)
