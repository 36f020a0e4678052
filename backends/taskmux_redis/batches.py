"""Batches: what spans queues goes to each by itself, since a script works on one queue's keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

__all__ = ["BATCH", "BATCH_BYTES", "Part", "by_queue"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")

BATCH: Final = 500
"""Items in one script call: a longer batch goes in several, so that none keeps the server long."""
BATCH_BYTES: Final = 1_048_576
"""Bytes in one script call, if it has more than one item: what a slow link loses and sends again
is at most this."""


class Part(NamedTuple):
    """One batch of an operation: a name for its memory, and about how many bytes it carries."""

    name: str
    size: int


Send = Callable[[str, Part, Sequence[Item]], Awaitable[list[Answer]]]


def no_size(_: object) -> int:
    """Return the size of an item that is always small."""
    return 0


async def by_queue(
    items: Sequence[Item],
    queue_of: Callable[[Item], str],
    send: Send[Item, Answer],
    size_of: Callable[[Item], int] = no_size,
) -> list[Answer]:
    """Send items to their queues in batches, and return the answers in the order of the items.

    Batches of one queue go one after the other, so that its order holds; queues go at once. Where
    a batch begins depends on nothing but the items, so a repeat has the same batches.

    Raises:
        StoreError: what the first batch that failed raised, after all others ended. The whole can
            be sent again: those that went through answer as they did.
    """
    queues = set(map(queue_of, items))
    if len(queues) == 1:
        return await _one_queue(queues.pop(), items, send, size_of)
    places: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(queue_of(item), []).append(place)
    sent = (
        _one_queue(queue, [items[place] for place in mine], send, size_of)
        for queue, mine in places.items()
    )
    ended = await asyncio.gather(*sent, return_exceptions=True)
    answered: dict[int, Answer] = {}
    for mine, answers in zip(places.values(), ended, strict=True):
        if isinstance(answers, BaseException):
            raise answers
        answered.update(zip(mine, answers, strict=True))
    return [answered[place] for place in range(len(items))]


async def _one_queue(
    queue: str,
    items: Sequence[Item],
    send: Send[Item, Answer],
    size_of: Callable[[Item], int],
) -> list[Answer]:
    sizes = None if size_of is no_size else list(map(size_of, items))
    total = sum(sizes) if sizes else 0
    if len(items) <= BATCH and total <= BATCH_BYTES:
        return await send(queue, Part("", total), items)
    answers: list[Answer] = []
    for first, last in _parts(len(items), sizes):
        part = Part(f" {first}" if first else "", sum(sizes[first:last]) if sizes else 0)
        answers += await send(queue, part, items[first:last])
    return answers


def _parts(count: int, sizes: Sequence[int] | None) -> Iterator[tuple[int, int]]:
    """Yield where each batch begins and ends."""
    if sizes is None:
        yield from ((first, min(first + BATCH, count)) for first in range(0, count, BATCH))
        return
    first, total = 0, 0
    for at, size in enumerate(sizes):
        if at > first and (at - first == BATCH or total + size > BATCH_BYTES):
            yield first, at
            first, total = at, 0
        total += size
    yield first, count
