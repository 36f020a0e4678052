"""What computed a schedule's slots, so that another version that computes others is noticed."""

from __future__ import annotations

from hashlib import blake2b
from itertools import islice, takewhile

from msgspec.structs import replace

from taskmux.model.triggers import (
    DIALECT,
    AnyTrigger,
    BoundedTrigger,
    CronTrigger,
    Schedule,
    Stamp,
    Trigger,
)
from taskmux.policy.schedule.cron import engine
from taskmux.policy.schedule.slots import walk

__all__ = ["restamp", "stamp"]

SLOTS = 50
SPAN_MS = 5 * 366 * 86_400_000
"""What is due once a year is looked at for five years, not for fifty."""


def stamp(trigger: Trigger, since: int) -> Stamp | None:
    """Return a stamp for the slots that follow an instant; None: no engine has a part in them."""
    if not _has_cron(trigger):
        return None
    return Stamp(DIALECT, engine(), since, _digest(trigger, since))


def restamp(schedule: Schedule, now: int) -> tuple[Schedule, str | None]:
    """Return a schedule stamped by this version, and a warning if it is due at other times now."""
    old = schedule.stamp
    if old is None or (old.dialect, old.engine) == (DIALECT, engine()):
        return schedule, None
    warning = None
    if _digest(schedule.trigger, old.since) != old.digest:
        warning = (
            f"Schedule {schedule.id!r} is due at other times than before: {old.engine} (dialect "
            f"{old.dialect}) computed other slots than {engine()} (dialect {DIALECT}) does. Look "
            f"at its next slots, and put it again."
        )
    return replace(schedule, stamp=stamp(schedule.trigger, now)), warning


def _digest(trigger: Trigger, since: int) -> str:
    coming = takewhile(lambda slot: slot <= since + SPAN_MS, walk(trigger, since))
    text = ",".join(map(str, islice(coming, SLOTS)))
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _has_cron(trigger: Trigger) -> bool:
    match trigger:
        case CronTrigger():
            return True
        case AnyTrigger(triggers):
            return any(map(_has_cron, triggers))
        case BoundedTrigger(inner):
            return _has_cron(inner)
        case _:
            return False
