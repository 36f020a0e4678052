"""The slots of any trigger, in order.

All of a trigger's slots follow from its data alone, so every worker computes the same ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice, takewhile

from msgspec.structs import replace

from taskmux.model.triggers import (
    AnyTrigger,
    BoundedTrigger,
    CronTrigger,
    InstantTrigger,
    IntervalTrigger,
    Trigger,
)
from taskmux.policy.schedule import cron, interval
from taskmux.policy.schedule.exclude import excluded_until, exclusions

__all__ = ["next_slot", "slots", "walk"]

PATIENCE = 150
"""Excluded weekdays in a row after which there will be no slot: where a trigger is due on Mondays
alone, say, and Mondays are excluded. An interval of a week and an hour leaves a Monday in 24."""


def next_slot(trigger: Trigger, after: int) -> int | None:
    """Return the first slot after an instant, in epoch milliseconds; None if there is none.

    Raises:
        DeclarationError: the trigger was not made by a builder, and says something impossible.
    """
    return next(walk(trigger, after), None)


def slots(trigger: Trigger, since: int, until: int, limit: int | None = None) -> list[int]:
    """Return the slots after `since`, up to and with `until`; the first `limit` of them.

    Raises:
        DeclarationError: as in `next_slot`.
    """
    return list(islice(takewhile(lambda slot: slot <= until, walk(trigger, since)), limit))


def walk(trigger: Trigger, after: int) -> Iterator[int]:
    """Yield the slots after an instant, in order; from the epoch on, up to the year 3000."""
    after = max(after, -1)
    match trigger:
        case CronTrigger():
            return cron.walk(trigger, after)
        case IntervalTrigger():
            return interval.walk(trigger, after)
        case InstantTrigger(at):
            return iter((at,) if at > after else ())
        case AnyTrigger(triggers):
            return _any(triggers, after)
        case BoundedTrigger(AnyTrigger(triggers)):  # where one gives up, the others go on
            return _any(tuple(replace(trigger, trigger=one) for one in triggers), after)
        case BoundedTrigger():
            return _bounded(trigger, after)


def _any(triggers: tuple[Trigger, ...], after: int) -> Iterator[int]:
    last = after
    for slot in heapq.merge(*(walk(one, after) for one in triggers)):
        if slot > last:  # not one that two of them have
            yield slot
            last = slot


def _bounded(trigger: BoundedTrigger, after: int) -> Iterator[int]:
    """Yield slots between start and end; what an exclusion covers is passed in one step."""
    patience = most = PATIENCE + exclusions(trigger.exclude)
    after = max(after, trigger.start - 1)
    found = walk(trigger.trigger, after)
    while patience:
        slot = next(found, None)
        if slot is None or (trigger.end is not None and slot > trigger.end):
            return
        until = None if trigger.exclude is None else excluded_until(trigger.exclude, slot)
        if until is None:
            yield slot
            patience = most
        else:
            patience -= 1
            found = walk(trigger.trigger, until - 1)
