"""Lines: which jobs a claim takes when a queue has several lines, each in its turn.

The lines at the head of the ring are read, and with them what keeps each from giving: its pause,
its concurrency, its rate or a hold. Those that may give are served in turn from what waits in
them. Then the ring is written: who gave goes behind the others, who may not give is parked, who
has nothing left is taken out. So a claim touches as many lines as it takes jobs, and at most
`LINE_LIMIT` more, whatever else the queue holds.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec
from pymongo import ASCENDING
from taskmux.driver import LINE_LIMIT, Blocker, ClaimAsk, JobRecord

from taskmux_mongodb import lines_ring
from taskmux_mongodb.claim_jobs import IN_LINE, TRIES, Claim, write_leases
from taskmux_mongodb.lines_after import MERGED, Line, active_in, freed, kept, write_back
from taskmux_mongodb.lines_common import turn_of
from taskmux_mongodb.lines_gates import gate_key, gate_of
from taskmux_mongodb.lines_lock import Lock
from taskmux_mongodb.records import LINED, Document, readable
from taskmux_mongodb.restrictions import Restriction
from taskmux_mongodb.store import Store

__all__ = ["Served", "serve"]

_MERGES: Final = 3
"""How many queries look for the first jobs of many lines at once. Then each line has its own."""


class Served(msgspec.Struct, frozen=True):
    """What a claim gives: the jobs, or why there are none and when there may be."""

    jobs: list[JobRecord]
    blocked_by: Blocker | None = None
    opens_in: int | None = None


async def serve(one: Claim, lock: Lock | None) -> Served:
    """Lease as many jobs as are asked for from the lines of a queue, each line in its turn."""
    store, claims, ask, restriction = one.store, one.claims, one.ask, one.restriction
    if ask.limit <= 0:
        return Served([])
    for _ in range(TRIES):
        skipped = ask.limit * random.randrange(claims.spread(ask.queue))  # noqa: S311 - spreads rivals
        walk = _Walk(store, ask, restriction, skipped)
        chosen = await walk.choose()
        jobs, corrupt = readable(chosen)
        await store.set_aside(corrupt)
        if lock is not None:
            lock.check()
        line = [job for job in chosen if job["_id"] not in corrupt]
        claims.choose(one, line)
        ours = await write_leases(one, jobs, line) if jobs else []
        await write_back(store, ask.queue, restriction, walk.seen, ours)
        claims.met_rivals(ask.queue, lost=len(ours) < len(jobs))
        if ours:
            return Served(ours)
        if chosen or skipped:
            continue
        if not await freed(store, ask.queue, restriction) and not await lines_ring.join_missing(
            store, ask.queue
        ):
            return Served([], *await kept(store, ask.queue, walk.seen))
    return Served([], None, 0)


class _Walk:
    """One walk around the ring."""

    def __init__(self, store: Store, ask: ClaimAsk, restriction: Restriction, skipped: int) -> None:
        self._store = store
        self._queue = ask.queue
        self._left = ask.limit
        self._page = ask.limit
        self._settings = restriction.settings
        self._now = store.clock.earliest()
        self._fresh: deque[Line] = deque()
        self._again: deque[Line] = deque()
        self._seen: dict[str | None, Line] = {}
        self._back: list[Line] = []
        self._common: Line | None = None
        self._read = skipped
        self._passed = 0
        self._ended = False

    # -- choosing -------------------------------------------------------------------------------

    async def choose(self) -> list[Document]:
        """Return the jobs whose turn it is, in order."""
        chosen: list[Document] = []
        await self._begin()
        while self._left > 0:
            while len(self._fresh) < self._left and not self._ended:
                await self._read_ring()
            if not self._fresh and not self._again:
                break
            await self._read_jobs()
            self._deal(chosen)
        return chosen

    async def _begin(self) -> None:
        """Read the common line, and the lines whose rate has opened or whose hold is over."""
        waiting = {"queue": self._queue, "state": "waiting"}
        opened = {"queue": self._queue, "parked": {"$lte": self._now}}
        common, gate, back = await asyncio.gather(
            self._store.jobs.find(waiting).sort(IN_LINE).limit(self._left).to_list(None),
            self._store.gates.find_one({"_id": gate_key(self._queue, None)}),
            self._store.ring.find(opened).sort("parked", ASCENDING).limit(LINE_LIMIT).to_list(None),
        )
        if common:
            more = len(common) == self._left
            turn = await turn_of(self._store, self._queue, gate, common, more=more)
            self._common = Line(None, turn, gate=gate_of(gate), jobs=deque(common), more=more)
        self._back = [self._line(one, back=True) for one in back]

    def _line(self, document: Document, *, back: bool = False) -> Line:
        line = Line(document["line"], document["turn"], document.get("v", 0), back)
        return self._seen.setdefault(line.name, line)

    async def _read_ring(self) -> None:
        """Read the next lines of the ring, and leave out those that may not give."""
        found = self._store.ring.find({"queue": self._queue, "parked": lines_ring.IN_RING})
        found = found.sort([("turn", ASCENDING), ("_id", ASCENDING)]).skip(self._read)
        documents = await found.limit(self._page).to_list(None)
        self._read += len(documents)
        self._ended = len(documents) < self._page
        lines = [self._line(one) for one in documents if one["line"] not in self._seen]
        common = self._common
        if common is not None and (self._ended or common.turn < documents[-1]["turn"]):
            self._seen[None], self._common = common, None
            lines = sorted([*lines, common], key=lambda line: line.turn)
        if self._ended:
            lines += self._back
        await self._look_at(lines)
        self._page = LINE_LIMIT - self._passed
        self._ended = self._ended or self._page <= 0

    async def _look_at(self, lines: Sequence[Line]) -> None:
        """Put lines in the order of their turns, but for those that may not give."""
        named = [line for line in lines if line.name is not None]
        limits = {line.name: self._settings.line(line.name) for line in lines}
        counted = [line for line in named if limits[line.name].concurrency is not None]
        keys = {gate_key(self._queue, line.name): line for line in named}
        active, gates = await asyncio.gather(
            active_in(self._store, self._queue, [line.name for line in counted]),
            self._store.gates.find({"_id": {"$in": list(keys)}}).to_list(None) if keys else _none(),
        )
        for one in gates:
            keys[one["_id"]].gate = gate_of(one)
        for line in lines:
            own = limits[line.name]
            if own.concurrency is not None:
                line.room = own.concurrency - active[line.name]
            if own.paused:
                line.parked = lines_ring.PAUSED
            elif line.room <= 0:
                line.parked = lines_ring.FULL
            elif opens_in := line.gate.opens_in(own.rate, self._now):
                line.parked = self._now + opens_in
            else:
                line.room = min(line.room, line.gate.room(own.rate, self._now))
                self._fresh.append(line)
                continue
            self._passed += 1

    async def _read_jobs(self) -> None:
        """Read what the lines whose turn it is will give, if each has its share of jobs."""
        lines = [*self._fresh, *self._again][: self._left]
        share = -(-self._left // len(lines))
        empty = [line for line in lines if not line.jobs and line.more]
        new = [line for line in empty if not line.taken]
        for _ in range(_MERGES):
            if len(new) <= 1:
                break
            parts = [new[at : at + MERGED] for at in range(0, len(new), MERGED)]
            left = await asyncio.gather(*(self._read_merged(part, share) for part in parts))
            new = [line for part in left for line in part]
        await asyncio.gather(*(self._read_line(line, share) for line in empty if not line.jobs))

    async def _read_merged(self, lines: list[Line], share: int) -> list[Line]:
        """Read the first jobs of several lines at once; return the lines that had none there."""
        limit = 2 * share * len(lines)
        names = {line.name: line for line in lines}
        waiting = {"queue": self._queue, "line": {"$in": list(names)}, "state": LINED}
        found = await self._store.jobs.find(waiting).sort(IN_LINE).limit(limit).to_list(None)
        for one in found:
            names[one["line"]].jobs.append(one)
        for line in lines:
            line.more = len(found) == limit
        return [line for line in lines if not line.jobs and line.more]

    async def _read_line(self, line: Line, count: int) -> None:
        if not line.more:
            return
        common: Document = {"queue": self._queue, "state": "waiting"}
        named = {"queue": self._queue, "line": line.name, "state": LINED}
        found = self._store.jobs.find(common if line.name is None else named).sort(IN_LINE)
        line.jobs.extend(await found.skip(line.taken).limit(count).to_list(None))
        line.more = len(line.jobs) == count

    def _deal(self, chosen: list[Document]) -> None:
        """Take jobs in turn, until there are enough or the next line has to be read."""
        turns = self._fresh + self._again
        self._fresh, self._again = deque(), deque()
        gave: deque[Line] = deque()
        while self._left > 0 and (turns or gave):
            if not turns:
                turns, gave = gave, deque()
            line = turns[0]
            if line.room <= 0:
                self._fill(line)
                turns.popleft()
            elif line.jobs:
                chosen.append(line.jobs.popleft())
                line.taken += 1
                line.room -= 1
                line.gave_at = len(chosen)
                self._left -= 1
                gave.append(turns.popleft())
            elif line.more:
                break
            else:
                turns.popleft()
        for line in turns:
            (self._again if line.taken else self._fresh).append(line)
        self._again += gave

    def _fill(self, line: Line) -> None:
        """Park a line that gave all it may."""
        if not line.jobs and not line.more:
            return
        own = self._settings.line(line.name)
        self._passed += 1
        line.parked = lines_ring.FULL
        if own.rate is not None:
            after = line.gate.spent(own.rate, self._now, line.taken)
            opens_in = after.opens_in(own.rate, self._now)
            line.parked = self._now + opens_in if opens_in else lines_ring.FULL

    @property
    def seen(self) -> list[Line]:
        """The lines that were read, and are to be written."""
        return list(self._seen.values())


async def _none() -> list[Document]:
    return []
