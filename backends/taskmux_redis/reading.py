"""Reading without changing: get, find, counts."""

from __future__ import annotations

from collections.abc import Sequence

from taskmux.driver import CorruptRecord, FindAsk, JobRecord, Page, Standing, State

from taskmux_redis.keys import QueueKeys
from taskmux_redis.link import Link
from taskmux_redis.records import STATE_LETTERS, read_job
from taskmux_redis.scripts import script

__all__ = ["INDEXES", "counts", "find", "get", "standing"]

_GET, _FIND, _COUNTS = script("get"), script("find"), script("counts")
_STANDING = script("standing")

INDEXES = {
    State.WAITING: "ready",
    State.DELAYED: "delayed",
    State.BLOCKED: "blocked",
    State.ACTIVE: "leases",
    State.COMPLETED: "completed",
    State.DEAD: "dead",
    State.CANCELLED: "cancelled",
    State.MOVED: "moved",
}
"""The sorted set that is the truth about who is in a state (in the order of `counts.lua`)."""


async def get(link: Link, keys: QueueKeys, ids: Sequence[str]) -> list[JobRecord | None]:
    """Return the records of ids.

    Raises:
        CorruptRecord: one of them cannot be read.
    """
    rows = await link.run(_GET, keys.of(_GET), *ids)
    return [None if row is None else read_job(keys.queue, row) for row in rows]


async def find(link: Link, keys: QueueKeys, ask: FindAsk) -> Page:
    """Return one page; unreadable records are left out."""
    score, _, member = (ask.cursor or "").partition(":")
    after_score, after_member, *rows = await link.run(
        _FIND,
        [keys[name] for name in ("base", "work", "live", INDEXES[ask.state], "grouped", "leases")],
        STATE_LETTERS[ask.state],
        int(ask.newest),
        score,
        member,
        ask.limit,
    )
    jobs = []
    for row in rows:
        try:
            job = None if row is None else read_job(keys.queue, row)
        except CorruptRecord:
            continue
        if job is not None and (ask.tag is None or ask.tag in job.tags):
            jobs.append(job)
    if after_score is None:
        return Page(jobs)
    return Page(jobs, f"{after_score.decode()}:{after_member.decode()}")


async def counts(link: Link, keys: QueueKeys) -> dict[State, int]:
    """Return the number of jobs in each state, at one instant."""
    sizes = await link.run(_COUNTS, keys.of(_COUNTS))
    return dict(zip(INDEXES, sizes, strict=True))


async def standing(link: Link, keys: QueueKeys, job_id: str) -> Standing | None:
    """Return what a waiting job stands behind; None if it is not waiting."""
    found = await link.run(_STANDING, keys.of(_STANDING), job_id)
    return None if found is None else Standing(*found)
