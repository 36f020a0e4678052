"""Sleeping until work may be there.

Each queue has a marker: a sorted set that scripts give its one member when a job becomes waiting,
and that `claim.lua` sets again while it leaves work behind. A waiter blocks in BZPOPMIN on the
markers. A marker set before the wait began ends it at once, so no wake-up is lost between a claim
and a wait; one waiter wakes for a batch, and its claim wakes the next while there is work.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from taskmux.driver import StoreError, StoreUnavailable

from taskmux_redis.link import Link

__all__ = ["wait_for_work"]

_LONGEST_BLOCK: Final = 5.0
"""Seconds of one blocking command. A dead connection is noticed within this and the deadline."""
_SHORTEST_BLOCK: Final = 0.005  # 0 would block for ever, and so does 0.001 on Redis 6.2
_AFTER_FAULT: Final = 0.5
_NUDGE_AFTER: Final = 0.002
_NUDGED_WITHIN: Final = 0.1
"""Seconds for the reply to a nudge. Cancelled before it comes, it would cost a connection."""


async def wait_for_work(link: Link, groups: Sequence[Sequence[bytes]], seconds: float) -> bool:
    """Wait for a marker of any group; return whether there may be work.

    A group is one blocking command; in a cluster the keys of one must share a slot.
    """
    if len(groups) == 1:
        return await _wait(link, groups[0], seconds)
    tasks = [asyncio.create_task(_wait(link, markers, seconds)) for markers in groups]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return any(task.result() for task in done)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait(link: Link, markers: Sequence[bytes], seconds: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        left = deadline - loop.time()
        block = max(_SHORTEST_BLOCK, min(left, _LONGEST_BLOCK))
        try:
            if await _block(link, markers, round(block, 3)):
                return True
        except StoreUnavailable:
            # The marker may have gone with the reply, so say that there may be work; not at
            # once, or workers of a server that is down would spin.
            pause = random.uniform(0, min(max(left, 0), _AFTER_FAULT))  # noqa: S311 - jitter
            await asyncio.sleep(pause)
            return True
        if loop.time() >= deadline:
            return False


async def _block(link: Link, markers: Sequence[bytes], seconds: float) -> bool:
    """Block until a marker is set, or so many seconds; return whether one was.

    An idle server sees only ten times a second that a command has waited long enough, unless
    something else comes: so something else comes then.
    """
    nudges: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    later = loop.call_later(
        seconds + _NUDGE_AFTER, lambda: nudges.append(loop.create_task(_nudge(link, markers[0])))
    )
    try:
        return bool(await link.once("BZPOPMIN", *markers, seconds, wait=seconds))
    finally:
        later.cancel()
        if nudges:
            await asyncio.wait(nudges, timeout=_NUDGED_WITHIN)
            nudges[0].cancel()


async def _nudge(link: Link, marker: bytes) -> None:
    with suppress(StoreError):
        await link.once("EXISTS", marker)
