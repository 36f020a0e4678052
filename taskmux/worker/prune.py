"""Pruning: finished records go when their retention has passed, a bounded batch at a time."""

from __future__ import annotations

from taskmux.driver import Driver, PruneAsk

__all__ = ["Pruner"]

BATCH = 1000


class Pruner:
    """Prunes one store's queues."""

    def __init__(self, driver: Driver, queues: tuple[str, ...]) -> None:
        self._driver = driver
        self._queues = queues

    async def sweep(self) -> None:
        """Remove what is past its retention by now."""
        for queue in self._queues:
            while await self._driver.prune(PruneAsk(queue, limit=BATCH)) >= BATCH:
                pass
