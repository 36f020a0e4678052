"""Records and documents: which field of a job is where in MongoDB, and back.

One document per job, `_id` is `queue/id`. Every field of `JobRecord` that can change has its own
name there; what never changes is one encoded record in `body`. Beside the record's own fields a
document has:

- `rank`, `seq`: its place among the jobs of its queue and state. `rank` is the priority of a
  waiting or active job, `run_at` of a delayed, `created_at` of a blocked, `finished_at` of a
  finished one. `seq` breaks ties, and is a job's place within its priority.
- `line`: its group, if it has one. A waiting job with a group has the state `lined`, not
  `waiting`: so the first look of a claim shows whether any group has jobs.
- `rev`: a number that no other write has. Whoever read a document writes it only if it still has
  the same `rev`.
- `born`, `ops`: the operation that created it, and the last ones that changed it.
- `unwaited`: it was created delayed or blocked, and has not been waiting yet; its `seq` is then no
  place in line.
- `restated`: it has the content of a later push; whether that brought it into another state.
- `claim`, `lapsed`: while active, the operation that leased it, and the worker it was taken from.
- `dedup`, `ttl`: its deduplication key, and for how long it owns that when it takes it.
- `owns`, `until`, `follows`, `followed`: how keys are owned; see `taskmux_mongodb.dedup`. `heed`:
  its end has to be looked at more closely, since it owns a key for a time, or somebody follows.
- `expires`, `keep_count`, `expire_at`: when a finished one may go; the server removes it itself
  after `expire_at`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter, or_
from typing import Annotated, Any, Final, get_args, get_origin

import msgspec
from msgspec.structs import replace
from taskmux.driver import BlockedCause, CorruptRecord, JobRecord, Ref, State

__all__ = [
    "CORRUPT",
    "FIXED",
    "LINED",
    "OPS_KEPT",
    "OUTLINE",
    "REMOVED",
    "Document",
    "encode_field",
    "key_of",
    "new_document",
    "outline",
    "owned_by",
    "owned_key",
    "packed",
    "readable",
    "record",
    "ref_of",
    "state_of",
    "step_field",
    "stored_state",
]

Document = dict[str, Any]

REMOVED: Final = "removed"
"""The state of a tombstone: it remembers operations, and is no job any more."""

CORRUPT: Final = "corrupt"
"""The state of a document that was set aside."""

LINED: Final = "lined"
"""The state of a waiting job that has a group."""

OPS_KEPT: Final = 8
"""How many operations a document remembers: the last of so many origins can be repeated."""

_FIELDS: Final = {field.name: field for field in msgspec.structs.fields(JobRecord)}

packed: Final = msgspec.msgpack.Encoder().encode
_body: Final = msgspec.msgpack.Decoder(JobRecord).decode


def _integer(value: Any) -> int:
    # BSON's 64-bit integers come as a subclass of int, which is no business of the core's.
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no integer")
    return int(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _data(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"{value!r} is not binary")
    return value


def _lines(value: Any) -> tuple[str, ...]:
    return tuple(_text(line) for line in value)


def _steps(value: Mapping[str, Any]) -> dict[str, bytes]:
    return {_unescape(name): _data(result) for name, result in value.items()}


def state_of(text: Any) -> State:
    """Return the state that a document is in.

    Raises:
        ValueError: it is none of a job's.
    """
    return State.WAITING if text == LINED else State(text)


_TEXTS: Final = {state: state.value for state in State}


def stored_state(state: State, line: str | None) -> str:
    """Return the state as a document of this line has it."""
    return LINED if state is State.WAITING and line is not None else _TEXTS[state]


def _plain(value: Any) -> Any:
    return value


def _escaped(steps: Mapping[str, bytes]) -> Document:
    return {_escape(name): result for name, result in steps.items()}


def _escape(name: str) -> str:
    for char in "%.$\0":
        name = name.replace(char, f"%{ord(char):02x}")
    return f"_{name}"


def _unescape(name: str) -> str:
    for char in "\0$.%":
        name = name.replace(f"%{ord(char):02x}", char)
    return name[1:]


Codec = tuple[Callable[[Any], Any], Callable[[Any], Any]]
"""How a value goes into a document, and how it comes out."""

_CODEC_OF: Final[dict[Any, Codec]] = {
    State: (str, state_of),
    BlockedCause: (str, BlockedCause),
    int: (_plain, _integer),
    bool: (_plain, bool),
    str: (_plain, _text),
    bytes: (_plain, _data),
    tuple[str, ...]: (list, _lines),
    dict[str, bytes]: (_escaped, _steps),
}
"""By type of a field. A field of any other type is stored as MessagePack."""


def _codec(hint: Any) -> Codec:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if type(None) in get_args(hint):
        hint = functools.reduce(or_, (one for one in get_args(hint) if one is not type(None)))
    return _CODEC_OF.get(hint) or (packed, msgspec.msgpack.Decoder(hint).decode)


FIXED: Final = frozenset(
    {"queue", "id", "task", "payload", "headers", "policy", "group", "tags", "dedup", "parent"}
    | {"schedule", "slot"}
)
"""Fields that push sets for good. All others can change, and have a codec."""

_CODECS: Final[dict[str, Codec]] = {
    name: _codec(field.type) for name, field in _FIELDS.items() if name not in FIXED
}
"""By field that can change. A default is not stored."""

_REPLACED: Final[dict[str, Codec]] = {"payload": (_plain, _data)}
"""Fields of the body that are stored beside it once they are not as pushed any more."""

_BLANK: Final[dict[str, Any]] = {
    name: _FIELDS[name].default_factory()
    if _FIELDS[name].default is msgspec.NODEFAULT
    else _FIELDS[name].default
    for name in _CODECS
} | {"queue": "", "id": ""}

_READ: Final = (*_CODECS.items(), *_REPLACED.items())
_ALWAYS: Final = ("state", "priority", "created_at", "fence")
_NEEDED: Final = ("priority", "created_at", "fence", "rank", "seq", "rev")
_STORED: Final = tuple(
    (name, _BLANK[name], codec[0]) for name, codec in _CODECS.items() if name not in _ALWAYS
)
_stored_values: Final = attrgetter(*(name for name, _, _ in _STORED))
_DEFAULTS: Final = tuple(default for _, default, _ in _STORED)
_BLANK_ALWAYS: Final = {name: _BLANK[name] for name in ("queue", "id", *_ALWAYS)}
_UNREADABLE: Final = (ValueError, LookupError, TypeError, AttributeError, msgspec.MsgspecError)


def key_of(job: Ref | JobRecord) -> str:
    """Return the `_id` of a job. Queue names have no slash, so no two jobs share one."""
    return f"{job.queue}/{job.id}"


def ref_of(key: Any) -> Ref:
    """Return the job that an `_id` names, as well as it can be told."""
    queue, _, job_id = str(key).partition("/")
    return Ref(queue, job_id)


def step_field(name: str) -> str:
    """Return the path of a step's result, whatever characters its name has."""
    return f"steps.{_escape(name)}"


def encode_field(name: str, value: Any) -> Any:
    """Return a field of the record as a document holds it; None: it is not stored."""
    if name in _REPLACED:
        return _REPLACED[name][0](value)
    if value is None or value == _BLANK[name]:
        return value if name in _ALWAYS else None
    return _CODECS[name][0](value)


def new_document(job: JobRecord, born: str, now: int, seq: int, rank: int) -> Document:
    """Return the document of a job created now; its own number is also its first `rev`."""
    values = _stored_values(job)
    plain = values == _DEFAULTS  # most are, and a producer's speed is how fast this is done
    document: Document = {
        "_id": key_of(job),
        "queue": job.queue,
        "rank": rank,
        "seq": seq,
        "rev": abs(seq),
        "born": born,
        "body": packed(replace(job, **(_BLANK_ALWAYS if plain else _BLANK))),
        "state": stored_state(job.state, job.group),
        "priority": job.priority,
        "created_at": now,
        "fence": now,
    }
    if not plain:
        for (name, default, encode), value in zip(_STORED, values, strict=True):
            if value != default:
                document[name] = encode(value)
    if job.state is not State.WAITING:
        document["unwaited"] = True
    if job.group is not None:
        document["line"] = job.group
    if job.dedup is not None:
        document["dedup"] = job.dedup.key
        if job.dedup.ttl is not None:
            document["ttl"] = job.dedup.ttl
        document |= owned_by(job, now)
    return document


def owned_key(queue: str, key: str) -> str:
    """Return what a document that owns a deduplication key of a queue has in `owns`."""
    return f"{queue}/{key}"


def owned_by(job: JobRecord, now: int) -> Document:
    """Return the fields by which a job owns its key from now on."""
    if job.dedup is None:
        return {}
    owns = {"owns": owned_key(job.queue, job.dedup.key)}
    if job.dedup.ttl is None:
        return owns
    return owns | {"until": now + job.dedup.ttl, "heed": True}


def record(document: Document) -> JobRecord:
    """Return the record of a document.

    Raises:
        CorruptRecord: it is foreign, damaged or set aside.
    """
    try:
        queue = document["queue"]
        fields = {name: codec[1](document[name]) for name, codec in _READ if name in document}
        for name in _NEEDED:
            _integer(document[name])
        fields["state"] = state_of(document["state"])
        job_id = document["_id"][len(queue) + 1 :]
        return replace(_body(document["body"]), queue=queue, id=job_id, **fields)
    except _UNREADABLE as error:
        raise CorruptRecord(
            f"Job {ref_of(document.get('_id'))} cannot be read ({type(error).__name__}: "
            f"{str(error)[:100]}). It is set aside and the queue goes on; look at the document, "
            f"then delete it."
        ) from None


OUTLINE: Final = dict.fromkeys(
    ("state", "fence", "priority", "created_at", "cause", "cancel_requested", "line", "rev"), 1
)
"""What `outline` needs of a document."""


def outline(document: Document | None) -> JobRecord | None:
    """Return what decides how a transition of this job goes; None if the document is no job.

    That is a tombstone, a document that was set aside, or one of another program.
    """
    if document is None:
        return None
    try:
        cause = document.get("cause")
        _integer(document["rev"])
        return JobRecord(
            queue="",
            id="",
            task="",
            state=state_of(document["state"]),
            fence=_integer(document["fence"]),
            priority=_integer(document["priority"]),
            created_at=_integer(document["created_at"]),
            cause=None if cause is None else BlockedCause(cause),
            cancel_requested=bool(document.get("cancel_requested")),
            group=document.get("line"),
        )
    except _UNREADABLE:
        return None


def readable(documents: Iterable[Document]) -> tuple[list[JobRecord], list[Any]]:
    """Return the records of documents, and the `_id`s of those that cannot be read."""
    jobs: list[JobRecord] = []
    corrupt: list[Any] = []
    for document in documents:
        try:
            jobs.append(record(document))
        except CorruptRecord:
            corrupt.append(document["_id"])
    return jobs, corrupt
