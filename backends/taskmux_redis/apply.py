"""Apply: transitions as `apply.lua` takes them, and what it answers.

Transitions of one batch mostly differ in nothing but the job and its result, so what they share
(a shape) is sent once, and so are equal fields. What is left for each, its id, its result and a
few digits, goes in one string, the plan: Redis and the client library take long per argument, not
per byte.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

from msgspec import UNSET
from taskmux.driver import (
    Applied,
    ApplyStatus,
    BlockedCause,
    Changes,
    Keep,
    Op,
    Place,
    State,
    Transition,
)

from taskmux_redis.batches import Part, by_queue
from taskmux_redis.records import FIELDS, STATE_LETTERS, STATES, pack_field
from taskmux_redis.scripts import script
from taskmux_redis.store import Store

__all__ = ["answers", "apply", "encode_transitions"]

_APPLY = script("apply")
_CHANGED: Final = tuple(
    (field.letter, field.name, field.encode)
    for field in FIELDS
    if field.name in Changes.__struct_fields__ and field.name != "result"
)
_RESULT: Final = b"y"
_LONGEST_OWN: Final = 65_536
"""Bytes of a result that travels in the plan; a larger one is an argument, of which each has the
server's limit (512 MB) to itself."""

_ways: Final = attrgetter(
    *(
        name
        for name in Transition.__struct_fields__
        if name not in {"ref", "guard", "changes", "tells"}
    )
)
_changed: Final = attrgetter(*(name for name in Changes.__struct_fields__ if name != "result"))

_FLAGS: Final = (("g", "started"), ("z", "cancel_requested"))
_SENT: Final = {"result", *(name for _, name, _ in _CHANGED), *(name for _, name in _FLAGS)}
if _LOST := set(Changes.__struct_fields__) - _SENT:
    raise TypeError(f"The Redis driver would lose changes of {sorted(_LOST)}")
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


class _Shape(NamedTuple):
    """What transitions of one batch share."""

    states: frozenset[State] | None
    cause: BlockedCause | None
    to: State | None
    run_at: int | None
    delay: int
    place: Place
    retention: Keep
    remove: bool
    flag: bool
    flags: str
    unset: bytes
    rest: str
    """`h` for the queue or `l` for the job's line, and milliseconds; empty for none."""

    def spelt(self) -> tuple[Any, ...]:
        """Return the shape as `apply.lua` takes it."""
        kept = self.retention.count
        return (
            "".join(sorted(STATE_LETTERS[state] for state in self.states or ())),
            "" if self.cause is None else self.cause.value,
            "" if self.to is None else STATE_LETTERS[self.to],
            "" if self.run_at is None else self.run_at,
            self.delay,
            self.place.value,
            self.retention.age_ms,
            "" if kept is None else kept,
            ("r" if self.remove else "") + ("f" if self.flag else "") + self.flags + self.rest,
            self.unset,
        )


async def apply(store: Store, op: Op, transitions: Sequence[Transition]) -> list[Applied]:
    """Apply guarded transitions, each queue's by itself."""

    async def send(queue: str, part: Part, ones: Sequence[Transition]) -> list[Applied]:
        arguments = encode_transitions(ones)
        origin = f"{op.origin} apply{part.name}"
        return answers(
            await store.run(queue, _APPLY, origin, op.number, *arguments, size=part.size)
        )

    return await by_queue(transitions, _queue_of, send, _size)


_queue_of = attrgetter("ref.queue")


def _size(one: Transition) -> int:
    result, payload = one.changes.result, one.changes.payload
    return (len(result) if isinstance(result, bytes) else 0) + (
        len(payload) if isinstance(payload, bytes) else 0
    )


def answers(codes: bytes) -> list[Applied]:
    """Return the answers behind the codes of `apply.lua` or `annotate.lua`, two letters each."""
    return [_ANSWERS[codes[at : at + 2]] for at in range(0, len(codes), 2)]


def encode_transitions(transitions: Sequence[Transition]) -> list[Any]:
    """Return the arguments that `apply.lua` takes after its origin and number."""
    shapes: dict[_Shape, int] = {}
    settings: dict[bytes, int] = {}
    known: dict[Hashable, bytes] = {}
    plan: list[bytes] = []
    told: list[Any] = []
    for place, one in enumerate(transitions, 1):
        if one.tells is not None:
            told += (place, one.tells)
        result = one.changes.result
        own = large = b""
        if isinstance(result, bytes):
            packed = pack_field(_RESULT, result)
            own, large = (packed, b"") if len(packed) <= _LONGEST_OWN else (b"", packed)
        guard = one.guard
        alike = (
            guard.states,
            guard.cause,
            _ways(one),
            _changed(one.changes),
            result is None,
            large,
        )
        way = known.get(alike)
        if way is None:
            setting, shape = _described(one)
            way = known[alike] = b"%03d%03d" % (
                shapes.setdefault(shape, len(shapes) + 1),
                settings.setdefault(setting + large, len(settings) + 1),
            )
        fence, job_id = guard.fence or 0, one.ref.id.encode()
        plan.append(b"%b%013d%04d%010d%b%b" % (way, fence, len(job_id), len(own), job_id, own))
    spelt = [part for shape in shapes for part in shape.spelt()]
    return [len(shapes), len(settings), len(plan), b"".join(plan), *spelt, *settings, *told]


def _described(one: Transition) -> tuple[bytes, _Shape]:
    """Return the fields that a transition sets, and its shape."""
    setting, unset, flags = _changes(one)
    shape = _Shape(
        one.guard.states,
        one.guard.cause,
        one.to,
        one.run_at,
        one.delay,
        one.place,
        one.retention,
        one.remove,
        one.flag,
        flags,
        unset,
        f"{'l' if one.hold_line else 'h'}{one.hold}" if one.hold else "",
    )
    return setting, shape


def _changes(one: Transition) -> tuple[bytes, bytes, str]:
    """Return the fields to set as a live string has them, letters to drop, and flags."""
    changes = one.changes
    setting, unset = b"", _RESULT if changes.result is None else b""
    for letter, name, encode in _CHANGED:
        value = getattr(changes, name)
        if value is UNSET:
            continue
        if value is None or value == ():
            unset += letter
        else:
            setting += pack_field(letter, encode(value))
    flags = ""
    for letter_of_flag, name in _FLAGS:
        value = getattr(changes, name)
        if value is not UNSET:
            flags += f"{letter_of_flag}{value:d}"
    return setting, unset, flags
