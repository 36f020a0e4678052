"""Events: what scripts left in a queue's stream, read by XREAD; `lua/lib/tell.lua` writes it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec.structs import replace
from taskmux.driver import EventPage, State, StoreEvent, What

from taskmux_redis.failures import WrongType
from taskmux_redis.records import STATES
from taskmux_redis.store import Store

__all__ = ["events"]

_RECORDS: Final = 20
"""Records read at once; each has up to some hundred events."""
_LOOK: Final = 0.1
"""Seconds between two looks of who may not block."""
_SHORTEST_BLOCK_MS: Final = 5
_ADDED, _CHANGED = b"p", b"c"
_WHATS: Final = {
    b"s": What.STATE,
    b"r": What.TAKEN_OVER,
    b"v": What.PROGRESS,
    b"x": What.REMOVED,
    b"h": What.PAUSED,
    b"g": What.RESUMED,
}
_TIME: Final = 13  # digits
_APPLIED: Final = ord("A")
_REMOVED: Final = b"-"


class _Record(NamedTuple):
    """A record of the stream: the numbers of its first and last events, and its fields."""

    first: int
    last: int
    fields: Mapping[bytes, bytes]


async def events(
    store: Store, queue: str, after: str | None, limit: int, seconds: float
) -> EventPage:
    """Return events after a cursor, which is an event's number; see `Events.events`.

    Raises:
        CorruptRecord: the stream, or what goes with it, is a key of another type.
    """
    keys = [store.keys(queue)[name] for name in ("events", "numbers", "settings")]
    try:
        if after is None:
            last, kept = await _state(store, queue)
            return EventPage([], str(last), kept=kept)
        return await _after(store, queue, after, limit, seconds)
    except WrongType as error:
        found = error
    raise await store.named(found, keys, f" of queue {queue!r}")


async def _after(store: Store, queue: str, after: str, limit: int, seconds: float) -> EventPage:
    number = _number(after)
    if number is None:
        last, kept = await _state(store, queue)
        return EventPage([], str(last), gap=True, kept=kept)
    key = store.keys(queue)["events"]
    records = await _read(store, key, number, seconds)
    if not records:
        last, kept = await _state(store, queue)
        # A lower number: somebody emptied the store. A higher one without a record: it is trimmed.
        records = await _read(store, key, number, 0) if last > number else []
        if not records:
            return EventPage([], str(last), gap=after != "" and last != number, kept=kept)
    page = _page(list(map(_numbered, records)), number, limit)
    return page if after else replace(page, gap=False)


def _number(after: str) -> int | None:
    if after == "":
        return 0
    return int(after) if after.isdecimal() and len(after) < 20 else None  # noqa: PLR2004 - 64 bits


def _page(records: Sequence[_Record], number: int, limit: int) -> EventPage:
    """Return the events of records that come after a number."""
    gap = records[0].first > number + 1
    found: list[StoreEvent] = []
    end = number
    for record in records:
        found += (one for one in _events(record) if int(one.cursor) > number)
        end = record.last
        if len(found) >= limit:
            break
    if len(found) > limit:
        del found[limit:]
        end = int(found[-1].cursor)
    return EventPage(found, str(end), gap=gap)


async def _state(store: Store, queue: str) -> tuple[int, bool]:
    """Return the number of the last event, and whether the queue keeps events."""
    keys, command = store.keys(queue), store.connection.command
    last, kept = await asyncio.gather(
        command("GET", keys["numbers"]), command("HGET", keys["settings"], "events")
    )
    return int(last or 0), kept != b"0"


async def _read(store: Store, key: bytes, number: int, seconds: float) -> Sequence[Any]:
    """Return records after a number, waiting so long for the first."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        left = max(0.0, deadline - loop.time())
        may_block = left > 0 and store.followers > 0
        store.followers -= may_block
        try:
            block = min(left, store.longest_block) if may_block else 0.0
            waiting = ("BLOCK", max(_SHORTEST_BLOCK_MS, round(block * 1000))) if block else ()
            reply = await store.connection.once(
                "XREAD", "COUNT", _RECORDS, *waiting, "STREAMS", key, f"{number}-1", wait=block
            )
        finally:
            store.followers += may_block
        if reply or loop.time() >= deadline:
            return _records(reply)
        if not may_block:
            await asyncio.sleep(min(left, _LOOK))


def _records(reply: Any) -> Sequence[Any]:
    """Return the records of the one stream that was read, in whichever form the client has."""
    if not reply:
        return []
    if isinstance(reply, Mapping):
        ((records,),) = reply.values()
        return list(records)
    return list(reply[0][1])


def _numbered(entry: tuple[bytes, Mapping[bytes, bytes]]) -> _Record:
    """Return a record with its numbers: its id has the last one."""
    name, fields = entry
    last = int(name.partition(b"-")[0])
    return _Record(last - fields.get(b"i", b"").count(b"\0"), last, fields)


def _events(one: _Record) -> Iterator[StoreEvent]:
    """Yield the events of a record; of one that cannot be read, none."""
    first, record = one.first, one.fields
    try:
        ids, head = record[b"i"].decode().split("\0"), record[b"h"]
        at, kind, letters = int(head[:_TIME]), head[_TIME : _TIME + 1], head[_TIME + 1 :]
        marks = _marks(kind, letters, len(ids))
        for place, (job, mark) in enumerate(zip(ids, marks, strict=True)):
            if mark is not None:
                what, state = mark
                data = record.get(b"%d" % (place + 1))
                yield StoreEvent(str(first + place), what, job, at, state, data)
    except (ValueError, LookupError):
        return


def _marks(kind: bytes, letters: bytes, count: int) -> Sequence[tuple[What, State | None] | None]:
    """Return what happened to each job; None: nothing."""
    if kind == _ADDED:
        states = (STATES.get(bytes([letter])) for letter in letters)
        return [None if state is None else (What.ADDED, state) for state in states]
    if kind == _CHANGED:
        pairs = (letters[at : at + 2] for at in range(0, len(letters), 2))
        return [_change(pair[1:]) if pair[0] == _APPLIED else None for pair in pairs]
    return [(_WHATS[kind], STATES[letters] if letters else None)] * count


def _change(letter: bytes) -> tuple[What, State | None]:
    return (What.REMOVED, None) if letter == _REMOVED else (What.STATE, STATES[letter])
