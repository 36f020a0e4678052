"""What a claim writes of the lines it looked at, and what it tells if it gives nothing."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

import msgspec
from pymongo import ASCENDING, DeleteOne, UpdateOne
from taskmux.driver import Blocker, JobRecord, QueueSettings, gcra

from taskmux_mongodb import lines_ring
from taskmux_mongodb.lines_gates import Gate, expiry, gate_key, spending
from taskmux_mongodb.records import LINED, Document
from taskmux_mongodb.restrictions import Restriction
from taskmux_mongodb.store import Store, Write

__all__ = ["MERGED", "Line", "active_in", "freed", "kept", "write_back"]

MERGED: Final = 100
"""How many lines one query reads in order: the server merges no more than 200 without a sort."""

_RECHECKED: Final = 10
"""How many full lines a claim that finds nothing looks at again: a lease may have been deleted."""


class Line(msgspec.Struct, eq=False):
    """A line as one claim sees it; `jobs` are those read and not taken yet."""

    name: str | None
    turn: int
    v: int = 0
    back: bool = False
    """It was parked, and may give again."""
    gate: Gate = Gate()
    room: int = gcra.OPEN
    parked: int | str | None = None
    jobs: deque[Document] = msgspec.field(default_factory=deque)
    taken: int = 0
    more: bool = True
    """Whether it may have more jobs than were read."""
    gave_at: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing waits in it that was not taken."""
        return not self.jobs and not self.more


async def write_back(
    store: Store,
    queue: str,
    restriction: Restriction,
    lines: Sequence[Line],
    ours: Sequence[JobRecord],
) -> None:
    """Write the ring and the gates after a claim leased these jobs."""
    await _find_more(store, queue, lines)
    writes: list[Write] = []
    for line in sorted(lines, key=lambda line: (line.gave_at, line.back)):
        where: Document = {"_id": gate_key(queue, line.name)}
        turn = {"turn": store.numbers.next()}
        if line.name is None:
            continue
        if line.parked is not None:
            writes.append(UpdateOne(where, {"$set": turn | {"parked": line.parked}}))
        elif line.ended:
            writes.append(DeleteOne(where | {"v": line.v}))
        elif line.taken or line.back:
            writes.append(UpdateOne(where, {"$set": turn | {"parked": lines_ring.IN_RING}}))
    if writes:
        await store.write(writes, to=store.hasty_ring)
    await asyncio.gather(
        _write_gates(store, queue, restriction.settings, lines, ours),
        _look_again(store, queue, restriction.settings, lines),
    )


async def _find_more(store: Store, queue: str, lines: Sequence[Line]) -> None:
    """Learn which lines have more jobs, of those that gave all that was read of them.

    One walk through a little of their index; a line that it does not reach counts as having more,
    until a claim finds that it has not.
    """
    doubtful = {line.name: line for line in lines if line.name and line.taken and not line.jobs}
    doubtful = {name: line for name, line in doubtful.items() if line.more}
    names = list(doubtful)
    parts = [names[at : at + MERGED] for at in range(0, len(names), MERGED)]
    for part, ended in zip(
        parts, await asyncio.gather(*(_ended(store, queue, part) for part in parts)), strict=True
    ):
        for name in part:
            doubtful[name].more = name not in ended


async def _ended(store: Store, queue: str, names: Sequence[str]) -> set[str]:
    """Return which of the lines are known to have no more jobs."""
    limit = 4 * len(names)
    waiting = {"queue": queue, "line": {"$in": list(names)}, "state": LINED}
    found = store.jobs.find(waiting, {"line": 1, "_id": 0})
    found = found.sort([("rank", ASCENDING), ("seq", ASCENDING)]).limit(limit)
    there = [one["line"] for one in await found.to_list(None)]
    return set(names) - set(there) if len(there) < limit else set()


async def _write_gates(
    store: Store,
    queue: str,
    settings: QueueSettings,
    lines: Sequence[Line],
    ours: Sequence[JobRecord],
) -> None:
    given = Counter(job.group for job in ours)
    now = store.clock.earliest()
    writes: list[Write] = []
    for line in lines:
        count, rate = given[line.name], settings.line(line.name).rate
        where = {"_id": gate_key(queue, line.name)}
        if count and line.name is None:
            turn = {"$set": {"turn": store.numbers.next()}, "$max": {"expire_at": expiry(now)}}
            writes.append(UpdateOne(where, turn, upsert=True))
        elif count and rate is not None:
            writes.append(UpdateOne(where, spending(line.gate, rate, now, count), upsert=True))
    if writes:
        await store.write(writes, to=store.hasty_gates)


async def _look_again(
    store: Store, queue: str, settings: QueueSettings, lines: Sequence[Line]
) -> None:
    """Let lines come back whose settings or jobs changed while this claim parked them."""
    parked = [line for line in lines if line.name is not None and line.parked is not None]
    if not parked:
        return
    full = [line.name for line in parked if line.parked == lines_ring.FULL]
    stored, roomy = await asyncio.gather(
        store.queues.find_one({"_id": queue}, {"rev": 1}), _roomy(store, queue, settings, full)
    )
    if (stored or {}).get("rev", 0) != settings.rev:
        await lines_ring.readmit_all(store, queue)
    elif roomy:
        await lines_ring.readmit(store, [gate_key(queue, name) for name in roomy])


async def active_in(store: Store, queue: str, lines: Sequence[str | None]) -> Counter[str | None]:
    """Return how many jobs of each of the lines are active."""
    if not lines:
        return Counter()
    active = {"queue": queue, "line": {"$in": list(lines)}, "state": "active"}
    found = await store.jobs.find(active, {"line": 1, "_id": 0}).to_list(None)
    return Counter(one["line"] for one in found)


async def _roomy(
    store: Store, queue: str, settings: QueueSettings, lines: Sequence[str | None]
) -> list[str | None]:
    """Return those of the lines that are not full."""
    active = await active_in(store, queue, lines)
    limits = {name: settings.line(name).concurrency for name in lines}
    return [name for name, most in limits.items() if most is None or active[name] < most]


async def freed(store: Store, queue: str, restriction: Restriction) -> bool:
    """Look again at the full lines that nobody looked at for longest; say whether one has room.

    Leases that were deleted by hand free their places this way.
    """
    found = store.ring.find({"queue": queue, "parked": lines_ring.FULL}).sort("turn", ASCENDING)
    documents = await found.limit(_RECHECKED).to_list(None)
    if not documents:
        return False
    names = [one["line"] for one in documents]
    roomy = await _roomy(store, queue, restriction.settings, names)
    if roomy:
        return await lines_ring.readmit(store, [gate_key(queue, name) for name in roomy])
    looked_at = {"_id": {"$in": [one["_id"] for one in documents]}, "parked": lines_ring.FULL}
    await store.hasty_ring.update_many(looked_at, {"$set": {"turn": store.numbers.next()}})
    return False


async def kept(
    store: Store, queue: str, lines: Sequence[Line]
) -> tuple[Blocker | None, int | None]:
    """Say whether lines with waiting jobs may not give, and when the first of them may.

    That is at once if there are lines that nobody looked at yet.
    """
    ready = await store.ring.find_one({"queue": queue, "parked": lines_ring.IN_RING}, {"_id": 1})
    if ready is not None:
        return None, 0
    now = store.clock.earliest()
    opening = store.ring.find({"queue": queue, "parked": {"$gte": 0}}, {"parked": 1})
    first = await opening.sort("parked", ASCENDING).limit(1).to_list(None)
    common = [line.parked for line in lines if line.name is None and line.parked is not None]
    opens = [at for at in (*(one["parked"] for one in first), *common) if isinstance(at, int)]
    opens_in = max(0, min(opens) - now) if opens else None
    parked = common or await store.ring.find_one({"queue": queue}, {"_id": 1})
    return "lines" if parked else None, opens_in
