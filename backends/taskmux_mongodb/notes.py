"""Notes: what a running job leaves on its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo import UpdateOne
from taskmux.driver import Applied, ApplyStatus, Note, Ref, State

from taskmux_mongodb.deadlines import weight
from taskmux_mongodb.records import LINED, Document, key_of, state_of, step_field
from taskmux_mongodb.store import Store, Write

__all__ = ["annotate", "lease_states", "running", "status_under"]


def running(ref: Ref, fence: int) -> Document:
    """Return the filter of a job that is active under a fence."""
    return {"_id": key_of(ref), "state": "active", "fence": fence}


async def annotate(store: Store, notes: Sequence[Note]) -> list[Applied]:
    """Write notes, then look which of them still counted; see `Driver.annotate`."""
    writes: list[Write] = []
    weights: list[int] = []
    for note in notes:
        active = running(note.ref, note.fence)
        fields: dict[str, Any] = {step_field(k): v for k, v in (note.steps or {}).items()}
        if note.progress is not None:
            fields["progress"] = note.progress
        if fields:
            written: Document = {"$set": fields}
            writes.append(UpdateOne(active, written))
            weights.append(weight(written))
        if note.log is not None:
            untaken = active | {f"logs.{note.log_index}": {"$exists": False}}
            writes.append(UpdateOne(untaken, {"$push": {"logs": note.log}}))
            weights.append(len(note.log))
    if writes:
        await store.write(writes, weights=weights)
    there = await lease_states(store, [note.ref for note in notes])
    return [status_under(there.get(key_of(note.ref)), note.fence) for note in notes]


def status_under(document: Document | None, fence: int) -> Applied:
    """Return whether a job is active under a fence: APPLIED, STALE or GONE."""
    if document is None:
        return Applied(ApplyStatus.GONE)
    state = state_of(document["state"])
    holds = state is State.ACTIVE and document.get("fence") == fence
    return Applied(ApplyStatus.APPLIED if holds else ApplyStatus.STALE, state)


async def lease_states(store: Store, refs: Sequence[Ref]) -> dict[str, Document]:
    """Return state, fence and cancel request of jobs, by `_id`."""
    states = [LINED, *(state.value for state in State)]
    wanted = {"_id": {"$in": [key_of(ref) for ref in refs]}, "state": {"$in": states}}
    shown = {"state": 1, "fence": 1, "cancel_requested": 1}
    found = await store.jobs.find(wanted, shown).to_list(None) if refs else []
    return {one["_id"]: one for one in found}
