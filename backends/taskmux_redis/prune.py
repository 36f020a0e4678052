"""Retention: finished jobs go when their time has passed."""

from __future__ import annotations

from taskmux.driver import PruneAsk

from taskmux_redis.scripts import script
from taskmux_redis.store import Store

__all__ = ["prune"]

_PRUNE = script("prune")


async def prune(store: Store, ask: PruneAsk) -> int:
    """Remove finished records past their retention; return how many went.

    Workers do this from time to time, so here the queue is listed again, too: a producer that
    died between its first job in an emptied store and listing the queue leaves that undone.
    """
    await store.list_queue(ask.queue)
    gone = int(await store.run(ask.queue, _PRUNE, ask.limit, ask.spare, ask.memory))
    if gone < ask.limit:
        await store.look_after(ask.queue)
    return gone
