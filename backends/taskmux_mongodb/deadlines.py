"""Deadlines: batches are bounded by their bytes, and a large command has more time.

A client's `socketTimeoutMS` holds for a whole command. Over a slow link a large one would never
arrive within it, and be sent again for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import pymongo

__all__ = ["allowance", "longer", "parts", "weight"]

_PART: Final = 4_000_000
"""Bytes of one command, if it has more than one job."""

_LARGE: Final = 500_000
"""Bytes up to which a command has the usual time."""

_SLOWEST: Final = 50_000
"""Bytes a second that a link carries at least."""

_LONGER: Final = 4
"""How many times as long a reply may take when the one before took too long."""


def weight(update: dict[str, Any]) -> int:
    """Return about how many bytes of text and data an update writes."""
    written = (*update.get("$set", {}).values(), *update.get("$push", {}).values())
    return sum(len(value) for value in written if isinstance(value, (bytes, str)))


def parts(weights: Sequence[int]) -> Iterator[slice]:
    """Split a batch, so that no part weighs too much, unless it is a single heavy job."""
    if sum(weights) <= _PART:  # nearly always
        if weights:
            yield slice(0, len(weights))
        return
    start = total = 0
    for at, one in enumerate(weights):
        if at > start and total + one > _PART:
            yield slice(start, at)
            start, total = at, 0
        total += one
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


def longer(patience: float | None, late: int) -> AbstractContextManager[Any]:
    """Give reads within a block more time: nobody knows how large a reply is before it is there.

    Each may take four times as long as the one before. A server that is gone is noticed all the
    same: the client asks it every few seconds, and cuts what waits for it.

    Args:
        patience: seconds that a reply may take at first; None: leave it to the client.
        late: how many replies have taken too long.
    """
    if patience is None or not late:
        return nullcontext()
    return pymongo.timeout(patience * _LONGER**late)
