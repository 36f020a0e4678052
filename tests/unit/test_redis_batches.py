"""Batches that span queues."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from taskmux.model.errors import StoreUnavailable

from taskmux_redis.batches import BATCH, BATCH_BYTES, Part, by_queue


async def test_answers_come_in_the_order_of_the_items():
    calls: list[tuple[str, str, int]] = []

    async def send(queue: str, part: Part, items: Sequence[str]) -> list[str]:
        calls.append((queue, part.name, len(items)))
        await asyncio.sleep(0)
        return [item.upper() for item in items]

    items = [f"{'ab'[number % 2]}{number}" for number in range(2 * BATCH + 20)]
    answers = await by_queue(items, lambda item: item[0], send)
    assert answers == [item.upper() for item in items]
    parts = {("a", "", BATCH), ("a", f" {BATCH}", 10), ("b", "", BATCH), ("b", f" {BATCH}", 10)}
    assert set(calls) == parts


async def test_a_batch_is_bounded_by_bytes_too():
    calls: list[tuple[str, list[int]]] = []

    async def send(_queue: str, part: Part, sizes: Sequence[int]) -> list[int]:
        await asyncio.sleep(0)
        assert part.size == sum(sizes)
        calls.append((part.name, [*sizes]))
        return [*sizes]

    half, more = BATCH_BYTES // 2, BATCH_BYTES + 1
    sizes = [half, half, 1, more, more, 1, half, *[0] * BATCH]
    assert await by_queue(sizes, lambda _: "q", send, lambda size: size) == sizes
    assert calls == [
        ("", [half, half]),
        (" 2", [1]),
        (" 3", [more]),
        (" 4", [more]),
        (" 5", [1, half, *[0] * (BATCH - 2)]),
        (f" {BATCH + 5}", [0, 0]),
    ]


async def test_a_failure_of_one_queue_is_the_stores_own_error():
    """The core sends the whole again for it, which it would not do for a group of errors."""
    sent: list[str] = []

    async def send(queue: str, _part: Part, items: Sequence[str]) -> list[str]:
        await asyncio.sleep(0)
        if queue == "a":
            raise StoreUnavailable("gone")
        sent.append(queue)
        return [*items]

    with pytest.raises(StoreUnavailable, match="gone"):
        await by_queue(["a", "b", "c"], lambda item: item, send)
    assert sorted(sent) == ["b", "c"]
