"""Events: read from the server's own log, by change streams. Nothing is written for them.

So each change has its event, once and in order, whatever was killed when; and it costs something
only while somebody follows. It needs a replica set. See `docs/decisions/0011-mongodb-events.md`.
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC
from functools import partial
from typing import Any, Final

import msgspec
from bson.int64 import Int64
from pymongo.errors import OperationFailure
from taskmux.driver import (
    EVENT_DATA,
    EventPage,
    State,
    StoreEvent,
    UnsupportedFeature,
    What,
)

from taskmux_mongodb.failures import FAULTS
from taskmux_mongodb.records import REMOVED, Document, state_of
from taskmux_mongodb.settings import settings
from taskmux_mongodb.store import Store

__all__ = ["Ask", "Streams", "follow"]

Send = Callable[[Callable[[Store], Awaitable[EventPage]]], Awaitable[EventPage]]

_LONGEST_WAIT: Final = 0.25
"""Seconds that one command waits for events: the server ends it no sooner, and closing waits."""


_STREAMS: Final = 32
"""How many streams one instance keeps open for the next page."""

_TOKEN: Final = re.compile(r"[0-9A-Fa-f]{2,4096}\Z")
_LOST: Final = {9, 10, 14, 260, 280, 286, 40649, 50759, 50795, 50811, 50856, 8454400}
"""What the server answers when it cannot go on after a cursor: too old, or none of its own."""

_FORGOTTEN: Final = {43, 237}
_RESUMABLE: Final = "ResumableChangeStreamError"

_SHOWN: Final = {
    "documentKey": 1,
    "operationType": 1,
    "ns.coll": 1,
    "wallTime": 1,
    "clusterTime": 1,
    **{f"fullDocument.{name}": 1 for name in ("state", "paused", "rev", "flipped", "restated")},
    **{
        f"updateDescription.updatedFields.{name}": 1
        for name in ("state", "progress", "lapsed", "told")
    },
}


class _Stream(msgspec.Struct):
    """An open change stream of one queue: the server's cursor, and what is still to be told."""

    number: int
    session: Any
    cursor: str
    batch: list[Document]


class Streams:
    """The streams of one instance: those that wait for their next page, by queue and cursor."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, str], _Stream] = {}

    def take(self, queue: str, cursor: str) -> _Stream | None:
        """Return the stream that stands there, if there is one."""
        return self._idle.pop((queue, cursor), None)

    async def keep(self, store: Store, queue: str, stream: _Stream) -> None:
        """Keep a stream for the next page; the one that was kept longest goes if there are many."""
        replaced = self._idle.pop((queue, stream.cursor), None)
        self._idle[queue, stream.cursor] = stream
        if len(self._idle) > _STREAMS:
            replaced = self._idle.pop(next(iter(self._idle)))
        if replaced is not None:
            await _close(store, replaced)

    async def close(self, store: Store) -> None:
        """Close them all."""
        idle, self._idle = self._idle, {}
        for stream in idle.values():
            await _close(store, stream)


class Ask(msgspec.Struct, frozen=True):
    """What one page is asked for; see `Events.events`."""

    queue: str
    after: str | None
    limit: int
    wait_ms: int


async def follow(send: Send, streams: Streams, ask: Ask, seconds: float) -> EventPage:
    """Return the first page that has something to tell, or the last one before the time is over.

    `send`: does something with the store, again if that may help.
    """
    end = time.monotonic() + seconds
    while True:
        left = min(max(0.0, end - time.monotonic()), _LONGEST_WAIT)
        ask = msgspec.structs.replace(ask, wait_ms=round(1000 * left))
        page = await send(partial(_events_of, streams, ask))
        told = page.events or page.gap or not page.kept
        if ask.after is None or told or time.monotonic() >= end:
            return page
        ask = msgspec.structs.replace(ask, after=page.cursor)


async def _events_of(streams: Streams, ask: Ask, store: Store) -> EventPage:
    """Return events after a cursor, or after so long a page without.

    Raises:
        UnsupportedFeature: the deployment is a single server.
    """
    if not store.transactional:
        raise UnsupportedFeature(
            "This MongoDB is a single server, which has no change streams, and events are read "
            "from those. Make it a replica set (one member is enough)."
        )
    queue, after = ask.queue, ask.after
    kept = (await settings(store, queue)).events > 0
    stream, gap = None if after is None else streams.take(queue, after), False
    if stream is None:
        stream, gap = await _opened(store, queue, after)
    if kept and not gap and after is not None and not stream.batch and stream.number:
        stream, gap = await _read_on(store, ask, stream)
    found: list[StoreEvent] = []
    while kept and stream.batch and len(found) < ask.limit:
        change = stream.batch.pop(0)
        stream.cursor = change["_id"]["_data"]
        found += _events(change, len(queue) + 1)
    if stream.number:
        await streams.keep(store, queue, stream)
    else:  # the database was dropped
        await _close(store, stream)
    return EventPage(found, stream.cursor, gap=gap, kept=kept)


async def _opened(store: Store, queue: str, after: str | None) -> tuple[_Stream, bool]:
    """Return a stream that goes on after a cursor, or begins now; and whether there is a gap."""
    if after is not None and _TOKEN.match(after):
        try:
            return await _open(store, queue, {"startAfter": {"_data": after}}), False
        except OperationFailure as error:
            if error.code not in _LOST:
                raise
    since = {"startAtOperationTime": store.opened_at} if after == "" and store.opened_at else {}
    return await _open(store, queue, since), bool(after)


async def _open(store: Store, queue: str, start: Document) -> _Stream:
    # All keys that begin with the queue's name and a slash: a zero is what follows a slash.
    jobs = {"ns.coll": "jobs", "documentKey._id": {"$gte": f"{queue}/", "$lt": f"{queue}0"}}
    itself = {"ns.coll": "queues", "documentKey._id": queue}
    pipeline = [
        {"$changeStream": start},
        {"$match": {"$or": [jobs, itself]}},
        {"$project": _SHOWN},
    ]
    session = store.client.start_session()
    if inspect.isawaitable(session):  # Motor's
        session = await session
    reply = await store.database.command(
        "aggregate", 1, pipeline=pipeline, cursor={}, session=session
    )
    cursor = reply["cursor"]
    token: Document = cursor.get("postBatchResumeToken") or start.get("startAfter", {})
    return _Stream(cursor["id"], session, token["_data"], list(cursor["firstBatch"]))


async def _read_on(store: Store, ask: Ask, stream: _Stream) -> tuple[_Stream, bool]:
    """Ask for more, waiting for the first change; return the stream, and whether there is a gap.

    A stream that the server has forgotten, as it does after ten idle minutes and after a failover,
    is opened again where it was.
    """
    try:
        reply = await store.database.command(
            "getMore",
            Int64(stream.number),
            collection="$cmd.aggregate",
            maxTimeMS=max(1, ask.wait_ms),
            session=stream.session,
        )
    except OperationFailure as error:
        forgotten = error.code in _LOST | _FORGOTTEN or error.has_error_label(_RESUMABLE)
        if not forgotten:
            raise
        return await _opened(store, ask.queue, stream.cursor)
    cursor = reply["cursor"]
    stream.number, stream.batch = cursor["id"], list(cursor["nextBatch"])
    if not stream.batch and "postBatchResumeToken" in cursor:  # nothing happened until here
        stream.cursor = cursor["postBatchResumeToken"]["_data"]
    return stream, False


async def _close(store: Store, stream: _Stream) -> None:
    with suppress(*FAULTS):
        await store.database.command(
            "killCursors", "$cmd.aggregate", cursors=[Int64(stream.number)]
        )
        await stream.session.end_session()


def _events(change: Document, prefix: int) -> Iterator[StoreEvent]:
    """Yield what a change tells: mostly one event, sometimes none."""
    whole: Document = change.get("fullDocument") or {}
    cursor, at = change["_id"]["_data"], _time_of(change)
    if change["ns"]["coll"] == "queues":
        if whole.get("flipped") is not None and whole["flipped"] == whole.get("rev"):
            what = What.PAUSED if whole.get("paused") else What.RESUMED
            yield StoreEvent(cursor, what, "", at)
        return
    job = change["documentKey"]["_id"][prefix:]
    operation: str = change["operationType"]
    if operation == "delete" or whole.get("state") == REMOVED:
        yield StoreEvent(cursor, What.REMOVED, job, at)
    elif operation in {"insert", "replace"}:
        state, restated = _state_of(whole.get("state")), whole.get("restated")
        if state is not None and restated is not False:
            what = What.ADDED if restated is None else What.STATE
            yield StoreEvent(cursor, what, job, at, state)
    else:
        updated: Document = (change.get("updateDescription") or {}).get("updatedFields") or {}
        yield from _of_update(updated, cursor, job, at)


def _of_update(updated: Document, cursor: str, job: str, at: int) -> Iterator[StoreEvent]:
    state = _state_of(updated.get("state"))
    if state is not None:
        told = updated.get("told")
        data = told[1] if isinstance(told, list) and len(told) > 1 else None
        yield StoreEvent(cursor, What.STATE, job, at, state, data)
    elif "lapsed" in updated:
        yield StoreEvent(cursor, What.TAKEN_OVER, job, at)
    elif "progress" in updated:
        progress = updated["progress"]
        small = isinstance(progress, bytes) and len(progress) <= EVENT_DATA
        yield StoreEvent(cursor, What.PROGRESS, job, at, None, progress if small else None)


def _state_of(text: Any) -> State | None:
    try:
        return None if text is None else state_of(text)
    except ValueError:  # it was set aside
        return None


def _time_of(change: Document) -> int:
    wall = change.get("wallTime")
    if wall is not None:
        return int(wall.replace(tzinfo=UTC).timestamp() * 1000)
    return int(change["clusterTime"].time) * 1000  # before MongoDB 6.0
