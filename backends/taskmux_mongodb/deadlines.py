"""Deadlines: batches are bounded by their bytes, and a large command has more time.

A client's `socketTimeoutMS` holds for a whole command. Over a slow link a large one would never
arrive within it, and be sent again for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import pymongo

__all__ = ["allowance", "parts", "weight"]

_PART: Final = 4_000_000
"""Bytes of one command, if it has more than one job."""

_LARGE: Final = 500_000
"""Bytes up to which a command has the usual time."""

_SLOWEST: Final = 50_000
"""Bytes a second that a link carries at least."""


def weight(update: dict[str, Any]) -> int:
    """Return about how many bytes of text and data an update writes."""
    written = (*update.get("$set", {}).values(), *update.get("$push", {}).values())
    return sum(len(value) for value in written if isinstance(value, (bytes, str)))


def parts(weights: Sequence[int]) -> Iterator[slice]:
    """Split a batch, so that no part weighs too much, unless it is a single heavy job."""
    start = total = 0
    for at, one in enumerate(weights):
        if at > start and total + one > _PART:
            yield slice(start, at)
            start, total = at, 0
        total += one
    if start < len(weights):
        yield slice(start, len(weights))


def allowance(patience: float | None, size: int) -> AbstractContextManager[Any]:
    """Give the client's commands within a block the time that so many bytes need.

    Args:
        patience: seconds that a small command has; None: leave it to the client.
        size: bytes to be sent.
    """
    if patience is None or size <= _LARGE:
        return nullcontext()
    return pymongo.timeout(patience + size / _SLOWEST)
