"""Apply: every change of state, as guarded writes of single documents.

A worker's batch is written blind: each write is guarded by the fence, and one round trip does
all of them. Only if not all matched, and for transitions from outside, documents are read, the
transition is decided from what was read, and written if the document is unchanged; then again
until every transition has its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from pymongo import ReplaceOne, UpdateMany, UpdateOne
from taskmux.driver import TERMINAL, Applied, ApplyStatus, Guard, Op, State, StoreBusy, Transition

from taskmux_mongodb import making_room, ring
from taskmux_mongodb.documents import LINED, Document, key_of
from taskmux_mongodb.failures import store_error
from taskmux_mongodb.store import DUPLICATE_KEY, Store, Write
from taskmux_mongodb.writing import Before, removal, request, update

__all__ = ["apply"]

_ROUNDS: Final = 100
_BLIND: Final = TERMINAL | {State.ACTIVE, State.WAITING, State.DELAYED}
_WAKING: Final = {State.WAITING, State.DELAYED}
_WRITTEN: Final = {ApplyStatus.APPLIED, ApplyStatus.REPEATED}
_STATES: Final = {state.value: state for state in State} | {LINED: State.WAITING}


class _Move(msgspec.Struct):
    """A transition on its way; `rev` and `outcome` belong to the write that was tried last.

    `line` and `waited` are the job's, where its document was read.
    """

    place: int
    one: Transition
    key: str
    mark: str = ""
    rev: int = 0
    outcome: Applied = Applied(ApplyStatus.APPLIED)
    line: str | None = None
    waited: bool = False

    @property
    def asked(self) -> str:
        """The mark of a request to cancel, which is no transition."""
        return f"{self.mark}?"


async def apply(store: Store, op: Op, transitions: Sequence[Transition]) -> list[Applied]:
    """Apply transitions in order; see `Driver.apply`."""
    answers: dict[int, Applied] = {}
    moves = [_Move(place, one, key_of(one.ref)) for place, one in enumerate(transitions)]
    held: set[str] = set()
    for batch in _one_of_each(op, moves):
        held |= await making_room.hold(store, [move.one for move in batch])
        await _apply(store, batch, answers)
    await _line_up(store, moves, answers)
    queues = {
        move.one.ref.queue for move in moves if answers[move.place].state in _WAKING
    }  # fmt: skip
    queues |= await making_room.made_room(store, [move.one for move in moves])
    store.bell.ring(queues)
    if held:
        await asyncio.gather(*(store.rules.in_force(queue) for queue in held))
    return [answers[place] for place in range(len(transitions))]


async def _line_up(store: Store, moves: list[_Move], answers: dict[int, Applied]) -> None:
    """Give lines that jobs have come to a place in the ring, and take it from empty ones."""
    come: dict[ring.Place, int] = {}
    left: list[ring.Place] = []
    for move in moves:
        if move.line is None or answers[move.place].status not in _WRITTEN:
            continue
        if answers[move.place].state is State.WAITING:
            come.setdefault((move.one.ref.queue, move.line), move.rev or store.numbers.next())
        elif move.waited:
            left.append((move.one.ref.queue, move.line))
    if come:
        await ring.join(store, come)
    if left:
        await ring.leave(store, left)


def _one_of_each(op: Op, moves: list[_Move]) -> list[list[_Move]]:
    """Split a batch so that no part has two transitions of one job, keeping their order.

    A part and its operation together mark what was done to a document.
    """
    parts: list[list[_Move]] = []
    depth: dict[str, int] = {}
    for move in moves:
        part = depth[move.key] = depth.get(move.key, -1) + 1
        if part == len(parts):
            parts.append([])
        parts[part].append(move)
        move.mark = f"{op}:{part}"
    return parts


async def _apply(store: Store, moves: list[_Move], answers: dict[int, Applied]) -> None:
    """Apply transitions of different jobs."""
    if not all(_may_go_blind(move.one) for move in moves):
        await store.barrier()
    elif await _write_blind(store, moves):
        answers.update((move.place, move.outcome) for move in moves)
        return
    for _ in range(_ROUNDS):
        moves = await _decide(store, moves, answers)
        if not moves:
            return
    raise StoreBusy("Others keep changing the same jobs. The operation may be sent again.")


# -- blind ----------------------------------------------------------------------------------------


def _may_go_blind(one: Transition) -> bool:
    return (
        one.guard.fence is not None
        and not one.remove
        and not one.flag
        and (one.to is None or one.to in _BLIND)
    )


async def _write_blind(store: Store, moves: list[_Move]) -> bool:
    """Write transitions of running jobs; return whether every one was applied.

    Jobs with one fence and one outcome share a write: a thousand pushed together and done alike
    cost the server little more than one.
    """
    alike: dict[Any, list[_Move]] = {}
    for move in moves:
        alike.setdefault(_likeness(move), []).append(move)
    writes: list[Write] = []
    for group in alike.values():
        one = group[0].one
        target = one.to or State.ACTIVE
        held: Document = {
            "_id": {"$in": [move.key for move in group]},
            "state": "active",
            "fence": one.guard.fence,
            "ops": {"$ne": group[0].mark},
        }
        if target is not State.ACTIVE and target not in TERMINAL:
            held["cancel_requested"] = None
        if target is State.WAITING:
            held["line"] = None  # another line's jobs have to be read
        written = update(store, one, target, Before(State.ACTIVE), group[0].mark)
        for move in group:
            move.rev = written["$set"]["rev"]
            move.outcome = Applied(ApplyStatus.APPLIED, target)
        writes.append(UpdateMany(held, written))
    done = await store.write(writes)
    _raise_first(done.errors.values())
    return done.matched == len(moves)


def _likeness(move: _Move) -> Any:
    """Return what is equal for transitions that one write can do."""
    one = move.one
    if one.to is State.WAITING:
        return move.place  # a claim tells by its `rev` that a waiting job is as it was read
    return one.guard.fence, one.to, one.delay, one.run_at, one.changes, one.retention


# -- read, decide, write if unchanged -------------------------------------------------------------

_SHOWN: Final = dict.fromkeys(
    ("state", "fence", "rev", "ops", "born", "line", "priority", "created_at", "cancel_requested"),
    1,
)


_NEEDED: Final = ("fence", "rev", "priority", "created_at")


async def _decide(store: Store, moves: list[_Move], answers: dict[int, Applied]) -> list[_Move]:
    """Answer what can be answered; return what was written meanwhile, to be looked at again."""
    found = store.jobs.find({"_id": {"$in": [move.key for move in moves]}}, _SHOWN)
    there = {one["_id"]: one for one in await found.to_list(None)}
    tried: list[_Move] = []
    writes: list[Write] = []
    for move in moves:
        document = there.get(move.key)
        move.line = document.get("line") if document is not None else None
        answer = _settled(document, move)
        if answer is not None:
            answers[move.place] = answer
        elif document is not None:
            tried.append(move)
            writes.append(_planned(store, move, document))
    if not writes:
        return []
    done = await store.write(writes)
    conflicts = {at for at, one in done.errors.items() if one.get("code") == DUPLICATE_KEY}
    for at in conflicts:
        state = _STATES[there[tried[at].key]["state"]]
        answers[tried[at].place] = Applied(ApplyStatus.CONFLICT, state)
    _raise_first(one for at, one in done.errors.items() if at not in conflicts)
    if done.matched == len(writes) - len(conflicts):
        answers.update((one.place, one.outcome) for one in tried if one.place not in answers)
    return [one for one in tried if one.place not in answers]


def _settled(document: Document | None, move: _Move) -> Applied | None:
    """Return the answer if nothing is to be written, else None."""
    if document is None:
        return Applied(ApplyStatus.GONE)
    state, ops = _state(document), document.get("ops", ())
    if move.rev and document.get("rev") == move.rev:
        return move.outcome
    if move.mark in ops:
        return Applied(ApplyStatus.REPEATED, state)
    if move.asked in ops:
        return Applied(ApplyStatus.REQUESTED, state)
    return _refused(document, state, move.one)


def _state(document: Document) -> State | None:
    """Return the state of a job; None for a tombstone and for what is no job of taskmux."""
    whole = all(isinstance(document.get(name), int) for name in _NEEDED)
    return _STATES.get(str(document.get("state"))) if whole else None


def _refused(document: Document, state: State | None, one: Transition) -> Applied | None:
    if state is None:
        return Applied(ApplyStatus.GONE)
    if one.flag and state is State.ACTIVE:
        return None
    holds = _holds(one.guard, state, document["fence"])
    return None if holds else Applied(ApplyStatus.STALE, state)


def _holds(guard: Guard, state: State, fence: int) -> bool:
    if guard.fence is not None:
        return state is State.ACTIVE and fence == guard.fence
    return guard.states is not None and state in guard.states


def _planned(store: Store, move: _Move, document: Document) -> Write:
    """Return the write for a transition whose guard holds, if the document stays as it was read."""
    one, state = move.one, _STATES[document["state"]]
    move.waited = state is State.WAITING
    unchanged = {"_id": move.key, "rev": document["rev"], "state": document["state"]}
    unchanged["fence"] = document["fence"]
    if one.flag and state is State.ACTIVE:
        move.outcome = Applied(ApplyStatus.REQUESTED, state)
        written = request(store, move.asked)
    elif one.remove:
        move.outcome = Applied(ApplyStatus.APPLIED)
        tombstone = removal(store, document, move.mark)
        move.rev = tombstone["rev"]
        return ReplaceOne(unchanged, tombstone)
    else:
        target = _target(one, state, asked=bool(document.get("cancel_requested")))
        before = Before(state, document["priority"], document["created_at"], move.line)
        move.outcome = Applied(ApplyStatus.APPLIED, target)
        written = update(store, one, target, before, move.mark)
    move.rev = written["$set"]["rev"]
    return UpdateOne(unchanged, written)


def _target(one: Transition, state: State, *, asked: bool) -> State:
    target = one.to or state
    leaves = state is State.ACTIVE and target is not State.ACTIVE
    return State.CANCELLED if leaves and asked and target not in TERMINAL else target


def _raise_first(failed: Any) -> None:
    for one in failed:
        raise store_error(one.get("code"), str(one.get("errmsg")))
