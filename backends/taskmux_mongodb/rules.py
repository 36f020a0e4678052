"""What a queue's settings forbid, read seldom and yet in force when `put_settings` returns.

A queue that was read to be neither paused nor moved is taken to be so for a moment, without
being read for each push and claim. Whoever restricts a queue waits that moment out before
answering. So from then on every instance reads the new settings first; and a push whose insert
took longer than the moment reads once more, and takes its jobs back if the queue has moved.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection

__all__ = ["Rules"]

Document = dict[str, Any]

_MOMENT: Final = 0.4
"""Seconds for which a queue without restrictions is taken to have none."""

_WAITED_OUT: Final = 1.25 * _MOMENT


class Rules:
    """The restrictions of queues, as one instance knows them.

    Args:
        queues: the collection of settings.
    """

    def __init__(self, queues: AsyncCollection[Document]) -> None:
        self._queues = queues
        self._free_at: dict[str, float] = {}

    async def restrictions(self, queues: Iterable[str]) -> dict[str, Document]:
        """Return the settings of those queues that are paused or moved."""
        doubtful = self.doubtful(queues)
        return await self.read(doubtful) if doubtful else {}

    def doubtful(self, queues: Iterable[str]) -> list[str]:
        """Return the queues that were not read to be free within the last moment."""
        since = time.monotonic() - _MOMENT
        return [name for name in queues if self._free_at.get(name, since) <= since]

    async def read(self, queues: list[str]) -> dict[str, Document]:
        """Return the settings of those queues that are paused or moved, read now."""
        now = time.monotonic()
        shown = {"paused": 1, "moved_to": 1}
        found = await self._queues.find({"_id": {"$in": queues}}, shown).to_list(None)
        held = {
            one["_id"]: one for one in found if one.get("paused") or one.get("moved_to") is not None
        }
        self._free_at.update((name, now) for name in queues if name not in held)
        for name in held:
            self._free_at.pop(name, None)
        return held

    async def in_force(self, queue: str) -> None:
        """Return when no instance goes by what it knew of the queue before."""
        self._free_at.pop(queue, None)
        await asyncio.sleep(_WAITED_OUT)
