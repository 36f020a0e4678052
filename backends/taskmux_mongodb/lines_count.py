"""Counts of lines: what a waiting job stands behind, and whether a group has room for more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeGuard

from taskmux.driver import JobRecord, Ref, Standing, State

from taskmux_mongodb.lines_gates import gate_key, gate_of
from taskmux_mongodb.lines_ring import Place
from taskmux_mongodb.records import LINED, REMOVED, Document, key_of, owned_key
from taskmux_mongodb.restrictions import Restriction
from taskmux_mongodb.settings import settings
from taskmux_mongodb.store import Store

__all__ = ["over", "sizes_of", "standing"]


def sizes_of(restricted: dict[str, Restriction]) -> dict[str, int]:
    """Return the queues that limit the size of groups, and their limits."""
    sizes = {name: restriction.settings.group_size for name, restriction in restricted.items()}
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
        wanted.append({"owns": owned_key(job.queue, job.dedup.key)})
    found = [await collection.find_one(one, {"_id": 1}, session=session) for one in wanted]
    return any(one is not None for one in found)


async def standing(store: Store, ref: Ref) -> Standing | None:
    """Return what a waiting job stands behind, counted in the indexes; see `Lines.standing`."""
    waits = {"_id": key_of(ref), "state": {"$in": [LINED, "waiting"]}}
    job = await store.jobs.find_one(waits, {"line": 1, "state": 1, "rank": 1, "seq": 1})
    if job is None:
        return None
    name: str | None = job.get("line")
    line: Document = {"queue": ref.queue, "line": name}
    waiting = line | {"state": job["state"]}
    if name is None:
        del waiting["line"]
    rank, seq = job["rank"], job["seq"]
    ahead = [waiting | {"rank": {"$lt": rank}}, waiting | {"rank": rank, "seq": {"$lt": seq}}]
    active = {"queue": ref.queue, "state": "active"}
    queries = [*ahead, waiting, line | active, active]
    common = {"queue": ref.queue, "state": "waiting"}
    own, gates, lines, first = await asyncio.gather(
        settings(store, ref.queue),
        store.gates.find({"_id": {"$in": [ref.queue, gate_key(ref.queue, name)]}}).to_list(None),
        store.ring.count_documents({"queue": ref.queue}),
        store.jobs.find_one(common, {"_id": 1}),
    )
    before, beside, line_waiting, line_active, all_active = await asyncio.gather(
        *(store.jobs.count_documents(query) for query in queries)
    )
    gate = {one["_id"]: gate_of(one) for one in gates}
    now = store.clock.earliest()
    queue_gate, line_gate = (gate.get(key) for key in (ref.queue, gate_key(ref.queue, name)))
    return Standing(
        ahead=before + beside,
        line_waiting=line_waiting,
        line_active=line_active,
        active=all_active,
        lines=lines + (first is not None),
        opens_in=queue_gate.opens_in(own.rate, now) if queue_gate else 0,
        line_opens_in=line_gate.opens_in(own.line(name).rate, now) if line_gate else 0,
    )
