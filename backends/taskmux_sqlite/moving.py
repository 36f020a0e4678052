"""Transitions and notes: guarded changes of stored jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import UNSET
from taskmux.driver import (
    TERMINAL,
    Applied,
    ApplyStatus,
    Changes,
    Guard,
    Note,
    Op,
    Ref,
    State,
    Transition,
)

from taskmux_sqlite.gates import read_gate, write_gate
from taskmux_sqlite.rows import decode_logs, decode_steps, encode, encoded
from taskmux_sqlite.transaction import Transaction

__all__ = ["BY_FENCE", "annotate", "apply", "update_query"]

BY_FENCE: Final = "queue = ? AND id = ? AND state = 'active' AND fence = ?"
BY_NUMBER: Final = "number = ?"

_STATES: Final = {state.value: state for state in State}
_CHANGES: Final = Changes.__struct_fields__
_TO_COLUMN: Final[dict[str, Callable[[Any], object]]] = {
    "error": encoded,
    "history": encoded,
    "started": int,
    "cancel_requested": int,
    "cause": lambda cause: None if cause is None else cause.value,
}
_NOT_LEASED: Final[dict[str, Any]] = {"worker": None, "lease_until": None, "started": 0}
_NOT_ENDED: Final[dict[str, Any]] = {"finished_at": None, "expires_at": None, "keep_count": None}

_replies: Final = msgspec.msgpack.Decoder(dict[int, Applied]).decode


class _Job(msgspec.Struct, gc=False):
    """What a transition has to know of a stored job."""

    number: int
    state: State
    fence: int
    cancel_requested: int
    sequence: int
    line: str | None


def apply(transaction: Transaction, op: Op, transitions: Sequence[Transition]) -> Sequence[Applied]:
    """See `Driver.apply`.

    Remembered are only the answers that do not follow from the transitions: a repeat brings these
    along.
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


def _plain(one: Transition) -> Applied:
    """Return the usual answer: applied, and in the state asked for."""
    return Applied(ApplyStatus.APPLIED, one.to)


def _repeated(reply: Applied) -> Applied:
    changed = reply.status is ApplyStatus.APPLIED
    return Applied(ApplyStatus.REPEATED, reply.state) if changed else reply


def _apply(transaction: Transaction, one: Transition) -> Applied:
    ends = one.to in TERMINAL and one.guard.fence is not None
    if ends and not (one.flag or one.remove or one.hold) and _finish(transaction, one):
        return _plain(one)
    job = _find(transaction, one.ref)
    if job is None:
        return Applied(ApplyStatus.GONE)
    if one.flag and job.state is State.ACTIVE:
        transaction.execute("UPDATE jobs SET cancel_requested = 1 WHERE number = ?", (job.number,))
        return Applied(ApplyStatus.REQUESTED, State.ACTIVE)
    if not _holds(one.guard, job):
        return Applied(ApplyStatus.STALE, job.state)
    if one.remove:
        transaction.execute("DELETE FROM jobs WHERE number = ?", (job.number,))
        return Applied(ApplyStatus.APPLIED)
    return _move(transaction, job, one)


def _finish(transaction: Transaction, one: Transition) -> bool:
    """End a running job in one statement that is its own guard; False: look more closely."""
    columns = _given(one) | _NOT_LEASED | _ended(one, transaction.now)
    columns["state"] = str(one.to)
    key = (one.ref.queue, one.ref.id, one.guard.fence)
    if _write(transaction, columns, BY_FENCE, key) == 0:
        return False
    transaction.brought |= transaction.queue(one.ref.queue).limited  # there is room for another
    return True


def _find(transaction: Transaction, ref: Ref) -> _Job | None:
    row = transaction.execute(
        "SELECT number, state, fence, cancel_requested, sequence, line FROM jobs"
        " WHERE queue = ? AND id = ?",
        (ref.queue, ref.id),
    ).fetchone()
    if row is None or row[1] not in _STATES:  # a row that was set aside has none of them
        return None
    number, state, *rest = row
    return _Job(number, _STATES[state], *rest)


def _holds(guard: Guard, job: _Job) -> bool:
    if guard.fence is not None:
        return job.state is State.ACTIVE and job.fence == guard.fence
    return guard.states is not None and job.state in guard.states


def _move(transaction: Transaction, job: _Job, one: Transition) -> Applied:
    target = _target(one, job)
    columns = _given(one) | {"state": target.value}
    if job.state is State.ACTIVE and target is not State.ACTIVE:
        columns |= _NOT_LEASED
    if job.state is State.BLOCKED and target is not State.BLOCKED:
        columns["cause"] = None
    if target in TERMINAL and target is not job.state:
        columns |= _ended(one, transaction.now)
    if target not in TERMINAL and job.state in TERMINAL:
        columns |= _NOT_ENDED
    if target is State.DELAYED and one.to is State.DELAYED:
        columns["run_at"] = transaction.now + one.delay if one.run_at is None else one.run_at
    if target is State.WAITING and one.to is State.WAITING:
        queue = transaction.queue(one.ref.queue)
        columns["sequence"] = queue.place(one.place, job.sequence)
    if _write(transaction, columns, BY_NUMBER, (job.number,)) == 0:
        return Applied(ApplyStatus.CONFLICT, job.state)  # its key has another owner now
    if one.hold:
        _hold(transaction, one, job.line)
    transaction.brought |= job.state is State.ACTIVE or target in (State.WAITING, State.DELAYED)
    return Applied(ApplyStatus.APPLIED, target)


def _hold(transaction: Transaction, one: Transition, line: str | None) -> None:
    queue, until = transaction.queue(one.ref.queue), transaction.now + one.hold
    if one.hold_line:
        gate = read_gate(transaction.execute, one.ref.queue, line).held(until)
        rate = queue.settings.line(line).rate
        write_gate(transaction.execute, one.ref.queue, line, gate, rate)
    else:
        transaction.set_gate(one.ref.queue, queue.gate.held(until))


def _target(one: Transition, job: _Job) -> State:
    target = one.to or job.state
    leaves = job.state is State.ACTIVE and target is not State.ACTIVE
    if leaves and target not in TERMINAL and job.cancel_requested:
        return State.CANCELLED
    return target


def _given(one: Transition) -> dict[str, Any]:
    """Return the columns that a transition's own changes write."""
    changes = one.changes
    columns = {name: value for name in _CHANGES if (value := getattr(changes, name)) is not UNSET}
    for name, to_column in _TO_COLUMN.items():
        if name in columns:
            columns[name] = to_column(columns[name])
    return columns


def _ended(one: Transition, now: int) -> dict[str, Any]:
    keep = one.retention
    return {"finished_at": now, "expires_at": now + keep.age_ms, "keep_count": keep.count}


def _write(
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


# -- notes ------------------------------------------------------------------------------------


def annotate(transaction: Transaction, notes: Sequence[Note]) -> Sequence[Applied]:
    """See `Driver.annotate`."""
    return [_annotate(transaction, note) for note in notes]


def _annotate(transaction: Transaction, note: Note) -> Applied:
    job = _find(transaction, note.ref)
    if job is None:
        return Applied(ApplyStatus.GONE)
    if not _holds(Guard(fence=note.fence), job):
        return Applied(ApplyStatus.STALE, job.state)
    try:
        _add(transaction, job.number, note)
    except (msgspec.MsgspecError, TypeError):
        transaction.set_aside([job.number])
        return Applied(ApplyStatus.GONE)
    return Applied(ApplyStatus.APPLIED, job.state)


def _add(transaction: Transaction, number: int, note: Note) -> None:
    query = "SELECT progress, steps, logs FROM notes WHERE number = ?"
    row = transaction.execute(query, (number,)).fetchone()
    progress, steps, logs = row or (None, None, None)
    if note.progress is not None:
        progress = note.progress
    if note.steps:
        steps = encode(decode_steps(steps) | note.steps)
    if note.log is not None and note.log_index >= len(lines := decode_logs(logs)):
        logs = encode((*lines, note.log))
    transaction.execute(
        "INSERT OR REPLACE INTO notes (number, progress, steps, logs) VALUES (?, ?, ?, ?)",
        (number, progress, steps, logs),
    )
