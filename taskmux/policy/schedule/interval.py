"""Slots of an interval: they are counted from its anchor, so that lateness never adds up."""

from __future__ import annotations

from collections.abc import Iterator

from taskmux.model.triggers import IntervalTrigger
from taskmux.policy.schedule.dst import END

__all__ = ["walk"]


def walk(trigger: IntervalTrigger, after: int) -> Iterator[int]:
    """Yield the slots after an instant, in order, in epoch milliseconds."""
    passed = (after - trigger.anchor) // trigger.every_ms
    return iter(range(trigger.anchor + (passed + 1) * trigger.every_ms, END, trigger.every_ms))
