"""Jobs and documents: which field holds what, and back.

One document per job, `_id` is `queue/id`. Fields that change have their own name; what never
changes is one encoded record in `body`. Beside the record's own fields a document has:

- `rank`, `seq`: its place among the jobs of its queue and state. `rank` is the priority of a
  waiting or active job, `run_at` of a delayed, `created_at` of a blocked, `finished_at` of a
  finished one. `seq` breaks ties, and is a job's place within its priority.
- `line`: its group, if it has one. While such a job waits its state is `lined`, not `waiting`: so
  a claim sees by its first look whether there are lines but the common one.
- `rev`: a number that no other write has: whoever read a document can write it if it is
  unchanged.
- `born`, `ops`: the operation that created it, and the last ones that moved it.
- `claim`, `lapsed`: while active, the operation that leased it, and the worker it was taken from.
- `dedup`: its deduplication key, owned while `finished_at` is absent.
- `expires`, `keep_count`, `expire_at`: when a finished one goes; the server removes it itself
  after `expire_at`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from taskmux.driver import BlockedCause, CorruptRecord, JobRecord, Ref, State

__all__ = [
    "CORRUPT",
    "LINED",
    "OPS_KEPT",
    "REMOVED",
    "Document",
    "encode_field",
    "key_of",
    "new_document",
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

_encode: Final = msgspec.msgpack.Encoder().encode
_body: Final = msgspec.msgpack.Decoder(JobRecord).decode
_error: Final = msgspec.msgpack.Decoder(_FIELDS["error"].type).decode
_history: Final = msgspec.msgpack.Decoder(_FIELDS["history"].type).decode


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


_CODECS: Final[dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]]] = {
    "state": (str, state_of),
    "cause": (str, BlockedCause),
    "priority": (_plain, _integer),
    "created_at": (_plain, _integer),
    "run_at": (_plain, _integer),
    "finished_at": (_plain, _integer),
    "attempts": (_plain, _integer),
    "crashes": (_plain, _integer),
    "children": (_plain, _integer),
    "fence": (_plain, _integer),
    "lease_until": (_plain, _integer),
    "worker": (_plain, _text),
    "started": (_plain, bool),
    "cancel_requested": (_plain, bool),
    "lifo": (_plain, bool),
    "reason": (_plain, _text),
    "result": (_plain, _data),
    "progress": (_plain, _data),
    "error": (_encode, _error),
    "history": (_encode, _history),
    "logs": (list, _lines),
    "steps": (_escaped, _steps),
}
"""By field: how it goes into a document, and how it comes out. A default is not stored."""

_BLANK: Final[dict[str, Any]] = {
    name: _FIELDS[name].default_factory()
    if _FIELDS[name].default is msgspec.NODEFAULT
    else _FIELDS[name].default
    for name in _CODECS
} | {"queue": "", "id": ""}

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
        "body": _encode(replace(job, **(_BLANK_ALWAYS if plain else _BLANK))),
        "state": stored_state(job.state, job.group),
        "priority": job.priority,
        "created_at": now,
        "fence": now,
    }
    if not plain:
        for (name, default, encode), value in zip(_STORED, values, strict=True):
            if value != default:
                document[name] = encode(value)
    if job.group is not None:
        document["line"] = job.group
    if job.dedup is not None:
        document["dedup"] = job.dedup.key
    return document


def record(document: Document) -> JobRecord:
    """Return the record of a document.

    Raises:
        CorruptRecord: it is foreign, damaged or set aside.
    """
    try:
        queue = document["queue"]
        fields = {
            name: codec[1](document[name]) for name, codec in _CODECS.items() if name in document
        }
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
