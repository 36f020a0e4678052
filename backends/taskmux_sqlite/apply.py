"""Apply: guarded transitions of stored jobs. The core's `judge` says what one of them does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from taskmux.driver import (
    TERMINAL,
    Applied,
    ApplyStatus,
    BlockedCause,
    Guard,
    JobRecord,
    Keep,
    Move,
    Op,
    Ref,
    State,
    Transition,
    What,
    given,
    judge,
)

from taskmux_sqlite.dedup import let_go, take_again
from taskmux_sqlite.gates import read_gate, write_gate
from taskmux_sqlite.records import (
    IN_JOBS,
    ROW,
    encode,
    new_body,
    new_notes,
    record,
    to_columns,
)
from taskmux_sqlite.transaction import Transaction

__all__ = ["BY_FENCE", "Found", "apply", "find_job", "update_query"]

BY_FENCE: Final = "queue = ? AND id = ? AND state = 'active' AND fence = ? AND cancel_requested = 0"
_ENDS: Final = f"{BY_FENCE} AND followed IS NULL"
"""The plain end of a run: no job waits for it."""
BY_NUMBER: Final = "number = ?"

_STATES: Final = {state.value: state for state in State}
_CAUSES: Final = {cause.value: cause for cause in BlockedCause}
_NO_RETENTION: Final[dict[str, Any]] = {"expires_at": None, "keep_count": None}

_replies: Final = msgspec.msgpack.Decoder(dict[int, Applied]).decode


class Found(msgspec.Struct, gc=False):
    """A stored job, with as much of its record as guards and rules look at."""

    number: int
    sequence: int
    job: JobRecord
    key: str | None = None
    followed: bool = False
    follows: bool = False


def apply(transaction: Transaction, op: Op, transitions: Sequence[Transition]) -> Sequence[Applied]:
    """See `Driver.apply`.

    Remembered are only the answers that do not follow from the transitions, since a repeat brings
    the transitions along.
    """
    known = transaction.recall(op, "apply", _replies)
    if known is not None:
        replies = [known.get(index) or _plain(one) for index, one in enumerate(transitions)]
        return [_repeated(reply) for reply in replies]
    replies = [_apply(transaction, one) for one in transitions]
    pairs = zip(transitions, replies, strict=True)
    others = {index: reply for index, (one, reply) in enumerate(pairs) if reply != _plain(one)}
    transaction.remember(op, "apply", encode(others))
    return replies


def find_job(transaction: Transaction, ref: Ref) -> Found | None:
    """Return a job; None if there is none, or only a row that was set aside."""
    row = transaction.execute(
        "SELECT number, sequence, state, cause, fence, children, cancel_requested, line,"
        " coalesce(dedup, throttle), followed, follows FROM jobs"
        " WHERE queue = ? AND id = ?",
        (ref.queue, ref.id),
    ).fetchone()
    if row is None or row[2] not in _STATES:
        return None
    number, sequence, state, cause, fence, children, cancel_requested, line, *keys = row
    job = JobRecord(
        queue=ref.queue,
        id=ref.id,
        task="",
        state=_STATES[state],
        cause=_CAUSES.get(cause),
        fence=fence,
        children=children,
        cancel_requested=cancel_requested == 1,
        group=line,
    )
    key, followed, follows = keys
    return Found(number, sequence, job, key, followed == 1, follows is not None)


def _plain(one: Transition) -> Applied:
    """Return the usual answer: applied, and in the state asked for."""
    return Applied(ApplyStatus.APPLIED, one.to)


def _repeated(reply: Applied) -> Applied:
    changed = reply.status is ApplyStatus.APPLIED
    return Applied(ApplyStatus.REPEATED, reply.state) if changed else reply


def _apply(transaction: Transaction, one: Transition) -> Applied:
    ends = one.to in TERMINAL and one.guard.fence is not None
    if ends and not (one.flag or one.remove or one.hold) and _end(transaction, one):
        return _plain(one)
    found = find_job(transaction, one.ref)
    move = judge(one, None if found is None else found.job)
    if isinstance(move, Applied):
        return move
    assert found is not None
    if move.removes:
        transaction.execute("DELETE FROM jobs WHERE number = ?", (found.number,))
        transaction.removed(one.ref.queue, [found.job.fence])
        transaction.tell(one.ref.queue, What.REMOVED, one.ref.id, None, one.tells)
        _let_go(transaction, one.ref, found, removed=True)
    elif not _write(transaction, found, one, move):
        return Applied(ApplyStatus.CONFLICT, found.job.state)  # its key has another owner now
    elif move.state is not found.job.state:
        transaction.tell(one.ref.queue, What.STATE, one.ref.id, move.state, one.tells)
        if move.ended:
            _let_go(transaction, one.ref, found, removed=False)
    came = not move.removes and move.state in (State.WAITING, State.DELAYED)
    transaction.brought |= move.left_active or came
    return move.answer


def _let_go(transaction: Transaction, ref: Ref, found: Found, *, removed: bool) -> None:
    if found.key is not None and (found.followed or removed):
        followed = found.followed
        let_go(transaction, ref.queue, ref.id, found.key, followed=followed, removed=removed)


def _end(transaction: Transaction, one: Transition) -> bool:
    """End a run by one statement that is its own guard; False: look more closely."""
    assert one.to is not None
    columns = to_columns(given(one.changes)) | _ending(one.to)
    columns |= _retention(one.retention, transaction.now)
    key = (one.ref.queue, one.ref.id, one.guard.fence)
    if _update(transaction, columns, _ENDS, key) == 0:
        return False
    transaction.tell(one.ref.queue, What.STATE, one.ref.id, one.to, one.tells)
    transaction.brought |= transaction.queue(one.ref.queue).limited  # there is room for another
    return True


@cache
def _ending(to: State) -> dict[str, Any]:
    """Return the columns that change when a run ends in a state, beside what its worker changes.

    It is the same for every job that the guard lets through, so one judgement is enough: of a job
    that has nothing but what the guard asks for.
    """
    nobody = Ref("", "")
    running = JobRecord(queue="", id="", task="", state=State.ACTIVE, fence=0)
    move = judge(Transition(ref=nobody, guard=Guard(fence=0), to=to), running)
    assert isinstance(move, Move)
    assert move.ended
    return _columns(move)


def _write(transaction: Transaction, found: Found, one: Transition, move: Move) -> bool:
    """Store what a move changes; False, and nothing is, if another job owns its key."""
    now, columns = transaction.now, _columns(move)
    if move.delay is not None:
        columns["run_at"] = now + move.delay
    if move.place is not None:
        columns["sequence"] = transaction.queue(one.ref.queue).place(move.place, found.sequence)
    if move.ended:
        columns |= _retention(one.retention, now)
        columns["followed"] = None
    if found.follows and move.state is not State.BLOCKED:
        columns["follows"] = None
    if move.revived:
        keyed = take_again(transaction, found.number)
        if keyed is None:
            return False
        columns |= _NO_RETENTION | keyed
    if _update(transaction, columns, BY_NUMBER, (found.number,)) == 0:
        return False
    others = {name: value for name, value in move.fields.items() if name not in IN_JOBS}
    if others:
        _rewrite(transaction, found.number, others)
    if one.hold and move.answer.status is ApplyStatus.APPLIED:
        _rest(transaction, one, found.job.group)
    return True


def _columns(move: Move) -> dict[str, Any]:
    return {"state": move.state.value} | to_columns(move.fields)


def _retention(keep: Keep, now: int) -> dict[str, Any]:
    return {"finished_at": now, "expires_at": now + keep.age_ms, "keep_count": keep.count}


def _rewrite(transaction: Transaction, number: int, fields: Mapping[str, Any]) -> None:
    """Change fields that have no column in `jobs`: rare, since a large body is written anew."""
    query = f"SELECT {ROW} FROM records WHERE number = ?"  # noqa: S608 - made of constants
    job = replace(record(transaction.execute(query, (number,)).fetchone()), **fields)
    transaction.execute("UPDATE bodies SET body = ? WHERE number = ?", (new_body(job), number))
    notes = new_notes(job) or (None, None, None)
    transaction.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?)", (number, *notes))


def _rest(transaction: Transaction, one: Transition, line: str | None) -> None:
    """Let the job's queue, or its line, give nothing for a while (A11)."""
    queue, until = transaction.queue(one.ref.queue), transaction.now + one.hold
    if one.hold_line:
        gate = read_gate(transaction.execute, one.ref.queue, line).held(until)
        rate = queue.settings.line(line).rate
        write_gate(transaction.execute, one.ref.queue, line, gate, rate)
    else:
        transaction.set_gate(one.ref.queue, queue.gate.held(until))


def _update(
    transaction: Transaction, columns: dict[str, Any], where: str, key: tuple[Any, ...]
) -> int:
    """Set columns of one job, unless a unique key forbids it; return how many rows changed."""
    values = [value for value in columns.values() if value is not None]
    nulls = tuple([value is None for value in columns.values()])
    return transaction.execute(update_query(tuple(columns), nulls, where), (*values, *key)).rowcount


@cache
def update_query(columns: tuple[str, ...], nulls: tuple[bool, ...], where: str) -> str:
    """Return the statement that sets columns. NULL is written out: binding None is slow."""
    assignments = ", ".join(
        f"{column} = NULL" if null else f"{column} = ?"
        for column, null in zip(columns, nulls, strict=True)
    )
    return f"UPDATE OR IGNORE jobs SET {assignments} WHERE {where}"  # noqa: S608 - no user's text
