"""Wait: sleep until the bell rings, and look now and then in case it did not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from taskmux.driver import Blocker

from taskmux_mongodb import lines_ring
from taskmux_mongodb.bell import RINGS_AGAIN, Bell
from taskmux_mongodb.records import LINED, Document
from taskmux_mongodb.store import Store

__all__ = ["look", "wait"]

_DEAF: Final = (0.005, 0.25)
"""Seconds between looks while nobody can listen: the first, doubled each time up to the last."""

_EARLY: Final = (0.01, 2 * RINGS_AGAIN)
"""The bell rings beside the insert, so who hears it may look before the jobs are there. Seconds
after the bell by which they should be there: who last looked before that looks once more."""

_LISTENING: Final = 1.0
"""Seconds between looks while the bell is heard, for what rings no bell."""

_MOST: Final = 10
"""As many doublings as any pause needs to reach its longest."""


async def wait(
    bell: Bell, queues: Sequence[str], seconds: float, look: Callable[[], Awaitable[bool]]
) -> bool:
    """Sleep until work may be there; see `Driver.wait`."""
    await bell.listen()
    end = time.monotonic() + seconds
    looks = 0
    while True:
        left = end - time.monotonic()
        if bell.rang(queues):
            bell.mark(queues)
            return True
        if left <= 0:
            return False
        pause = _pause(bell, queues, looks)
        if await bell.hear(queues, min(left, pause)):
            continue
        looks = min(looks + 1, _MOST)
        if left <= pause:
            continue
        bell.ask(queues)
        if await _first(look(), bell.hear(queues, left - pause)):
            bell.mark(queues)
            return True


def _pause(bell: Bell, queues: Sequence[str], looks: int) -> float:
    """Return how long to listen before the next look."""
    if not bell.listening:
        first, last = _DEAF
        return min(first * 2.0**looks, last)
    heard, asked = bell.heard_at(queues), bell.asked_at(queues)
    for after in _EARLY:
        if asked < heard + after:
            return max(0.0, heard + after - time.monotonic())
    return _LISTENING


async def _first(look: Awaitable[bool], hear: Awaitable[bool]) -> bool:
    """Return what comes first: the bell may ring while the server is asked."""
    tasks = asyncio.ensure_future(look), asyncio.ensure_future(hear)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return any(task.result() for task in tasks if task.done())
    finally:
        for task in tasks:
            task.cancel()


async def look(store: Store, queues: Sequence[str], blocked: Mapping[str, Blocker | None]) -> bool:
    """Look for a job that could be claimed now.

    `blocked`: what the last claims of queues found. Where a limit kept them from giving, waiting
    jobs say nothing; whether there is room again does.
    """
    why = {queue: blocked.get(queue) for queue in queues}
    for queue in await _paused(store, [queue for queue in queues if why[queue] == "paused"]):
        del why[queue]
    free = [queue for queue in why if why[queue] in (None, "paused")]
    lined = [queue for queue in why if why[queue] == "lines"]
    due = {"state": "delayed", "rank": {"$lte": store.clock.earliest()}}
    asked = []
    if free or lined:
        waiting: Document = {"queue": {"$in": free}, "state": {"$in": [LINED, "waiting"]}}
        late: Document = {"queue": {"$in": [*free, *lined]}} | due
        asked.append(store.jobs.find_one({"$or": [waiting, late]}, {"_id": 1}))
    if lined:
        ready: Document = {"queue": {"$in": lined}, "parked": lines_ring.IN_RING}
        asked.append(store.ring.find_one(ready, {"_id": 1}))
    asked += [_has_room(store, queue) for queue in why if why[queue] == "concurrency"]
    return any(found is not None for found in await asyncio.gather(*asked))


async def _paused(store: Store, queues: Sequence[str]) -> set[str]:
    """Return those queues that are still paused."""
    if not queues:
        return set()
    found = store.queues.find({"_id": {"$in": list(queues)}, "paused": True}, {"_id": 1})
    return {one["_id"] for one in await found.to_list(None)}


async def _has_room(store: Store, queue: str) -> Document | None:
    """Return the gate of a queue that was full, if somebody has made room since."""
    return await store.gates.find_one({"_id": queue, "full": None}, {"_id": 1})
