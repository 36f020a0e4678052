"""Slots of an interval: they are counted from its anchor, so that lateness never adds up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from taskmux.model.triggers import IntervalTrigger

__all__ = ["walk"]


def walk(trigger: IntervalTrigger, after: int) -> Iterator[int]:
    """Yield the slots after an instant, in order, in epoch milliseconds."""
    passed = (after - trigger.anchor) // trigger.every_ms
    return count(trigger.anchor + (passed + 1) * trigger.every_ms, trigger.every_ms)
