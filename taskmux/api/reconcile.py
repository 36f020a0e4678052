"""What replies mean after a refused batch, whose refused try may have stored some of its items.

Sent again under another op, such an item meets itself: a new job finds its own id taken, and a
transition finds a job that it has moved on already. Their owners are told what happened to the
item, not what the second try met.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from taskmux.driver import Applied, ApplyStatus, Driver, NewJob, Pushed, PushStatus
from taskmux.model.errors import CorruptRecord
from taskmux.model.job import JobRecord, Ref, State
from taskmux.model.transition import Transition

__all__ = ["applied_before", "pushed_before", "read_each"]

RECENT_MS = 60_000
"""How old a job may be to count as one that the refused try stored, whose clocks may differ."""

Read = JobRecord | BaseException | None


async def read_each(driver: Driver, refs: Sequence[Ref]) -> Sequence[Read]:
    """Return the records; one that is damaged is an error in its own place."""
    try:
        return await driver.get(refs)
    except CorruptRecord as error:  # one bad record must not spoil its neighbours' reads
        if len(refs) == 1:
            return [error]
        return [(await read_each(driver, [ref]))[0] for ref in refs]


async def pushed_before(
    driver: Driver, news: Sequence[NewJob], replies: Sequence[Pushed | BaseException]
) -> Sequence[Pushed | BaseException]:
    """Return the replies; a job that met its own record counts as created.

    It is known by its contents and its age. One with a given id that another producer stored in
    the same minute with the same contents cannot be told from it.
    """
    told = list(replies)
    doubtful = [at for at, reply in enumerate(replies) if _is(reply, PushStatus.DUPLICATE)]
    for at, stored in await _stored(driver, {at: news[at].job.ref for at in doubtful}):
        if _is_same_job(stored, news[at].job):
            told[at] = Pushed(PushStatus.CREATED, stored.id)
    return told


async def applied_before(
    driver: Driver, transitions: Sequence[Transition], replies: Sequence[Applied | BaseException]
) -> Sequence[Applied | BaseException]:
    """Return the replies; a transition that found its own work done counts as applied."""
    told = list(replies)
    stale = {
        at: transitions[at].ref for at, reply in enumerate(replies) if _is(reply, ApplyStatus.STALE)
    }
    for at, stored in await _stored(driver, stale):
        if _is_done(stored, transitions[at]):
            told[at] = Applied(ApplyStatus.APPLIED, stored.state)
    for at, reply in enumerate(replies):
        if transitions[at].remove and _is(reply, ApplyStatus.GONE):
            told[at] = Applied(ApplyStatus.APPLIED)
    return told


def _is(reply: Pushed | Applied | BaseException, status: PushStatus | ApplyStatus) -> bool:
    return not isinstance(reply, BaseException) and reply.status is status


async def _stored(driver: Driver, refs: Mapping[int, Ref]) -> list[tuple[int, JobRecord]]:
    """Return the records that can be read, with the places of their items."""
    records = await read_each(driver, list(refs.values())) if refs else []
    pairs = zip(refs, records, strict=True)
    return [(at, job) for at, job in pairs if isinstance(job, JobRecord)]


def _is_same_job(stored: JobRecord, new: JobRecord) -> bool:
    recent = stored.created_at > time.time_ns() // 1_000_000 - RECENT_MS
    return recent and all(getattr(stored, name) == getattr(new, name) for name in _CONTENTS)


_CONTENTS = ("task", "payload", "headers", "policy", "group", "tags", "dedup", "parent", "schedule")
"""Fields that nothing changes after a job was created."""


def _is_done(stored: JobRecord, one: Transition) -> bool:
    if one.guard.fence is None:
        return stored.state is one.to
    # Who held this fence has ended its run: anybody else would have raised it.
    return stored.fence == one.guard.fence and stored.state is not State.ACTIVE
