"""Sizes: how many waiting jobs a group may have, counted before a push inserts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeGuard

from taskmux.driver import JobRecord, State

from taskmux_mongodb.documents import LINED, REMOVED, Document, key_of
from taskmux_mongodb.ring import Place
from taskmux_mongodb.rules import Rule

__all__ = ["over", "sizes_of"]


def sizes_of(rules: dict[str, Rule]) -> dict[str, int]:
    """Return the queues that limit the size of groups, and their limits."""
    sizes = {name: rule.settings.group_size for name, rule in rules.items()}
    return {name: size for name, size in sizes.items() if size is not None}


async def over(
    collection: Any, sizes: dict[str, int], jobs: Sequence[JobRecord], session: Any = None
) -> list[int]:
    """Return the places of those jobs for which their group has no room.

    Not of jobs whose id or deduplication key is taken: to them that is the answer.
    """
    asked = {
        at: (job.queue, job.group)
        for at, job in enumerate(jobs)
        if job.queue in sizes and is_group(job.group) and job.state is State.WAITING
    }
    waiting = Counter[Place]()
    for queue, line in set(asked.values()):
        lined: Document = {"queue": queue, "line": line, "state": LINED}
        count = collection.count_documents(lined, limit=max(1, sizes[queue]), session=session)
        waiting[queue, line] = await count
    known: set[Any] = set()
    refused = []
    for at, place in asked.items():
        job = jobs[at]
        names = {key_of(job.ref), (job.queue, job.dedup.key) if job.dedup else None} - {None}
        if waiting[place] < sizes[job.queue]:
            waiting[place] += 1
        elif not names & known and not await _taken(collection, job, session):
            refused.append(at)
            continue
        known |= names
    return refused


def is_group(line: str | None) -> TypeGuard[str]:
    """Say whether a line is a group: not the common one, nor a task's own."""
    return line is not None and not line.startswith("@")


async def _taken(collection: Any, job: JobRecord, session: Any) -> bool:
    same_id: Document = {"_id": key_of(job.ref), "state": {"$ne": REMOVED}}
    wanted = [same_id]
    if job.dedup is not None:
        wanted.append({"queue": job.queue, "dedup": job.dedup.key, "finished_at": None})
    found = [await collection.find_one(one, {"_id": 1}, session=session) for one in wanted]
    return any(one is not None for one in found)
