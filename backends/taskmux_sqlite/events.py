"""Events: a row for each transaction and queue, with what it changed; and whoever follows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from taskmux.driver import EventPage, State, StoreEvent, What

from taskmux_sqlite.records import encode

__all__ = ["Told", "are_events", "forget", "page", "store"]

Told = tuple[str, str, str | None, bytes | None]
"""An event as a row has it: what happened, the job's id, its state, and data."""

_told: Final = msgspec.msgpack.Decoder(list[Told]).decode

NOTHING: Final = encode([])
"""The body of a row that stands for lost events."""

_ROWS: Final = 50
"""Rows read at once; each has up to some hundred events."""

_TRIMMED_BY: Final = 64
"""Events that go at once: to look for old ones with each transaction would cost more."""

LAST: Final = "SELECT max(last) FROM events WHERE queue = ?"
AFTER: Final = """
SELECT first, last, at, body FROM events WHERE queue = ? AND last > ? ORDER BY last LIMIT ?
"""


def store(
    connection: sqlite3.Connection, queue: str, kept: int, now: int, told: Sequence[Told]
) -> None:
    """Store what a transaction told of a queue, and let go of what is more than it keeps."""
    if kept <= 0:
        return
    before = connection.execute(LAST, (queue,)).fetchone()[0] or 0
    last = before + len(told)
    connection.execute(
        "INSERT INTO events VALUES (?, ?, ?, ?, ?)", (queue, last, before + 1, now, encode(told))
    )
    if last // _TRIMMED_BY != before // _TRIMMED_BY:
        connection.execute("DELETE FROM events WHERE queue = ? AND last <= ?", (queue, last - kept))


def forget(connection: sqlite3.Connection, queue: str, now: int) -> None:
    """Drop a queue's events. A row without any stays, and numbers go on after it."""
    last = (connection.execute(LAST, (queue,)).fetchone()[0] or 0) + 1
    connection.execute("DELETE FROM events WHERE queue = ?", (queue,))
    row = (queue, last, last, now, NOTHING)
    connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", row)


def are_events(connection: sqlite3.Connection, queue: str, after: str) -> bool:
    """Return whether there are events after a cursor."""
    query = "SELECT 1 FROM events WHERE queue = ? AND last > ? LIMIT 1"
    return connection.execute(query, (queue, int(after))).fetchone() is not None


def page(
    connection: sqlite3.Connection, queue: str, kept: int, after: str | None, limit: int
) -> EventPage:
    """Return what there is after a cursor, which is an event's number; see `Events.events`."""
    last = connection.execute(LAST, (queue,)).fetchone()[0] or 0
    number = int(after) if after is not None and after.isdecimal() and len(after) < 19 else None  # noqa: PLR2004 - 63 bits
    if after == "":
        number = 0
    if number is None or number > last:
        return EventPage([], str(last), gap=after is not None, kept=kept > 0)
    rows = connection.execute(AFTER, (queue, number, _ROWS)).fetchall()
    found: list[StoreEvent] = []
    end = number
    for first, end, at, body in rows:  # noqa: B007 - where the last row that was read ends
        events = (_event(first + place, at, one) for place, one in enumerate(_readable(body)))
        found += [event for event in events if int(event.cursor) > number]
        if len(found) >= limit:
            break
    if len(found) > limit:
        del found[limit:]
        end = int(found[-1].cursor)
    gap = (
        after != ""
        and bool(rows)
        and (rows[0][0] > number + 1 or any(row[3] == NOTHING for row in rows))
    )
    return EventPage(found, str(end), gap=gap, kept=kept > 0)


def _event(number: int, at: int, told: Told) -> StoreEvent:
    what, job, state, data = told
    return StoreEvent(
        str(number), What(what), job, at, None if state is None else State(state), data
    )


def _readable(body: bytes) -> Iterable[Told]:
    try:
        return [one for one in _told(body) if one[2] is None or State(one[2])]
    except (ValueError, TypeError, msgspec.MsgspecError):
        return []
