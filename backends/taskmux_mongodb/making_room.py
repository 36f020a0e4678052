"""What a transition does beside its job: holds, and room where claims found none."""

from __future__ import annotations

from collections.abc import Sequence

from taskmux.driver import QueueSettings, State, Transition

from taskmux_mongodb import ring
from taskmux_mongodb.documents import Document, key_of
from taskmux_mongodb.gates import expiry, gate_key
from taskmux_mongodb.store import Store

__all__ = ["hold", "made_room"]


async def hold(store: Store, transitions: Sequence[Transition]) -> None:
    """Close the gates that transitions ask for, before the jobs move.

    A transition that is refused holds nothing: its job is looked at first.
    """
    holds = [one for one in transitions if one.hold and one.guard.fence is not None]
    if not holds:
        return
    keys = [key_of(one.ref) for one in holds]
    active: Document = {"_id": {"$in": keys}, "state": "active"}
    found = await store.jobs.find(active, {"fence": 1, "line": 1}).to_list(None)
    there = {one["_id"]: one for one in found}
    for one in holds:
        document = there.get(key_of(one.ref))
        if document is not None and document["fence"] == one.guard.fence:
            await _hold(store, one, document.get("line"))


async def _hold(store: Store, one: Transition, line: str | None) -> None:
    queue = one.ref.queue
    until = store.clock.latest() + one.hold
    key = gate_key(queue, line) if one.hold_line else queue
    known = await store.rules.restrictions([queue])
    held = {"$max": {"held_until": until, "expire_at": expiry(until)}}
    await store.gates.update_one({"_id": key}, held, upsert=True)
    if queue not in known and (line is None or not one.hold_line):
        await store.rules.in_force(queue)


async def made_room(store: Store, transitions: Sequence[Transition]) -> set[str]:
    """Let full queues and lines give again whose jobs have stopped; return their queues."""
    stopped = [
        one for one in transitions
        if one.guard.fence is not None and one.to not in (None, State.ACTIVE)
    ]  # fmt: skip
    rules = await store.rules.restrictions({one.ref.queue for one in stopped})
    limits = {name: rule.settings for name, rule in rules.items()}
    full = {name for name, one in limits.items() if one.concurrency is not None}
    room = {name for name in full if await _was_full(store, name)}
    lined = [
        key_of(one.ref) for one in stopped
        if one.ref.queue in limits and _lines_fill(limits[one.ref.queue])
    ]  # fmt: skip
    if lined:
        has_line: Document = {"_id": {"$in": lined}, "line": {"$exists": True}}
        found = await store.jobs.find(has_line, {"queue": 1, "line": 1}).to_list(None)
        lines = {(one["queue"], one["line"]) for one in found}
        for queue in {queue for queue, _ in lines}:
            keys = [gate_key(*place) for place in lines if place[0] == queue]
            if await ring.readmit(store, keys):
                room.add(queue)
    return room


def _lines_fill(settings: QueueSettings) -> bool:
    lines = (settings.groups, *settings.lines.values())
    return any(line.concurrency is not None for line in lines)


async def _was_full(store: Store, queue: str) -> bool:
    full: Document = {"_id": queue, "full": True}
    written = await store.hasty_gates.update_one(full, {"$unset": {"full": ""}})
    return bool(written.matched_count)
