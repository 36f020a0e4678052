"""Wait: sleep until the bell rings, and look now and then in case it did not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from taskmux_mongodb.bell import Bell
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


async def look(store: Store, queues: Sequence[str]) -> bool:
    """Look for a job that could be claimed now."""
    paused = await store.queues.find(
        {"_id": {"$in": list(queues)}, "paused": True}, {"_id": 1}
    ).to_list(None)
    held = {one["_id"] for one in paused}
    names = {"$in": [queue for queue in queues if queue not in held]}
    now = store.clock.earliest()
    waiting, due = await asyncio.gather(
        store.jobs.find_one({"queue": names, "state": "waiting"}, {"_id": 1}),
        store.jobs.find_one(
            {"queue": names, "state": "delayed", "rank": {"$lte": now}}, {"_id": 1}
        ),
    )
    return waiting is not None or due is not None
