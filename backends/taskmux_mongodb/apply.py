"""Apply: every change of state, as guarded writes of single documents.

A worker's batch is written unread: each write is guarded by the fence, and one round trip does
all of them. Only if not all matched, and for transitions from outside, documents are read,
`judge` decides from what was read, and the move is written if the document is unchanged; then
again until every transition has its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from pymongo import ReplaceOne, UpdateMany, UpdateOne
from taskmux.driver import (
    TERMINAL,
    Applied,
    ApplyStatus,
    JobRecord,
    Move,
    Op,
    State,
    StoreBusy,
    Transition,
    judge,
)

from taskmux_mongodb import lines_common, lines_holds, lines_ring
from taskmux_mongodb.deadlines import weight
from taskmux_mongodb.dedup import dedup_owner, hand_over
from taskmux_mongodb.failures import store_error
from taskmux_mongodb.moves import tombstone, update
from taskmux_mongodb.records import OUTLINE, Document, key_of, outline, owned_key, stored_state
from taskmux_mongodb.store import DUPLICATE_KEY, Store, Write

__all__ = ["apply"]

_ROUNDS: Final = 100
_UNREAD: Final = TERMINAL | {State.ACTIVE, State.WAITING, State.DELAYED}
_WAKING: Final = {State.WAITING, State.DELAYED}
_WRITTEN: Final = {ApplyStatus.APPLIED, ApplyStatus.REPEATED}


class _Item(msgspec.Struct):
    """A transition on its way; `rev` and `answer` belong to the write that was tried last.

    `line`, `waited` and `came` are the job's, where its document was read: its line, whether it
    waited there, and since when.
    """

    place: int
    one: Transition
    key: str
    mark: str = ""
    rev: int = 0
    answer: Applied = Applied(ApplyStatus.APPLIED)
    line: str | None = None
    waited: bool = False
    came: int = 0
    owned: str | None = None
    """The key that it owns, if a job waits for its end."""

    @property
    def request(self) -> str:
        """The mark of a request to cancel, which leaves the job running."""
        return f"{self.mark}?"


async def apply(store: Store, op: Op, transitions: Sequence[Transition]) -> list[Applied]:
    """Apply transitions in order; see `Driver.apply`."""
    store.operations.begin("apply", op)
    answers: dict[int, Applied] = {}
    items = [_Item(place, one, key_of(one.ref)) for place, one in enumerate(transitions)]
    closed: set[str] = set()
    for batch in _one_of_each(op, items):
        closed |= await lines_holds.close(store, [item.one for item in batch])
        await _apply(store, batch, answers)
    await _line_up(store, items, answers)
    for item in items:
        if item.owned is not None:
            await hand_over(store, item.one.ref.queue, item.owned)
    queues = {item.one.ref.queue for item in items if answers[item.place].state in _WAKING}
    queues |= await lines_holds.made_room(store, [item.one for item in items])
    store.bell.ring(queues)
    if closed:
        await asyncio.gather(*(store.restrictions.in_force(queue) for queue in closed))
    return [answers[place] for place in range(len(transitions))]


async def _line_up(store: Store, items: list[_Item], answers: dict[int, Applied]) -> None:
    """Give lines that jobs have come to a place in the ring, and take it from empty ones."""
    come: dict[lines_ring.Place, int] = {}
    left: list[lines_ring.Place] = []
    unclaimed: dict[str, int] = {}
    for item in items:
        if answers[item.place].status not in _WRITTEN:
            continue
        if item.line is None:
            if item.waited:
                queue = item.one.ref.queue
                unclaimed[queue] = min(item.came, unclaimed.get(queue, item.came))
        elif answers[item.place].state is State.WAITING:
            come.setdefault((item.one.ref.queue, item.line), item.rev or store.numbers.next())
        elif item.waited:
            left.append((item.one.ref.queue, item.line))
    if come:
        await lines_ring.join(store, come)
    if left:
        await lines_ring.leave(store, left)
    if unclaimed:
        await lines_common.note_left(store, unclaimed)


def _one_of_each(op: Op, items: list[_Item]) -> list[list[_Item]]:
    """Split a batch so that no part has two transitions of one job, keeping their order.

    A part and its operation together mark what was done to a document.
    """
    parts: list[list[_Item]] = []
    depth: dict[str, int] = {}
    for item in items:
        part = depth[item.key] = depth.get(item.key, -1) + 1
        if part == len(parts):
            parts.append([])
        parts[part].append(item)
        item.mark = f"{op}:{part}"
    return parts


async def _apply(store: Store, items: list[_Item], answers: dict[int, Applied]) -> None:
    """Apply transitions of different jobs."""
    if not all(_may_go_unread(item.one) for item in items):
        await store.barrier()
    elif await _write_unread(store, items):
        answers.update((item.place, item.answer) for item in items)
        return
    for _ in range(_ROUNDS):
        items = await _decide(store, items, answers)
        if not items:
            return
    raise StoreBusy("Others keep changing the same jobs. The operation may be sent again.")


# -- unread: transitions of running jobs -----------------------------------------------------------


def _may_go_unread(one: Transition) -> bool:
    return (
        one.guard.fence is not None
        and not one.remove
        and not one.flag
        and (one.to is None or one.to in _UNREAD)
    )


async def _write_unread(store: Store, items: list[_Item]) -> bool:
    """Write transitions of running jobs; return whether every one was applied.

    Jobs with one fence and one outcome share a write: a thousand pushed together and done alike
    cost the server little more than one.
    """
    alike: dict[Any, list[_Item]] = {}
    for item in items:
        alike.setdefault(_likeness(item), []).append(item)
    writes: list[Write] = []
    weights: list[int] = []
    for group in alike.values():
        one, mark = group[0].one, group[0].mark
        job = _assumed(one)
        move = judge(one, job)
        assert isinstance(move, Move)
        written = update(store, one, move, job, mark)
        for item in group:
            item.rev = written["$set"]["rev"]
            item.answer = move.answer
        writes.append(UpdateMany(_as_assumed(group, job, move), written))
        weights.append(weight(written))
    done = await store.write(writes, weights=weights)
    _raise_first(done.errors.values())
    return done.matched == len(items)


def _likeness(item: _Item) -> Any:
    """Return what is equal for transitions that one write can do."""
    one = item.one
    if one.to is State.WAITING:
        return item.place  # a claim sees by its `rev` whether a waiting job is as it was read
    return one.guard.fence, one.to, one.delay, one.run_at, one.changes, one.retention, one.tells


def _assumed(one: Transition) -> JobRecord:
    """Return what a transition under a fence takes its job to be: it runs, and nobody cancels it.

    A job without a group: those of others take a place in the ring, and have to be read.
    """
    fence = one.guard.fence or 0
    return JobRecord(queue="", id="", task="", state=State.ACTIVE, fence=fence)


def _as_assumed(items: Sequence[_Item], job: JobRecord, move: Move) -> Document:
    """Return the filter of those jobs for which the move is what `judge` would say, too."""
    where: Document = {
        "_id": {"$in": [item.key for item in items]},
        "state": stored_state(job.state, None),
        "fence": job.fence,
        "ops": {"$ne": items[0].mark},
    }
    if move.left_active and (not move.ended or move.state is State.COMPLETED):  # A7
        where["cancel_requested"] = None
    if move.ended:
        where["heed"] = None
    if move.state is State.WAITING:
        where["line"] = None
    return where


# -- read, decide, write if unchanged --------------------------------------------------------------

_KEYS: Final = ("dedup", "ttl", "owns", "until", "follows", "followed")
_SHOWN: Final = OUTLINE | dict.fromkeys(("ops", "born", "unwaited", "queue", *_KEYS), 1)


async def _decide(store: Store, items: list[_Item], answers: dict[int, Applied]) -> list[_Item]:
    """Answer what can be answered; return what was written meanwhile, to be looked at again."""
    found = store.jobs.find({"_id": {"$in": [item.key for item in items]}}, _SHOWN)
    there = {one["_id"]: one for one in await found.to_list(None)}
    jobs = {key: outline(one) for key, one in there.items()}
    tried: list[_Item] = []
    writes: list[Write] = []
    weights: list[int] = []
    for item in items:
        document, job = there.get(item.key, {}), jobs.get(item.key)
        item.line = document.get("line")
        if document.get("followed"):
            item.owned = owned_key(document["queue"], document["dedup"])
        decided = _remembered(document, job, item) or judge(item.one, job)
        if isinstance(decided, Applied):
            answers[item.place] = decided
        elif job is not None:
            tried.append(item)
            write, written = _planned(store, item, decided, document, job)
            writes.append(write)
            weights.append(weight(written))
    if not writes:
        return []
    done = await store.write(writes, weights=weights)
    conflicts = {at for at, one in done.errors.items() if one.get("code") == DUPLICATE_KEY}
    for at in conflicts:
        item = tried[at]
        job, ref = jobs[item.key], item.one.ref
        state = None if job is None else job.state
        # An owner whose time is over has made way by then: the write is tried again.
        if await dedup_owner(store, ref.queue, there[item.key]["dedup"]) is not None:
            answers[item.place] = Applied(ApplyStatus.CONFLICT, state)
    _raise_first(one for at, one in done.errors.items() if at not in conflicts)
    if done.matched == len(writes) - len(conflicts):
        answers.update((one.place, one.answer) for one in tried if one.place not in answers)
    return [one for one in tried if one.place not in answers]


def _remembered(document: Document, job: JobRecord | None, item: _Item) -> Applied | None:
    """Return the answer if the document shows that this very operation was here before."""
    state = None if job is None else job.state
    ops = document.get("ops", ())
    if item.rev and document.get("rev") == item.rev:
        return item.answer
    if item.mark in ops:
        return Applied(ApplyStatus.REPEATED, state)
    if item.request in ops:
        return Applied(ApplyStatus.REQUESTED, state)
    return None


def _planned(
    store: Store, item: _Item, move: Move, document: Document, job: JobRecord
) -> tuple[Write, Document]:
    """Return the write of a move, if the document stays as it was read; and what it writes."""
    item.answer, item.waited, item.came = move.answer, job.state is State.WAITING, document["rev"]
    unchanged = {"_id": item.key} | {name: document[name] for name in ("rev", "state", "fence")}
    if move.removes:
        written = tombstone(store, document, item.mark)
        item.rev = written["rev"]
        return ReplaceOne(unchanged, written), written
    asks = move.answer.status is ApplyStatus.REQUESTED
    mark = item.request if asks else item.mark
    unwaited = bool(document.get("unwaited"))
    written = update(store, item.one, move, job, mark, unwaited=unwaited, before=document)
    item.rev = written["$set"]["rev"]
    return UpdateOne(unchanged, written), written


def _raise_first(failed: Iterable[Document]) -> None:
    for one in failed:
        raise store_error(one.get("code"), str(one.get("errmsg")))
