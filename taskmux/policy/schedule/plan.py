"""What to do about a schedule now: which jobs to make, and when to look again. Pure.

Every slot is decided once: `Progress.seen` only ever rises, so that a clock that goes back fires
nothing twice, and it rises to the last slot that was due, not to the clock, so that a clock that
was ahead for a while loses no slot that lies after it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice, takewhile
from typing import NamedTuple

from msgspec.structs import replace

from taskmux.model.triggers import Misfire, Plan, Schedule, SlotJob
from taskmux.policy.schedule.slots import walk

__all__ = ["advance", "plan", "preview", "slot_id"]

MOST_COUNTED = 10_000
"""Due slots that are counted one by one, which takes some 10 ms."""


class _Due(NamedTuple):
    """Slots that are due: how many, at least; and the latest, as many as may have jobs."""

    total: int
    latest: tuple[int, ...]


def plan(schedule: Schedule, now: int) -> Plan:
    """Return the jobs to make for slots that are due now, and the next slot to wait for.

    Args:
        schedule: as it is stored.
        now: epoch milliseconds by the store's clock.
    """
    seen, left = schedule.progress.seen, _left(schedule)
    if left == 0:
        return Plan((), None, 0, 0, seen)
    due = _due(schedule, now)
    if not due.total:
        return Plan((), next(_walk(schedule, seen), None), 0, 0, seen)
    in_time = sum(now - slot <= schedule.misfire.grace_ms for slot in due.latest)
    fired = _fired(schedule.misfire, due.latest, in_time, now)[:left]
    seen = due.latest[-1]
    return Plan(
        tuple(_job(schedule, slot) for slot in fired),
        None if len(fired) == left else next(_walk(schedule, seen), None),
        due.total - in_time,
        due.total - len(fired),
        seen,
    )


def advance(schedule: Schedule, done: Plan) -> Schedule:
    """Return the schedule as it is once a plan is carried out."""
    was = schedule.progress
    progress = replace(
        was,
        seen=done.seen,
        fired=was.fired + len(done.jobs),
        missed=was.missed + done.missed,
        skipped=was.skipped + done.skipped,
    )
    return replace(schedule, progress=progress)


def preview(schedule: Schedule, now: int, count: int) -> list[SlotJob]:
    """Return the next jobs that a schedule will have, if all goes well."""
    left = _left(schedule)
    coming = _walk(schedule, max(now, schedule.progress.seen))
    wanted = count if left is None else min(count, left)
    return [_job(schedule, slot) for slot in islice(coming, wanted)]


def slot_id(schedule: str, slot: int) -> str:
    """Return the id of a slot's job: the same whoever makes it."""
    return f"{schedule}@{slot}"


def _left(schedule: Schedule) -> int | None:
    """Return how many jobs a schedule may still have; None: there is no limit."""
    return None if schedule.limit is None else max(0, schedule.limit - schedule.progress.fired)


def _walk(schedule: Schedule, after: int) -> Iterator[int]:
    """Yield a schedule's slots, with the one that `immediately` adds."""
    first = schedule.progress.first
    slots = walk(schedule.trigger, after)
    if first is None or first <= after:
        return slots
    return heapq.merge((first,), (slot for slot in slots if slot > first))


def _due(schedule: Schedule, now: int) -> _Due:
    """Return the slots after `seen` up to now."""
    seen, cap = schedule.progress.seen, schedule.misfire.cap
    coming = takewhile(lambda slot: slot <= now, _walk(schedule, seen))
    count, latest = 0, deque[int](maxlen=cap)
    for slot in islice(coming, MOST_COUNTED):
        latest.append(slot)
        count += 1
    if count == MOST_COUNTED:  # a long downtime, and there may be millions more
        return _Due(count, _latest(schedule, now, cap))
    return _Due(count, tuple(latest))


def _latest(schedule: Schedule, now: int, cap: int) -> tuple[int, ...]:
    """Return the latest slots up to now, looked for in longer and longer spans before it."""
    span, seen = 60_000, schedule.progress.seen
    while True:
        since = max(seen, now - span)
        coming = takewhile(lambda slot: slot <= now, _walk(schedule, since))
        found = tuple(deque(coming, maxlen=cap))
        if len(found) == cap or since == seen:
            return found
        span *= 4


def _fired(misfire: Misfire, latest: tuple[int, ...], in_time: int, now: int) -> tuple[int, ...]:
    """Return the slots that have jobs, by the policy for those that are late."""
    fresh = latest[len(latest) - in_time :]
    if misfire.policy == "skip" or (misfire.policy == "once" and fresh):
        return fresh
    kept = tuple(slot for slot in latest if now - slot <= max(misfire.window_ms, misfire.grace_ms))
    return kept[-1:] if misfire.policy == "once" else kept


def _job(schedule: Schedule, slot: int) -> SlotJob:
    """Return a slot's job, due as much later as the slot itself says."""
    name = slot_id(schedule.id, slot)
    late = 0
    if schedule.jitter_ms:
        drawn = int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
        late = drawn % (schedule.jitter_ms + 1)
    return SlotJob(name, slot, slot + late)
