"""What a `Move` writes into a job's document. What it decides is `taskmux.driver.judge`'s."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from msgspec.structs import replace
from taskmux.driver import JobRecord, Keep, Move, Place, State, Transition

from taskmux_mongodb.records import (
    OPS_KEPT,
    REMOVED,
    Document,
    encode_field,
    owned_key,
    stored_state,
)
from taskmux_mongodb.store import Store

__all__ = ["MEMORY_MS", "owner", "tombstone", "update"]

MEMORY_MS: Final = 600_000
"""How long a finished or removed job's document stays at least: it remembers operations."""

_LAST_MS: Final = 253_370_764_800_000
"""The year 9999: no date lies after it."""

_KEPT_BY: Final = ("expires", "expire_at", "keep_count")
"""The fields that say when a finished job goes."""


def update(
    store: Store,
    one: Transition,
    move: Move,
    job: JobRecord,
    mark: str,
    *,
    unwaited: bool = False,
    before: Document | None = None,
) -> Document:
    """Return the update that brings a job to where a move takes it.

    Args:
        store: gives instants and numbers.
        one: the transition, for its retention.
        move: what was decided of it.
        job: the outline of the job before.
        mark: the operation, for the document to remember.
        unwaited: the job has not been waiting yet, so it has no place to keep (A5).
        before: the document, where it was read.
    """
    if unwaited and move.place is Place.KEEP:
        move = replace(move, place=Place.BACK)
    values: dict[str, Any] = dict(move.fields)
    given: Document = {
        "rev": store.numbers.next(),
        "state": stored_state(move.state, job.group),
    }
    dropped: Document = dict.fromkeys(("claim", "lapsed") if move.left_active else (), "")
    if one.tells is not None:
        given["told"] = [given["rev"], one.tells]  # the number makes it a change that is seen
    if move.delay is not None:
        values["run_at"] = store.clock.latest() + move.delay
    if move.ended:
        values["finished_at"] = now = store.clock.earliest()
        given |= _kept(now, one.retention, _owned_until(before))
    if move.ended or move.revived:
        dropped |= {name: "" for name in _KEPT_BY if name not in given}
    _change_keys(store, move, before, given, dropped)
    if unwaited and move.place is not None:
        dropped["unwaited"] = ""
    given |= _place(store, one, move, job, values)
    for name, value in values.items():
        stored = encode_field(name, value)
        if stored is None:
            dropped[name] = ""
        else:
            given[name] = stored
    written: Document = {"$set": given, "$push": {"ops": {"$each": [mark], "$slice": -OPS_KEPT}}}
    if dropped:
        written["$unset"] = dropped
    return written


def _place(
    store: Store, one: Transition, move: Move, job: JobRecord, values: dict[str, Any]
) -> Document:
    """Return where the job stands among those of its queue and state, where that changes."""
    state = move.state
    place: Document = {}
    if move.ended:
        place["rank"] = values["finished_at"]
    elif state is State.DELAYED and one.to is State.DELAYED:
        place["rank"] = values["run_at"]
    elif state is State.BLOCKED and one.to is State.BLOCKED:
        place["rank"] = job.created_at
    elif state in {State.WAITING, State.ACTIVE}:
        if "priority" in values:
            place["rank"] = values["priority"]
        elif job.state not in {State.WAITING, State.ACTIVE}:
            place["rank"] = job.priority
    if move.place in {Place.BACK, Place.FRONT}:
        seq = store.numbers.next()
        place["seq"] = -seq if move.place is Place.FRONT else seq
    return place


def _owned_until(before: Document | None) -> int:
    until: int = 0 if before is None else before.get("until", 0)
    return until


def _change_keys(
    store: Store, move: Move, before: Document | None, given: Document, dropped: Document
) -> None:
    """Add what becomes of the keys that a job owns or follows."""
    if move.ended and _owned_until(before) <= store.clock.earliest():
        dropped |= {"owns": "", "until": ""}
    if before is None:
        return
    if "follows" in before and move.state is not State.BLOCKED:
        dropped["follows"] = ""
    if move.revived and "dedup" in before and "owns" not in before:
        given["owns"] = owned_key(before["queue"], before["dedup"])
        if "ttl" in before:
            given |= {"until": store.clock.latest() + before["ttl"], "heed": True}


def _kept(finished_at: int, keep: Keep, until: int) -> Document:
    """Return when a finished document may go, and when the server removes it by itself.

    One that owns its key for a time stays until then.
    """
    fields: Document = {"expires": finished_at + keep.age_ms}
    if keep.count is not None:
        fields["keep_count"] = keep.count
    last = max(finished_at + max(keep.age_ms, MEMORY_MS), until)
    if last < _LAST_MS:
        fields["expire_at"] = datetime.fromtimestamp(last / 1000, UTC)
    return fields


def tombstone(store: Store, before: Document, *marks: str) -> Document:
    """Return what stays of a removed job: it has no queue, and nothing of it but its memory.

    That is the operations that made and moved it, those that removed it (`marks`), and its fence:
    a job of the same id starts above it (P1).
    """
    now = store.clock.earliest()
    return {
        "_id": before["_id"],
        "state": REMOVED,
        "rev": store.numbers.next(),
        "fence": before["fence"],
        "born": before.get("born"),
        "ops": [*before.get("ops", ()), *marks][-OPS_KEPT:],
        "finished_at": now,
        "expire_at": datetime.fromtimestamp((now + MEMORY_MS) / 1000, UTC),
    }


def owner(before: Document, now: int) -> Document:
    """Return what a tombstone keeps of a document that owns its key for a time."""
    if "owns" not in before or "until" not in before:
        return {}
    last = min(max(before["until"], now + MEMORY_MS), _LAST_MS)
    expire_at = datetime.fromtimestamp(last / 1000, UTC)
    return {"owns": before["owns"], "until": before["until"], "expire_at": expire_at}
