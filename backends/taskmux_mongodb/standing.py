"""Standing: what a waiting job stands behind."""

from __future__ import annotations

import asyncio

from taskmux.driver import Ref, Standing

from taskmux_mongodb.documents import LINED, Document, key_of
from taskmux_mongodb.gates import gate_key, gate_of
from taskmux_mongodb.store import Store
from taskmux_mongodb.upkeep import settings

__all__ = ["standing"]


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
