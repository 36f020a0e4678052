"""Wait: sleep until the bell rings, and look now and then in case it did not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from taskmux.driver import Blocker

from taskmux_mongodb import ring
from taskmux_mongodb.bell import Bell
from taskmux_mongodb.documents import LINED, Document
from taskmux_mongodb.store import Store

__all__ = ["look", "wait"]

_DEAF: Final = (0.005, 0.25)
"""Seconds between looks while nobody can listen: the first, doubled each time up to the last."""

_LISTENING: Final = (0.008, 1.0)
"""Seconds between looks while the bell is heard. It may have rung a little before the jobs were
there, and pushes inside a transaction do not ring it."""

_MOST: Final = 10
"""Doublings that reach any of the longest."""


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
        first, last = _LISTENING if bell.listening else _DEAF
        pause = min(first * 2**looks, last)
        if await bell.hear(queues, min(left, pause)):
            continue
        looks = min(looks + 1, _MOST)
        if left > pause and await _first(look(), bell.hear(queues, left - pause)):
            bell.mark(queues)
            return True


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
    paused = await store.queues.find(
        {"_id": {"$in": list(queues)}, "paused": True}, {"_id": 1}
    ).to_list(None)
    held = {one["_id"] for one in paused}
    names = [queue for queue in queues if queue not in held]
    why = {queue: blocked.get(queue) for queue in names}
    free = {"$in": [queue for queue in names if why[queue] in (None, "paused")]}
    lined = {"$in": [queue for queue in names if why[queue] == "lines"]}
    now = store.clock.earliest()
    waiting = {"queue": free, "state": {"$in": [LINED, "waiting"]}}
    due = {"queue": {"$in": [*free["$in"], *lined["$in"]]}, "state": "delayed"}
    asked = [store.jobs.find_one(waiting, {"_id": 1})]
    asked.append(store.jobs.find_one(due | {"rank": {"$lte": now}}, {"_id": 1}))
    if lined["$in"]:
        asked.append(store.ring.find_one({"queue": lined, "parked": ring.IN_RING}, {"_id": 1}))
    asked += [_has_room(store, queue) for queue in names if why[queue] == "concurrency"]
    return any(found is not None for found in await asyncio.gather(*asked))


async def _has_room(store: Store, queue: str) -> Document | None:
    """Return the gate of a queue that was full, if somebody has made room since."""
    return await store.gates.find_one({"_id": queue, "full": None}, {"_id": 1})
