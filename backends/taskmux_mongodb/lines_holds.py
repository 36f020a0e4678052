"""Holds and room: what a transition does to its queue and line, beside what it does to its job."""

from __future__ import annotations

from collections.abc import Sequence

from taskmux.driver import QueueSettings, State, Transition

from taskmux_mongodb import lines_ring
from taskmux_mongodb.lines_gates import expiry, gate_key
from taskmux_mongodb.records import Document, key_of
from taskmux_mongodb.store import Store

__all__ = ["close", "end_holds", "forget_open", "made_room"]


async def close(store: Store, transitions: Sequence[Transition]) -> set[str]:
    """Close the gates that transitions ask for, before the jobs move.

    A transition that is refused holds nothing: its job is looked at first. Claims of this
    instance wait for that, for a worker asks for its next job while this one is being settled.
    Returned are the queues that other instances may still take to be free of all restrictions.
    """
    news = set()
    for one in transitions:
        if one.hold and one.guard.fence is not None:
            async with store.turns[one.ref.queue]:
                if await _close(store, one):
                    news.add(one.ref.queue)
    return news


async def _close(store: Store, one: Transition) -> bool:
    """Close a gate; return whether others may take the queue to be free of all restrictions."""
    queue = one.ref.queue
    running = {"_id": key_of(one.ref), "state": "active", "fence": one.guard.fence}
    job = await store.jobs.find_one(running, {"line": 1})
    if job is None:
        return False
    line: str | None = job.get("line")
    known = await store.restrictions.of([queue])
    until = store.clock.latest() + one.hold
    closed = {"$max": {"held_until": until, "expire_at": expiry(until)}}
    key = gate_key(queue, line) if one.hold_line else queue
    await store.gates.update_one({"_id": key}, closed, upsert=True)
    store.restrictions.forget(queue)
    return queue not in known and not (one.hold_line and line is not None)


async def end_holds(store: Store, queue: str) -> None:
    """Let everything of a queue go that is held."""
    lines = {"$gte": f"{queue}/", "$lt": f"{queue}0"}  # "0" comes after "/"
    for gates in (queue, lines):
        held = {"_id": gates, "held_until": {"$gt": 0}}
        await store.gates.update_many(held, {"$set": {"held_until": 0}})


async def forget_open(store: Store, queue: str) -> None:
    """Forget the gates of groups that keep nothing back: a later, slower rate begins anew.

    Those of rates that are full again, and of holds that are over.
    """
    lines = {"$gte": f"{queue}/=", "$lt": f"{queue}0"}  # the common line's has its turn, too
    await store.gates.delete_many(
        {"_id": lines, "expire_at": {"$lte": expiry(store.clock.earliest())}}
    )


async def made_room(store: Store, transitions: Sequence[Transition]) -> set[str]:
    """Let full queues and lines give again where jobs have stopped; return the queues."""
    stopped = [
        one for one in transitions
        if one.guard.fence is not None and one.to not in (None, State.ACTIVE)
    ]  # fmt: skip
    known = await store.restrictions.of({one.ref.queue for one in stopped})
    limits = {name: rule.settings for name, rule in known.items()}
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
            if await lines_ring.readmit(store, keys):
                room.add(queue)
    return room


def _lines_fill(settings: QueueSettings) -> bool:
    lines = (settings.groups, *settings.lines.values())
    return any(line.concurrency is not None for line in lines)


async def _was_full(store: Store, queue: str) -> bool:
    full: Document = {"_id": queue, "full": True}
    written = await store.hasty_gates.update_one(full, {"$unset": {"full": ""}})
    return bool(written.matched_count)
