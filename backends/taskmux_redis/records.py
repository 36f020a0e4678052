"""The stored form of a job: the work as pushed, written once, and a hash of what changes.

The hash has a field for each thing that differs from a new waiting job. Its names are one letter
each, because a million of them are kept:

```
s state       p priority   l lifo        k dedup key    i children   c cause
r run_at      e finished   f fence       w worker       g started    z cancel requested
n attempts    m crashes    u reason      y result       x error      h history   o notice
v progress    q last score t kept count  # log lines    #0 a log line   $name a step
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import force_setattr
from taskmux.driver import (
    BlockedCause,
    CorruptRecord,
    Dedup,
    JobRecord,
    NewJob,
    Policy,
    Ref,
    State,
)
from taskmux.job import Attempt, ErrorInfo, Parent

__all__ = ["FIELDS", "STATES", "STATE_LETTERS", "Flat", "encode_new", "read_job"]

Flat = list[bytes | int]
"""Field, value, field, value, ... as Redis returns a hash."""

STATE_LETTERS: Final = {
    State.WAITING: "w",
    State.DELAYED: "d",
    State.BLOCKED: "b",
    State.ACTIVE: "a",
    State.COMPLETED: "c",
    State.DEAD: "f",
    State.CANCELLED: "k",
    State.MOVED: "m",
}
STATES: Final = {letter.encode(): state for state, letter in STATE_LETTERS.items()}
_STAMP = 23  # lua/lib/stamp.lua
_CREATED = 13


_SHORT = {
    "task": "t",
    "payload": "p",
    "headers": "h",
    "policy": "o",
    "tags": "g",
    "group": "l",
    "parent": "a",
    "schedule": "s",
    "slot": "i",
}


class Work(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, rename=_SHORT):
    """What a job is from push to the end, as it is stored."""

    task: str
    payload: bytes = b"{}"
    headers: dict[str, str] | None = None
    policy: Policy = Policy()
    tags: tuple[str, ...] = ()
    group: str | None = None
    parent: Parent | None = None
    schedule: str | None = None
    slot: int | None = None


_work_encoder = msgspec.msgpack.Encoder()
_work_decoder = msgspec.msgpack.Decoder(Work)
_pack = _work_encoder.encode


def _unpacker(kind: Any) -> Callable[[bytes], Any]:
    return msgspec.msgpack.Decoder(kind).decode


def _text(value: bytes) -> str:
    return value.decode()


def _flag(value: bytes) -> bool:
    return value == b"1"


class Field(msgspec.Struct, frozen=True):
    """How a field of a record is stored: its letter, and the way there and back."""

    letter: str
    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


FIELDS: Final = (
    Field("n", "attempts", int, int),
    Field("m", "crashes", int, int),
    Field("g", "started", int, _flag),
    Field("p", "priority", int, int),
    Field("c", "cause", str, lambda value: BlockedCause(value.decode())),
    Field("u", "reason", str, _text),
    Field("y", "result", bytes, bytes),
    Field("x", "error", _pack, _unpacker(ErrorInfo)),
    Field("h", "history", _pack, _unpacker(tuple[Attempt, ...])),
    Field("z", "cancel_requested", int, _flag),
    Field("o", "notice", bytes, bytes),
    Field("v", "progress", bytes, bytes),
    Field("i", "children", int, int),
    Field("l", "lifo", int, _flag),
    Field("k", "dedup", lambda dedup: dedup.key, lambda value: Dedup(value.decode())),
    Field("s", "state", STATE_LETTERS.__getitem__, STATES.__getitem__),
    Field("r", "run_at", int, int),
    Field("e", "finished_at", int, int),
    Field("f", "fence", int, int),
    Field("w", "worker", str, _text),
)
_DECODERS: Final = {field.letter.encode(): field for field in FIELDS}
_NAMES = JobRecord.__struct_fields__
_DEFAULTS = dict(zip(reversed(_NAMES), reversed(JobRecord.__struct_defaults__), strict=False))
_SET_BY_STORE = "efgw"
_PUSHED: Final = tuple(
    (field, _DEFAULTS[field.name]) for field in FIELDS if field.letter not in _SET_BY_STORE
)
_ONLY_ACTIVE = (b"w", b"g")
_OUR_OWN = (b"q", b"t", b"#")
_UNREADABLE = (ValueError, LookupError, TypeError, msgspec.MsgspecError)


def encode_new(new: NewJob) -> list[Any]:
    """Return the arguments that `push.lua` takes for one job."""
    job = new.job
    work = Work(
        job.task,
        job.payload,
        job.headers or None,
        job.policy,
        job.tags,
        job.group,
        job.parent,
        job.schedule,
        job.slot,
    )
    pairs: list[Any] = []
    for field, default in _PUSHED:
        value = getattr(job, field.name)
        if value != default:
            pairs += (field.letter, field.encode(value))
    if job.state is State.DELAYED and job.run_at is None:
        pairs += ("delay", new.delay)
    for at, line in enumerate(job.logs):
        pairs += (f"#{at}", line)
    if job.logs:
        pairs += ("#", len(job.logs))
    for name, result in job.steps.items():
        pairs += (f"${name}", result)
    return [job.id, _pack(work), len(pairs) // 2, *pairs]


def read_job(queue: str, row: Sequence[Any]) -> JobRecord:
    """Return the record of `[id, string, _, fields and values, ...]`, as scripts return one.

    Raises:
        CorruptRecord: what is stored is not a job of this driver.
    """
    job_id, stored, _, flat, *_ = row
    try:
        record = _as_pushed(queue, job_id.decode(), stored)
        if flat:
            _overlay(record, flat)
    except _UNREADABLE as error:
        shown = Ref(queue, job_id.decode(errors="replace"))
        raise CorruptRecord(
            f"The record of {shown} cannot be read ({type(error).__name__}): something else wrote "
            f"under this prefix, or a newer taskmux. Look at its keys, then remove them."
        ) from None
    return record


def _as_pushed(queue: str, job_id: str, stored: bytes) -> JobRecord:
    created_at = int(stored[:_CREATED])
    work = _work_decoder.decode(stored[_STAMP:])
    return JobRecord(
        queue=queue,
        id=job_id,
        task=work.task,
        payload=work.payload,
        headers=work.headers or {},
        policy=work.policy,
        tags=work.tags,
        group=work.group,
        parent=work.parent,
        schedule=work.schedule,
        slot=work.slot,
        created_at=created_at,
        fence=created_at,
    )


def _overlay(record: JobRecord, flat: Flat) -> None:
    """Write what has changed onto a record that nobody has seen yet."""
    items = iter(flat)
    fields: dict[bytes, Any] = dict(zip(items, items, strict=True))  # type: ignore[arg-type]
    lines: dict[int, str] = {}
    steps: dict[str, bytes] = {}
    active = fields.get(b"s") == b"a"
    for letter, value in fields.items():
        field = _DECODERS.get(letter)
        if field is not None:
            if active or letter not in _ONLY_ACTIVE:
                force_setattr(record, field.name, field.decode(value))
        elif letter[:1] == b"$":
            steps[letter[1:].decode()] = value
        elif letter not in _OUR_OWN:
            lines[int(letter[1:])] = value.decode()
    if lines:
        force_setattr(record, "logs", tuple(lines[at] for at in sorted(lines)))
    if steps:
        force_setattr(record, "steps", steps)
