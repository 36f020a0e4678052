"""Batches: what spans queues goes to each by itself, since a script works on one queue's keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

__all__ = ["BATCH", "by_queue"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")

BATCH: Final = 500
"""Items in one script call: a longer batch goes in several, so that none keeps the server long."""


async def by_queue(
    items: Sequence[Item],
    queue_of: Callable[[Item], str],
    send: Callable[[str, str, list[Item]], Awaitable[list[Answer]]],
) -> list[Answer]:
    """Send items to their queues in batches, and return the answers in the order of the items.

    Batches of one queue go one after the other, so that its order holds; queues go at once. The
    second argument of `send` names the batch within the operation, for its memory.

    Raises:
        StoreError: what the first batch that failed raised, after all others ended. The whole can
            be sent again: those that went through answer as they did.
    """
    places: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(queue_of(item), []).append(place)
    answered: dict[int, Answer] = {}

    async def send_all(queue: str, mine: list[int]) -> None:
        for at in range(0, len(mine), BATCH):
            some = mine[at : at + BATCH]
            replies = await send(queue, f" {at}" if at else "", [items[place] for place in some])
            answered.update(zip(some, replies, strict=True))

    if len(places) == 1:
        await send_all(*places.popitem())
    else:
        sent = (send_all(queue, mine) for queue, mine in places.items())
        ended = await asyncio.gather(*sent, return_exceptions=True)
        if error := next((one for one in ended if one is not None), None):
            raise error
    return [answered[place] for place in range(len(items))]
