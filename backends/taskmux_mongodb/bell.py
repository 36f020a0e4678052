"""The bell: one small event for each batch of work, heard by every worker that listens.

Events go to a capped collection, and a tailable cursor waits for them on the server. They are
hints: one that is lost costs a poll's delay, never a job.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from pymongo import CursorType, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError
from taskmux.driver import StoreError

__all__ = ["RINGS_AGAIN", "Bell"]

Document = dict[str, Any]

RINGS_AGAIN: Final = 0.015
"""Seconds. After a slower insert those who heard the bell have looked in vain: it rings again."""

_AWAIT_MS: Final = 2_000
"""How long the server holds the cursor's reply back when there is nothing to tell."""

_RETRY_AFTER: Final = 0.5
_STEP_BACK: Final = 0.001
"""Seconds that the listener sleeps after an event, so that those it woke run before it goes on."""

_REST: Final = 0.002
"""Seconds between two events of one instance; what rings meanwhile goes into one event."""

_LAST_RING: Final = 1.0
"""Seconds that closing gives to an event under way."""

_CANCEL_AGAIN: Final = 0.1


async def _nothing() -> None:
    pass


class Bell:
    """Rings for queues, and counts what it heard.

    `mend`: makes the collection again; whoever makes the bell gives it. It is called when the
    cursor ends, for somebody may have dropped the collection.
    """

    def __init__(self, collection: AsyncCollection[Document]) -> None:
        self.collection = collection
        self.mend: Callable[[], Awaitable[object]] = _nothing
        self.listening = False
        self._heard: Counter[str] = Counter()
        self._heard_at: dict[str, float] = {}
        self._asked_at: dict[str, float] = {}
        self._seen: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._to_ring: set[str] = set()
        self._ringer: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None

    def ring(self, queues: Iterable[str]) -> None:
        """Tell every listener, soon and in the background; what comes meanwhile goes together."""
        self._to_ring.update(queues)
        if self._to_ring and self._ringer is None:
            self._ringer = asyncio.create_task(self._ring())

    async def _ring(self) -> None:
        try:
            while self._to_ring:
                event = {"queues": sorted(self._to_ring)}
                self._to_ring.clear()
                with suppress(PyMongoError):
                    await self.collection.insert_one(event)
                await asyncio.sleep(_REST)
        finally:
            self._ringer = None

    async def listen(self) -> None:
        """Hear everything from now on. Returns when the first try has come through, or failed."""
        if self._listener is None:
            ready = asyncio.Event()
            self._listener = asyncio.create_task(self._listen(ready))
            await ready.wait()

    async def _listen(self, ready: asyncio.Event) -> None:
        while True:
            try:
                await self._follow(ready)
            except PyMongoError:
                ready.set()
            finally:
                self.listening = False
            self._hear(())
            await asyncio.sleep(_RETRY_AFTER)
            with suppress(PyMongoError, StoreError):
                await self.mend()

    async def _follow(self, ready: asyncio.Event) -> None:
        if await self.collection.find_one() is None:  # a cursor on nothing is dead at once
            await self.collection.with_options(write_concern=WriteConcern(1)).insert_one(
                {"queues": []}
            )
        cursor = self.collection.find(cursor_type=CursorType.TAILABLE_AWAIT)
        cursor.max_await_time_ms(_AWAIT_MS)
        try:
            await cursor.next()
            self.listening = True
            self._heard_at[""] = time.monotonic()  # what rang before went unheard
            ready.set()
            stepped_back = 0.0
            while cursor.alive:
                async for event in cursor:
                    self._hear(event.get("queues", ()))
                    # To ask for the next event takes a while, too: who waits for this one first.
                    if time.monotonic() - stepped_back > 2 * _STEP_BACK:
                        await asyncio.sleep(_STEP_BACK)
                        stepped_back = time.monotonic()
        finally:
            await cursor.close()

    def _hear(self, queues: Sequence[str]) -> None:
        """Count an event; one without queues means that something may have been missed."""
        names = queues or ("",)
        self._heard.update(names)
        self._heard_at.update(dict.fromkeys(names, time.monotonic()))
        self._changed.set()

    def mark(self, queues: Iterable[str]) -> None:
        """Take everything heard so far for these queues as seen."""
        for queue in queues:
            self._seen[queue] = self._count(queue)

    def rang(self, queues: Iterable[str]) -> bool:
        """Return whether anything was heard for these queues since they were marked."""
        return any(self._count(queue) != self._seen.get(queue, 0) for queue in queues)

    def _count(self, queue: str) -> int:
        return self._heard[queue] + self._heard[""]

    def heard_at(self, queues: Iterable[str]) -> float:
        """Return when something was last heard for these queues, or could have been missed."""
        return max(self._heard_at.get(queue, 0.0) for queue in (*queues, ""))

    def ask(self, queues: Iterable[str]) -> None:
        """Note that the server is asked for these queues' jobs now."""
        self._asked_at.update(dict.fromkeys(queues, time.monotonic()))

    def asked_at(self, queues: Iterable[str]) -> float:
        """Return when the server was last asked for each of these queues' jobs."""
        return min((self._asked_at.get(queue, 0.0) for queue in queues), default=0.0)

    async def hear(self, queues: Sequence[str], seconds: float) -> bool:
        """Wait until something is heard for one of the queues, at most so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.rang(queues):
                    self._changed.clear()
                    await self._changed.wait()
        return self.rang(queues)

    async def close(self) -> None:
        """Let the last event go out, and stop listening."""
        if self._ringer is not None:
            await asyncio.wait([self._ringer], timeout=_LAST_RING)
        tasks = {one for one in (self._ringer, self._listener) if one is not None}
        while tasks:  # the client swallows a cancellation that comes just after an event
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=_CANCEL_AGAIN)
        self._listener = None
