"""Batches: what spans queues goes to each by itself, since a script works on one queue's keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeVar

__all__ = ["BATCH", "BATCH_BYTES", "by_queue"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")

BATCH: Final = 500
"""Items in one script call: a longer batch goes in several, so that none keeps the server long."""
BATCH_BYTES: Final = 1_048_576
"""Bytes in one script call, if it has more than one item: what a slow link loses and sends again
is at most this."""


def no_size(_: object) -> int:
    """Return the size of an item that is always small."""
    return 0


async def by_queue(
    items: Sequence[Item],
    queue_of: Callable[[Item], str],
    send: Callable[[str, str, list[Item]], Awaitable[list[Answer]]],
    size_of: Callable[[Item], int] = no_size,
) -> list[Answer]:
    """Send items to their queues in batches, and return the answers in the order of the items.

    Batches of one queue go one after the other, so that its order holds; queues go at once. The
    second argument of `send` names the batch within the operation, for its memory: where a batch
    begins depends on nothing but the items, so a repeat has the same batches.

    Raises:
        StoreError: what the first batch that failed raised, after all others ended. The whole can
            be sent again: those that went through answer as they did.
    """
    if len(items) == 1:
        return await send(queue_of(items[0]), "", [*items])
    places: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(queue_of(item), []).append(place)
    answered: dict[int, Answer] = {}

    async def send_all(queue: str, mine: list[int]) -> None:
        sizes = None if size_of is no_size else [size_of(items[place]) for place in mine]
        for first, last in _parts(len(mine), sizes):
            some = mine[first:last]
            part = f" {first}" if first else ""
            replies = await send(queue, part, [items[place] for place in some])
            answered.update(zip(some, replies, strict=True))

    if len(places) == 1:
        await send_all(*places.popitem())
    else:
        sent = (send_all(queue, mine) for queue, mine in places.items())
        ended = await asyncio.gather(*sent, return_exceptions=True)
        if error := next((one for one in ended if one is not None), None):
            raise error
    return [answered[place] for place in range(len(items))]


def _parts(count: int, sizes: Sequence[int] | None) -> Iterator[tuple[int, int]]:
    """Yield where each batch begins and ends."""
    if sizes is None or (count <= BATCH and sum(sizes) <= BATCH_BYTES):
        yield from ((first, min(first + BATCH, count)) for first in range(0, count, BATCH))
        return
    first, total = 0, 0
    for at, size in enumerate(sizes):
        if at > first and (at - first == BATCH or total + size > BATCH_BYTES):
            yield first, at
            first, total = at, 0
        total += size
    yield first, count
