"""Whether a queue has moved to another store, asked as seldom as is safe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection

from taskmux_mongodb.clock import Clock

__all__ = ["Moves"]

Document = dict[str, Any]

_CACHED: Final = 1_000
"""Milliseconds for which a queue that has not moved is taken not to have moved."""


class Moves:
    """Which queues were seen not to have moved to another store, and when."""

    def __init__(self, queues: AsyncCollection[Document], clock: Clock) -> None:
        self._queues = queues
        self._clock = clock
        self._seen: dict[str, int] = {}

    def forget(self, queue: str) -> None:
        """Look again before the next push."""
        self._seen.pop(queue, None)

    async def check(self, queues: Iterable[str]) -> dict[str, str]:
        """Return where the moved ones of the queues are, read now."""
        names = list(queues)
        found = await self._queues.find({"_id": {"$in": names}}, {"moved_to": 1}).to_list(None)
        moved = {one["_id"]: one["moved_to"] for one in found if one.get("moved_to") is not None}
        now = self._clock.earliest()
        for name in names:
            if name in moved:
                self.forget(name)
            else:
                self._seen[name] = now
        return moved

    async def suspected(self, queues: Iterable[str]) -> dict[str, str]:
        """Return where the moved ones are; those that were checked just now are not read again."""
        since = self._clock.earliest() - _CACHED
        unsure = [name for name in queues if self._seen.get(name, 0) < since]
        return await self.check(unsure) if unsure else {}
