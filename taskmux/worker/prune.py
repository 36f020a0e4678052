"""Pruning: finished records go when their retention has passed, a bounded batch at a time."""

from __future__ import annotations

from taskmux.driver import Driver, PruneAsk
from taskmux.worker.damage import DAMAGED, Damage

__all__ = ["Pruner"]

BATCH = 1000


class Pruner:
    """Prunes one store's queues."""

    def __init__(self, driver: Driver, queues: tuple[str, ...]) -> None:
        self._driver = driver
        self._queues = queues
        self._damage = Damage("pruning")

    async def sweep(self) -> None:
        """Remove what is past its retention by now."""
        for queue in self._damage.usable(self._queues):
            try:
                while await self._driver.prune(PruneAsk(queue, limit=BATCH)) >= BATCH:
                    pass
            except DAMAGED as error:
                self._damage.met(queue, error)
            else:
                self._damage.well(queue)
