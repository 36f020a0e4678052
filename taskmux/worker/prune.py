"""Pruning: finished records go when their retention has passed, a bounded batch at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from taskmux.driver import Driver, PruneAsk
from taskmux.worker.clock import monotonic
from taskmux.worker.damage import DAMAGED, Damage

__all__ = ["Pruner"]

BATCH: Final = 500

SOON: Final = 5.0
"""Seconds until the next sweep after one that removed something: there will be more."""


class Pruner:
    """Prunes one store's queues, whether or not jobs come or finish."""

    def __init__(self, driver: Driver, queues: tuple[str, ...]) -> None:
        self._driver = driver
        self._queues = queues
        self._damage = Damage("pruning")

    async def sweep(self) -> float | None:
        """Remove what is past its retention by now; return when to come again, if sooner.

        Queues take turns, a batch each. After a batch the store has as much time for others as the
        batch took, so a backlog of a million records is nobody's outage.
        """
        turns, found = deque(self._damage.usable(self._queues)), False
        while turns:
            queue, began = turns.popleft(), monotonic()
            try:
                gone = await self._driver.prune(PruneAsk(queue, limit=BATCH))
            except DAMAGED as error:
                self._damage.met(queue, error)
                continue
            self._damage.well(queue)
            if gone >= BATCH:
                turns.append(queue)
            if gone:
                found = True
                await asyncio.sleep(monotonic() - began)
        return SOON if found else None
