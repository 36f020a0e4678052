"""Transitions on the wire: what `apply.lua` takes and what it answers.

Transitions of one batch mostly differ in nothing but the job and its values, so what they share
(a shape) is sent once. A batch of a hundred completions is one shape and five values each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import UNSET
from taskmux.driver import Applied, ApplyStatus, Changes, Guard, Transition

from taskmux_redis.records import FIELDS, STATE_LETTERS, STATES

__all__ = ["answers", "encode_transitions"]

_CHANGED: Final = tuple(
    (field.letter, field.name, field.encode)
    for field in FIELDS
    if field.name in Changes.__struct_fields__
)
_STATUSES: Final = {
    b"A": ApplyStatus.APPLIED,
    b"P": ApplyStatus.REPEATED,
    b"S": ApplyStatus.STALE,
    b"G": ApplyStatus.GONE,
    b"C": ApplyStatus.CONFLICT,
    b"Q": ApplyStatus.REQUESTED,
}
_ANSWERS: Final = {
    code + letter: Applied(status, state)
    for code, status in _STATUSES.items()
    for letter, state in (*STATES.items(), (b"-", None))
}


def answers(codes: bytes) -> list[Applied]:
    """Return the answers behind the codes of `apply.lua` or `annotate.lua`, two letters each."""
    return [_ANSWERS[codes[at : at + 2]] for at in range(0, len(codes), 2)]


def encode_transitions(transitions: Sequence[Transition]) -> list[Any]:
    """Return the arguments that `apply.lua` takes after its origin and number."""
    shapes: dict[tuple[Any, ...], int] = {}
    items: list[Any] = []
    for one in transitions:
        setting, unset, values = _changes(one)
        shape = (
            _letters(one.guard),
            "" if one.to is None else STATE_LETTERS[one.to],
            "" if one.run_at is None else one.run_at,
            one.delay,
            one.place.value,
            one.retention.age_ms,
            "" if one.retention.count is None else one.retention.count,
            ("r" if one.remove else "") + ("f" if one.flag else ""),
            setting,
            unset,
        )
        number = shapes.setdefault(shape, len(shapes) + 1)
        fence = one.guard.fence
        items += (number, one.ref.id, "" if fence is None else fence, *values)
    return [
        len(shapes),
        len(transitions),
        *(part for shape in shapes for part in shape),
        *items,
    ]


def _letters(guard: Guard) -> str:
    if guard.states is None:
        return ""
    return "".join(sorted(STATE_LETTERS[state] for state in guard.states))


def _changes(one: Transition) -> tuple[str, str, list[Any]]:
    """Return the letters of the fields to write, of those to drop, and the values."""
    setting, unset = "", ""
    values: list[Any] = []
    for letter, name, encode in _CHANGED:
        value = getattr(one.changes, name)
        if value is UNSET:
            continue
        if value is None or value is False or value == ():
            unset += letter
        else:
            setting += letter
            values.append(encode(value))
    if one.notice is not None:
        setting += "o"
        values.append(one.notice)
    return setting, unset, values
