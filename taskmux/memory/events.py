"""Events: each queue's newest, numbered; whoever follows sleeps until there is one."""

from __future__ import annotations

import asyncio
from itertools import islice

from taskmux.driver import EventPage, StoreEvent
from taskmux.memory.store import MemoryStore, QueueStore

__all__ = ["Followed"]


class Followed:
    """How a stream is followed."""

    store: MemoryStore

    async def events(
        self,
        queue: str,
        after: str | None,
        limit: int,
        timeout: float,  # noqa: ASYNC109 - the interface's
    ) -> EventPage:
        """See `Events.events`."""
        follower = (asyncio.get_running_loop(), asyncio.Event())
        with self.store.lock:
            found = self.store.queue(queue)
            page = self._page(found, after, limit)
            if page.events or page.gap or after is None:
                return page
            found.followers.add(follower)
        try:
            async with asyncio.timeout(timeout):
                await follower[1].wait()
        except TimeoutError:
            return page
        finally:
            with self.store.lock:
                found.followers.discard(follower)
        with self.store.lock:
            return self._page(found, after, limit)

    def _page(self, queue: QueueStore, after: str | None, limit: int) -> EventPage:
        kept, last = queue.settings.events > 0, queue.told
        if after is None:
            return EventPage([], str(last), kept=kept)
        oldest = last - len(queue.events)
        number = int(after) if after.isdecimal() else oldest if after == "" else last + 1
        gap = number < oldest or number > last
        if number > last:
            return EventPage([], str(last), gap=True, kept=kept)
        events = self._after(queue, max(number, oldest), limit)
        return EventPage(events, events[-1].cursor if events else str(last), gap, kept)

    def _after(self, queue: QueueStore, number: int, limit: int) -> list[StoreEvent]:
        first = number - (queue.told - len(queue.events))
        return list(islice(queue.events, first, first + limit))
