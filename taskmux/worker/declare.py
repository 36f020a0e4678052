"""Declared limits: a starting worker stores what its tasks say of their own lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from taskmux.api.connection import change_settings
from taskmux.api.task import Registry
from taskmux.driver import Lines, require
from taskmux.model.queue import LineSettings, QueueSettings
from taskmux.policy.lines import declare
from taskmux.worker.damage import DAMAGED, Damage
from taskmux.worker.station import Station

__all__ = ["store_declared"]


async def store_declared(registry: Registry, stations: Sequence[Station]) -> None:
    """Store what the tasks of the served queues declare of their own lines.

    What was changed by hand stays until the declaration itself changes; a task that declares
    nothing any more has no line any more. A damaged queue is told of and passed over.

    Raises:
        UnsupportedFeature: a task declares limits, and its store has no lines.
        StoreError: the store refused or could not be reached.
    """
    damage = Damage("storing what its tasks declare")
    for station in stations:
        for queue in station.queues:
            lines = registry.lines(queue)
            if any(lines.values()):
                require(station.driver, "lines", feature=f"A task of queue {queue!r} with limits")
            if isinstance(station.driver, Lines):
                try:
                    await change_settings(station.driver, queue, partial(_declared, lines))
                except DAMAGED as error:
                    damage.met(queue, error)


def _declared(lines: Mapping[str, LineSettings | None], settings: QueueSettings) -> QueueSettings:
    for line, task in lines.items():
        settings = declare(settings, line, task)
    return settings
