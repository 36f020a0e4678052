"""Sleeping until work may be there.

Each queue has a marker: a sorted set that scripts give members when jobs become waiting, and that
`claim.lua` sets again while it leaves work behind. A waiter blocks in BZPOPMIN on the markers. A
marker set before the wait began ends it at once, so no wake-up is lost between a claim and a wait;
a few waiters wake for a batch, and their claims wake the next while there is work.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from taskmux.driver import StoreError, StoreUnavailable

from taskmux_redis.failures import WrongType
from taskmux_redis.store import Store

__all__ = ["wait_for_work"]

_SHORTEST_BLOCK: Final = 0.005  # 0 would block for ever, and so does 0.001 on Redis 6.2
_AFTER_FAILURE: Final = 0.5
_NUDGE_AFTER: Final = 0.002
_NUDGED_WITHIN: Final = 0.1
"""Seconds for the reply to a nudge. Cancelled before it comes, it would cost a connection."""


async def wait_for_work(store: Store, queues: Sequence[str], seconds: float) -> bool:
    """Wait for a marker of any queue; return whether there may be work.

    A queue whose marker is a key of another type is left out, so that the others go on.

    Raises:
        CorruptRecord: no queue is left.
    """
    markers = [store.keys(queue)["marker"] for queue in queues]
    try:
        return await _wait_for_any(store, markers, seconds)
    except WrongType as error:
        found = error
    wrong = await asyncio.gather(*(store.wrong_type(marker) for marker in markers))
    sound = [marker for marker, kind in zip(markers, wrong, strict=True) if kind is None]
    if not sound:
        raise await store.named(found, markers, f" of queue {queues[0]!r}")
    return await _wait_for_any(store, sound, seconds)


async def _wait_for_any(store: Store, markers: Sequence[bytes], seconds: float) -> bool:
    """Wait in one blocking command; in a cluster in one for each key, since slots differ."""
    if not store.is_cluster or len(markers) == 1:
        return await _wait(store, markers, seconds)
    tasks = [asyncio.create_task(_wait(store, [marker], seconds)) for marker in markers]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return any(task.result() for task in done)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait(store: Store, markers: Sequence[bytes], seconds: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        left = deadline - loop.time()
        block = max(_SHORTEST_BLOCK, min(left, store.longest_block))
        try:
            if await _block(store, markers, round(block, 3)):
                return True
        except StoreUnavailable:
            # The marker may have gone with the reply, so say that there may be work; not at
            # once, or workers of a server that is down would spin.
            pause = random.uniform(0, min(max(left, 0), _AFTER_FAILURE))  # noqa: S311 - jitter
            await asyncio.sleep(pause)
            return True
        if loop.time() >= deadline:
            return False


async def _block(store: Store, markers: Sequence[bytes], seconds: float) -> bool:
    """Block until a marker is set, or so many seconds; return whether one was.

    An idle server looks only ten times a second whether a blocked command has waited long enough,
    but also whenever another command comes. So one is sent when the time is over: a nudge.
    """
    nudges: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    later = loop.call_later(
        seconds + _NUDGE_AFTER, lambda: nudges.append(loop.create_task(_nudge(store, markers[0])))
    )
    try:
        return bool(await store.connection.once("BZPOPMIN", *markers, seconds, wait=seconds))
    finally:
        later.cancel()
        if nudges:
            await asyncio.wait(nudges, timeout=_NUDGED_WITHIN)
            nudges[0].cancel()


async def _nudge(store: Store, marker: bytes) -> None:
    with suppress(StoreError):
        await store.connection.once("EXISTS", marker)
