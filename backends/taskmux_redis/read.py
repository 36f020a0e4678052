"""Reading without changing: get, find, counts, queues."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final

from taskmux.driver import ConfigError, CorruptRecord, FindAsk, JobRecord, Page, Ref, State

from taskmux_redis.batches import Part, by_queue
from taskmux_redis.failures import WrongType
from taskmux_redis.records import STATE_LETTERS, needles, read_job
from taskmux_redis.scripts import script
from taskmux_redis.store import Store

__all__ = ["counts", "find", "get", "queues"]

_GET, _FIND, _COUNTS = script("get"), script("find"), script("counts")

_ENDS: Final = 2048
"""How many ends of one millisecond keep their order (`apply.lua`)."""

_SCORE: Final = re.compile(r"-?\d{1,18}")

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


async def get(store: Store, refs: Sequence[Ref]) -> list[JobRecord | None]:
    """Return the records, None where there is none.

    Raises:
        CorruptRecord: one of them cannot be read.
    """

    async def send(queue: str, _: Part, some: Sequence[Ref]) -> list[JobRecord | None]:
        rows = await store.run(queue, _GET, *[ref.id for ref in some])
        return [None if row is None else read_job(queue, row) for row in rows]

    return await by_queue(refs, lambda ref: ref.queue, send)


async def find(store: Store, ask: FindAsk) -> Page:
    """Return one page; unreadable records are left out.

    Raises:
        ConfigError: the cursor is none.
    """
    score, member = "", ""
    if ask.cursor is not None:
        score, mark, member = ask.cursor.partition(":")
        if not (mark and member and _SCORE.fullmatch(score)):
            raise ConfigError(f"{ask.cursor!r} is no cursor. Take it from the page before.")
    elif ask.starts_at is not None:
        score, member = _edge(ask.state, ask.starts_at + ask.newest)
    now, after_score, after_member, *rows = await store.run(
        ask.queue,
        _FIND,
        INDEXES[ask.state],
        STATE_LETTERS[ask.state],
        int(ask.newest),
        score,
        member,
        ask.limit,
        ask.looks,
        *needles(ask),
    )
    jobs = []
    for row in rows:
        try:
            job = None if row is None else read_job(ask.queue, row)
        except CorruptRecord:
            continue
        if job is not None and ask.wants(job):
            jobs.append(job)
    if after_score is None:
        return Page(jobs, None, now)
    return Page(jobs, f"{after_score.decode()}:{after_member.decode()}", now)


def _edge(state: State, instant: int) -> tuple[str, str]:
    """Return the place before all jobs of an instant in the order of a state; see `find.lua`."""
    match state:
        case State.ACTIVE:
            return "0", f"{instant:013d}"
        case State.BLOCKED:
            return str(instant), ""
        case _:
            return str(instant * _ENDS), ""


async def counts(store: Store, queue: str) -> dict[State, int]:
    """Return the number of jobs in each state, at one instant."""
    return dict(zip(INDEXES, await store.run(queue, _COUNTS), strict=True))


async def queues(store: Store) -> list[str]:
    """Return the queues that hold a job or have settings, sorted.

    Raises:
        CorruptRecord: the list of queues is a key of another type.
    """
    key = store.key("queues")
    try:
        names = await store.connection.command("SMEMBERS", key)
    except WrongType as error:
        found = error
    else:
        listed = sorted(name.decode() for name in names)
        used = await asyncio.gather(*(_is_used(store, name) for name in listed))
        return [name for name, is_used in zip(listed, used, strict=True) if is_used]
    raise await store.named(found, [key])


async def _is_used(store: Store, queue: str) -> bool:
    keys = store.keys(queue)
    names = (*INDEXES.values(), "grouped", "settings")
    return bool(await store.connection.command("EXISTS", *(keys[name] for name in names)))
