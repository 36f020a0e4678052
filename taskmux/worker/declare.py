"""Declared limits: a starting worker stores what its tasks say of their own lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from taskmux.capabilities import require
from taskmux.connection import change_settings
from taskmux.messages import LineSettings, QueueSettings
from taskmux.task import Registry
from taskmux.worker.options import Link

__all__ = ["declare"]


async def declare(registry: Registry, links: Sequence[Link]) -> None:
    """Store the declared limits of the tasks whose queues are served.

    What was changed by hand stays until the declaration itself changes.

    Raises:
        UnsupportedFeature: a task declares limits, and its store has no lines.
        StoreError: the store refused or could not be reached.
    """
    for link in links:
        for queue, lines in registry.limits(link.queues).items():
            require(link.driver, "lines", feature=f"A task of queue {queue!r} with limits")
            await change_settings(link.driver, queue, partial(_with, lines))


def _with(lines: Mapping[str, LineSettings], settings: QueueSettings) -> QueueSettings:
    changed = {
        name: replace(said, paused=name in settings.lines and settings.lines[name].paused)
        for name, said in lines.items()
        if name not in settings.lines or settings.lines[name].declared != said.declared
    }
    return replace(settings, lines={**settings.lines, **changed}) if changed else settings
