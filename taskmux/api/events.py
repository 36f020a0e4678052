"""Events as users see them: what happened in a queue, one by one, from any process."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self, cast

import msgspec

from taskmux.api.connection import Connection
from taskmux.api.following import Follower
from taskmux.api.handle import Connect
from taskmux.driver import Events, StoreEvent, What, require
from taskmux.model.errors import DeclarationError, StoreUnavailable, UnsupportedFeature
from taskmux.model.job import State
from taskmux.model.units import brief, check_queue

__all__ = ["KINDS", "Event", "EventStream", "Kind"]

Kind = Literal[
    "added",
    "waiting",
    "active",
    "progress",
    "delayed",
    "blocked",
    "completed",
    "failed",
    "dead",
    "cancelled",
    "moved",
    "stalled",
    "removed",
    "paused",
    "resumed",
    "gap",
]
"""`docs/events.md` says when each comes."""

KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]  # typing has no public way

PAGE = 500
NEW_QUEUES = 2.0
"""Seconds between two looks for queues that are new."""

OLDEST_NEWS = 5_000
"""Milliseconds: how old events of a new queue may be, by this machine's clock."""

LOOK = 0.25
"""Seconds between two looks at a queue that no reader follows, or whose store is away."""

LOOK_BESIDES = 5.0
"""Seconds between two looks at queues whose readers tell when to look."""

_WHATS: dict[What, Kind] = {
    What.ADDED: "added",
    What.TAKEN_OVER: "stalled",
    What.PROGRESS: "progress",
    What.REMOVED: "removed",
    What.PAUSED: "paused",
    What.RESUMED: "resumed",
}


class Event(msgspec.Struct, frozen=True):
    """Something that happened in a queue.

    Attributes:
        kind: what, such as `completed` or `paused`.
        queue: the queue.
        id: the job's id; empty for what happened to the queue.
        at: when, in epoch milliseconds by the store's clock.
        cursor: `mux.events(queue=event.queue, after=event.cursor)` goes on behind it.
        data: plain JSON values: the progress of `progress`; of others a dictionary, mostly empty,
            with `state` (of `added`), `reason`, `error` or `attempt`.
    """

    kind: Kind
    queue: str
    id: str
    at: int
    cursor: str
    data: Any = None


class EventStream:
    """The events of one queue, or of all, as they happen: `async for event in mux.events(): ...`.

    It begins at the first step, or where `async with mux.events() as events:` is entered. It goes
    on after an outage of the store, and ends when its app is closed.

    Args:
        connect: returns the connection that serves a queue.
        queues: returns the names of all queues.
        queue: the queue; None: every queue of the app's stores, new ones too.
        after: an event's cursor: go on behind it. If events between are lost, the first one is of
            the kind `gap`.

    Raises:
        InvalidName: the queue's name cannot be stored everywhere.
        DeclarationError: a cursor without a queue, or one that is no text.
    """

    def __init__(
        self,
        connect: Connect,
        queues: Callable[[], Awaitable[list[str]]],
        queue: str | None,
        after: str | None,
    ) -> None:
        if after is not None and not isinstance(after, str):
            raise DeclarationError(f"after {brief(after)} is no cursor. Give an event's `cursor`.")
        if queue is None and after is not None:
            raise DeclarationError("A cursor is of one queue: give queue= with after=.")
        self._connect = connect
        self._queues = queues
        self._queue = None if queue is None else check_queue(queue)
        self._after = after
        self._followed: dict[str, _Followed] = {}
        self._ready: deque[Event] = deque()
        self._news = asyncio.Event()
        self._began = False
        self._ended = False
        self._looked_at = 0.0

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event.

        Raises:
            UnsupportedFeature: the store has no events, or the queue keeps none.
            StoreError: the store could not be reached at the beginning, or refused.
        """
        if not self._began:
            await self._begin()
        while not self._ready:
            if self._ended:
                raise StopAsyncIteration
            await self._look()
        return self._ready.popleft()

    async def __aenter__(self) -> Self:
        """Begin now: what happens from here on is seen."""
        await self._begin()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """End it."""
        await self.aclose()

    async def aclose(self) -> None:
        """End it; whoever waits for the next event is told so."""
        self._ended = True
        self._news.set()
        for followed in self._followed.values():
            followed.leave()

    async def _begin(self) -> None:
        self._began = True
        if self._queue is not None:
            await self._add(self._queue, self._after)
        else:
            await self._add("default", None)  # if the store has no events, it says so now
            await self._add_new(is_first=True)

    async def _add(self, queue: str, after: str | None) -> None:
        connection = await self._connect(queue)
        followed = _Followed(connection, queue, after, self._hear)
        try:
            self._ready += await followed.read()
        except BaseException:
            followed.leave()
            raise
        self._followed[queue] = followed

    async def _add_new(self, *, is_first: bool = False) -> None:
        """Follow queues that are new since the last look, from their first event on."""
        now = asyncio.get_running_loop().time()
        if self._queue is not None or (not is_first and now < self._looked_at + NEW_QUEUES):
            return
        self._looked_at = now
        for name in await self._queues():
            if name not in self._followed:
                await self._add(name, None if is_first else "")

    def _hear(self, _event: StoreEvent | None) -> None:
        self._news.set()

    async def _look(self) -> None:
        """Read what there is; if that is nothing, wait until there may be something."""
        self._news.clear()
        with suppress(StoreUnavailable):
            await self._add_new()
        for followed in self._followed.values():
            self._ready += await followed.read()
        if any(followed.closed for followed in self._followed.values()):
            await self.aclose()
        if self._ready or self._ended:
            return
        told = all(followed.is_told for followed in self._followed.values())
        pause = LOOK_BESIDES if told and self._followed else LOOK
        pause = pause if self._queue is not None else min(pause, NEW_QUEUES)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._news.wait()


class _Followed:
    """One queue of a stream: where it is, and what wakes it."""

    def __init__(
        self, connection: Connection, queue: str, after: str | None, hear: Follower
    ) -> None:
        require(connection.driver, "events", feature="Following events")
        self._connection = connection
        self._driver = cast("Events", connection.driver)
        self._queue = queue
        self._cursor = after
        self._hear = hear
        self._reader = connection.following.follow(queue, hear)
        self._is_away = False
        self._begins = True
        # A queue that is new, or has jobs again after a while: what was before is no news.
        self._since = time.time_ns() // 1_000_000 - OLDEST_NEWS if after == "" else 0

    @property
    def closed(self) -> bool:
        """Whether its connection is closed."""
        return self._connection.following.closed

    @property
    def is_told(self) -> bool:
        """Whether it is told when there is something to read."""
        return self._reader is not None and self._reader.live and not self._is_away

    def leave(self) -> None:
        """Hear no more."""
        if self._reader is not None:
            self._reader.remove(None, self._hear)

    async def read(self) -> list[Event]:
        """Return the events that there are after the last one; none while the store is away.

        Raises:
            StoreUnavailable: it is away at the beginning.
            UnsupportedFeature: the store has no events, or the queue keeps none.
        """
        if self.closed:
            return []
        begins, self._begins = self._begins, False
        try:
            page = await self._driver.events(self._queue, self._cursor, PAGE, 0)
        except StoreUnavailable:
            if begins:
                raise
            self._is_away = True
            return []
        self._is_away = False
        if not page.kept:
            raise UnsupportedFeature(
                f"Queue {self._queue!r} keeps no events. Let it: "
                f"await mux.queue({self._queue!r}).keep_events(10_000)."
            )
        before, self._cursor = self._cursor, page.cursor
        events = [_event(self._queue, one) for one in page.events if one.at >= self._since]
        if not page.gap:
            return events
        at, cursor = (events[0].at, before or "") if events else (0, page.cursor)
        return [Event("gap", self._queue, "", at, cursor, {}), *events]


def _event(queue: str, told: StoreEvent) -> Event:
    data = _decoded(told)
    return Event(_kind(told, data), queue, told.id, told.at, told.cursor, data)


def _kind(told: StoreEvent, data: Any) -> Kind:
    if told.what is not What.STATE:
        return _WHATS[told.what]
    if (
        told.state in (State.DELAYED, State.WAITING)
        and isinstance(data, dict)
        and "attempt" in data
    ):
        return "failed"
    return cast("Kind", str(told.state))


def _decoded(told: StoreEvent) -> Any:
    try:
        value = None if told.data is None else msgspec.json.decode(told.data)
    except (ValueError, RecursionError):
        value = None
    if told.what is What.PROGRESS:
        return value
    said = value if isinstance(value, dict) else {}
    return said | {"state": str(told.state)} if told.what is What.ADDED else said
