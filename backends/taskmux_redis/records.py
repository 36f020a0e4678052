"""The stored form of a job: the work as pushed, written once, and a live string of what changes.

`work` is a stamp (when the job was created, and a number that tells jobs of one millisecond
apart), the group of a job that has one (the length of its name in three digits, then the name),
and the rest as MessagePack. The live string comes with the first change; `lua/lib/live.lua` gives
its layout. Its fields have one letter each, because a million of them are kept:

```
p priority   l lifo      k dedup key   i children   c cause     r run_at    e finished
n attempts   m crashes   u reason      y result     x error     h history
t kept count   g group         b payload, if it is not as pushed any more
```

Notes of a running job are a hash of its own: `v` progress, `$name` a step, `#0` a line of its
log, `#` how many lines there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
from taskmux.driver import (
    Attempt,
    BlockedCause,
    CorruptRecord,
    Dedup,
    ErrorInfo,
    FindAsk,
    JobRecord,
    NewJob,
    Parent,
    Policy,
    Ref,
    State,
)

__all__ = [
    "FIELDS",
    "STATES",
    "STATE_LETTERS",
    "encode_new",
    "needles",
    "pack_field",
    "places",
    "read_job",
]

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
_WORKER = 36  # lua/lib/live.lua
_YES = ord("1")


_SHORT = {
    "task": "t",
    "payload": "p",
    "headers": "h",
    "policy": "o",
    "tags": "g",
    "parent": "a",
    "schedule": "s",
    "slot": "i",
}


class Work(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, rename=_SHORT):
    """What a job is from push to the end, as it is stored: fields of `JobRecord`, by its names."""

    task: str
    payload: bytes = b"{}"
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    policy: Policy = Policy()
    tags: tuple[str, ...] = ()
    parent: Parent | None = None
    schedule: str | None = None
    slot: int | None = None


_WORK: Final = Work.__struct_fields__
_work_of = attrgetter(*_WORK)
_work_encoder = msgspec.msgpack.Encoder()
_work_decoder = msgspec.msgpack.Decoder(Work)
_pack = _work_encoder.encode


def _unpacker(kind: Any) -> Callable[[bytes], Any]:
    return msgspec.msgpack.Decoder(kind).decode


def _flag(value: bytes) -> bool:
    return value == b"1"


class Field(msgspec.Struct, frozen=True):
    """How a field of a record is stored: its letter, and the way there and back."""

    letter: bytes
    name: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def _number(value: int) -> bytes:
    return b"%d" % value


def _same(value: bytes) -> bytes:
    return value


_SEPARATOR: Final = "\x1f"
_MODES: Final = {"r": "replace", "e": "extend", "l": "latest"}


def _dedup_text(dedup: Dedup) -> str:
    """Return what is stored of a key: the key alone, or with its ttl and the letters of modes."""
    if dedup.is_plain:
        return dedup.key
    modes = "".join(letter for letter, name in _MODES.items() if getattr(dedup, name))
    ttl = "" if dedup.ttl is None else str(dedup.ttl)
    return _SEPARATOR.join((dedup.key, ttl, modes))


def _dedup(stored: bytes) -> Dedup:
    key, *more = stored.decode().split(_SEPARATOR)
    if not more:
        return Dedup(key)
    ttl, modes = more
    said = {name: letter in modes for letter, name in _MODES.items()}
    return Dedup(key, int(ttl) if ttl else None, **said)


FIELDS: Final = (
    Field(b"n", "attempts", _number, int),
    Field(b"m", "crashes", _number, int),
    Field(b"y", "result", _same, _same),
    Field(b"u", "reason", str.encode, bytes.decode),
    Field(b"x", "error", _pack, _unpacker(ErrorInfo)),
    Field(b"h", "history", _pack, _unpacker(tuple[Attempt, ...])),
    Field(b"p", "priority", _number, int),
    Field(b"c", "cause", str.encode, lambda value: BlockedCause(value.decode())),
    Field(b"i", "children", _number, int),
    Field(b"l", "lifo", _number, _flag),
    Field(b"k", "dedup", lambda dedup: _dedup_text(dedup).encode(), _dedup),
    Field(b"r", "run_at", _number, int),
    Field(b"e", "finished_at", _number, int),
    Field(b"b", "payload", _same, _same),
)
_BY_LETTER: Final = {field.letter: field for field in FIELDS}
_NAMES = JobRecord.__struct_fields__
_DEFAULTS = dict(zip(reversed(_NAMES), reversed(JobRecord.__struct_defaults__), strict=False))
_PUSHED: Final = tuple(
    (field, _DEFAULTS[field.name])
    for field in FIELDS
    if field.name not in {"finished_at", "payload"}
)
_PLAIN_NAMES = ("state", "progress", "steps", "logs", *(field.name for field, _ in _PUSHED))
_as_plain: Final = attrgetter(*_PLAIN_NAMES)
_PLAIN: Final = _as_plain(JobRecord(queue="", id="", task=""))
"""What nearly every new job has there: nothing of its own."""
_UNREADABLE = (ValueError, LookupError, TypeError, msgspec.MsgspecError)


def places() -> dict[str, str]:
    """Return where each field of `JobRecord` is stored.

    Raises:
        TypeError: a field has no place, and would be lost in silence.
    """
    placed = dict.fromkeys(_WORK, "work") | {field.name: "live field" for field in FIELDS}
    placed |= dict.fromkeys(("queue", "id"), "key")
    placed |= dict.fromkeys(("created_at", "group"), "head of work")
    placed |= dict.fromkeys(("state", "cancel_requested", "started", "fence"), "head of live")
    placed |= {"worker": "live", "lease_until": "leases"}
    placed |= dict.fromkeys(("progress", "logs", "steps"), "notes")
    if lost := set(_NAMES).symmetric_difference(placed):
        raise TypeError(f"The Redis driver has no place for, or wrongly has: {sorted(lost)}")
    return placed


places()


def pack_field(letter: bytes, value: bytes) -> bytes:
    """Return one field as a live string holds it."""
    return b"%b%d:%b" % (letter, len(value), value)


def encode_new(new: NewJob) -> list[Any]:
    """Return the arguments that `push.lua` takes for one job."""
    job = new.job
    packed = _pack(Work(*_work_of(job)))
    if job.group is not None:
        name = job.group.encode()
        packed = b"%03d%b%b" % (len(name), name, packed)
    if _as_plain(job) == _PLAIN:
        return [job.id, packed, b""]
    state = job.state
    fields = b""
    for field, default in _PUSHED:
        value = getattr(job, field.name)
        if value is not default and value != default:
            fields += pack_field(field.letter, field.encode(value))
    if state is State.DELAYED and job.run_at is None:
        fields += pack_field(b"d", b"%d" % new.delay)
    notes = _notes(job)
    head = STATE_LETTERS[state].encode() + (b"1" if notes else b"0")
    return [job.id, packed, head + fields, *notes]


def _notes(job: JobRecord) -> list[Any]:
    """Return the count and the pairs of the notes that a new job brings along."""
    pairs: list[Any] = []
    if job.progress is not None:
        pairs += ("v", job.progress)
    for name, result in job.steps.items():
        pairs += (f"${name}", result)
    for at, line in enumerate(job.logs):
        pairs += (f"#{at}", line)
    if job.logs:
        pairs += ("#", len(job.logs))
    return [len(pairs) // 2, *pairs] if pairs else []


def needles(ask: FindAsk) -> tuple[bytes, bytes, bytes, bytes]:
    """Return what the stored strings of wanted jobs have in them; b"" for any.

    That is the task, the tag, the cause, and the error.
    """
    return (
        b"" if ask.task is None else _pack(_SHORT["task"]) + _pack(ask.task),
        b"" if ask.tag is None else _pack(ask.tag),
        b"" if ask.cause is None else pack_field(b"c", ask.cause.encode()),
        b"" if ask.error is None else ask.error.encode(),
    )


class Lease(msgspec.Struct, frozen=True):
    """What a claim has just written on every job that it leased."""

    worker: str
    until: int


def read_job(queue: str, row: Sequence[Any], lease: Lease | None = None) -> JobRecord:
    """Return the record of a row: id, work, lease end, live string, notes; the last three or None.

    With a `lease`, the row is as it was before the claim that wrote it.

    Raises:
        CorruptRecord: what is stored is not a job of this driver.
    """
    job_id, work, lease_end, live, notes = row
    try:
        if live is None and lease is not None:
            job = _first_claimed(queue, job_id.decode(), work, lease)
            if job is not None:
                return job
        fields = _as_pushed(queue, job_id.decode(), work)
        if live is not None:
            _overlay(fields, live, lease_end)
        if notes:
            _annotate(fields, notes)
        if lease is not None:
            fields["fence"] += 1
            fields["state"] = State.ACTIVE
            fields["worker"], fields["lease_until"] = lease.worker, lease.until
        return JobRecord(**fields)
    except _UNREADABLE as error:
        shown = Ref(queue, job_id.decode(errors="replace"))
        raise CorruptRecord(
            f"The record of {shown} cannot be read ({type(error).__name__}): something else wrote "
            f"under this prefix, or a newer taskmux. Look at its fields in the hashes `work` and "
            f"`live`, then remove them."
        ) from None


def _first_claimed(queue: str, job_id: str, stored: bytes, lease: Lease) -> JobRecord | None:
    """Return a job at its first claim, in one step: nearly every job comes through here.

    None for one with fields that few have. Python makes a dictionary for a call of more than 15
    named arguments, which takes three times as long.
    """
    created_at = int(stored[:_CREATED])
    group, at = _group_in(stored)
    work = _work_decoder.decode(stored[at:])
    if work.parent is not None or work.schedule is not None or work.slot is not None:
        return None
    return JobRecord(
        queue=queue,
        id=job_id,
        task=work.task,
        payload=work.payload,
        headers=work.headers,
        policy=work.policy,
        group=group,
        tags=work.tags,
        state=State.ACTIVE,
        created_at=created_at,
        fence=created_at + 1,
        worker=lease.worker,
        lease_until=lease.until,
    )


def _as_pushed(queue: str, job_id: str, stored: bytes) -> dict[str, Any]:
    """Return the fields of a job as it was pushed."""
    created_at = int(stored[:_CREATED])
    group, at = _group_in(stored)
    fields = msgspec.structs.asdict(_work_decoder.decode(stored[at:]))
    return fields | {
        "queue": queue,
        "id": job_id,
        "group": group,
        "created_at": created_at,
        "fence": created_at,
    }


def _group_in(stored: bytes) -> tuple[str | None, int]:
    """Return a job's group, and where its packed work begins, which is no digit."""
    if not stored[_STAMP : _STAMP + 1].isdigit():
        return None, _STAMP
    start = _STAMP + 3
    end = start + int(stored[_STAMP:start])
    return stored[start:end].decode(), end


def _overlay(fields: dict[str, Any], live: bytes, lease_end: bytes | None) -> None:
    """Add what a live string says."""
    at = _WORKER + int(live[_WORKER - 3 : _WORKER])
    state = STATES[live[:1]]
    fields["state"] = state
    fields["cancel_requested"] = live[1] == _YES
    fields["fence"] = int(live[4:17])
    if state is State.ACTIVE:
        fields["started"] = live[2] == _YES
        fields["worker"] = live[_WORKER:at].decode()
        fields["lease_until"] = None if lease_end is None else int(lease_end)
    while at < len(live):
        colon = live.index(b":", at)
        end = colon + 1 + int(live[at + 1 : colon])
        field = _BY_LETTER.get(live[at : at + 1])
        if field is not None:
            fields[field.name] = field.decode(live[colon + 1 : end])
        at = end


def _annotate(fields: dict[str, Any], notes: Sequence[bytes]) -> None:
    items = iter(notes)
    lines: dict[int, str] = {}
    steps: dict[str, bytes] = {}
    for name, value in zip(items, items, strict=True):
        if name == b"v":
            fields["progress"] = value
        elif name[:1] == b"$":
            steps[name[1:].decode()] = value
        elif name != b"#":
            lines[int(name[1:])] = value.decode()
    fields["logs"] = tuple(lines[at] for at in sorted(lines))
    fields["steps"] = steps
