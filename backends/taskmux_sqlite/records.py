"""Records: what of a job goes to which column, and back.

A field that changes while the job lives has a column of its own in `jobs`, or in `notes`. All
others are in the body: one encoded record in which the fields that have a column are left out. So
a field that `JobRecord` gets later is stored in the body, and read back, without a change here.
How a column stores a field follows from the field's type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Final

import msgspec
from msgspec import convert, inspect
from msgspec.structs import astuple, replace
from taskmux.driver import CorruptRecord, Dedup, JobRecord, QueueSettings, Ref

__all__ = [
    "BODY",
    "ERROR",
    "LARGEST",
    "PRIORITY",
    "ROW",
    "SEQUENCE",
    "WITH_COLUMN",
    "Row",
    "decode_logs",
    "decode_settings",
    "decode_steps",
    "encode",
    "encoded",
    "new_body",
    "new_columns",
    "new_notes",
    "readable",
    "record",
    "text",
    "to_columns",
]

Row = tuple[Any, ...]

IN_JOBS: Final = {
    name: name
    for name in (
        "state",
        "cause",
        "priority",
        "lifo",
        "created_at",
        "run_at",
        "finished_at",
        "attempts",
        "crashes",
        "children",
        "reason",
        "fence",
        "worker",
        "lease_until",
        "started",
        "cancel_requested",
        "result",
        "error",
        "history",
    )
} | {"group": "line"}
"""The fields that have a column in `jobs`, and the column's name."""

IN_NOTES: Final = ("progress", "steps", "logs")
"""The fields that have a column in `notes`."""

WITH_COLUMN: Final = (*IN_JOBS, *IN_NOTES)

_IDENTITY: Final = ("number", "queue", "id", "sequence", "body")
"""What a row begins with."""

ROW: Final = ", ".join((*_IDENTITY, *IN_JOBS.values(), *IN_NOTES))
"""The columns of the view `records` that make a record, in the order that `record` expects."""

BODY: Final = _IDENTITY.index("body")
SEQUENCE: Final = _IDENTITY.index("sequence")
PRIORITY: Final = len(_IDENTITY) + list(IN_JOBS).index("priority")
ERROR: Final = len(_IDENTITY) + list(IN_JOBS).index("error")
"""Where these are in a row."""

LARGEST: Final = 2**53
"""So far from the largest integer of SQLite that it can be counted up."""

_Number = Annotated[int, msgspec.Meta(ge=-LARGEST, le=LARGEST)]

_FIELDS: Final = {field.name: field for field in msgspec.structs.fields(JobRecord)}

encode: Final = msgspec.msgpack.Encoder().encode
_steps: Final = msgspec.msgpack.Decoder(dict[str, bytes]).decode
_logs: Final = msgspec.msgpack.Decoder(tuple[str, ...]).decode
_body: Final = msgspec.msgpack.Decoder(JobRecord).decode
_settings: Final = msgspec.msgpack.Decoder(QueueSettings).decode


def encoded(value: object) -> bytes | None:
    """Return a structured field as its column stores it: NULL if it is empty."""
    return encode(value) if value else None


# -- what is in a column ------------------------------------------------------------------------


class _Codec(msgspec.Struct, frozen=True):
    """How a column stores a field: None where it has the value itself. None itself is NULL."""

    type: Any
    """What the column's value must be. SQLite itself takes a value of any type in any column."""
    encode: Callable[[Any], object] | None = None
    decode: Callable[[Any], Any] | None = None


def _codec(field: msgspec.structs.FieldInfo) -> _Codec:
    kind = inspect.type_info(field.type)
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    match [one for one in kinds if not isinstance(one, inspect.NoneType)]:
        case [inspect.IntType()]:
            return _Codec(_Number | None if len(kinds) > 1 else _Number)
        case [inspect.StrType() | inspect.BytesType()]:
            return _Codec(field.type)
        case [inspect.BoolType()]:  # the sqlite3 module is slow to bind a bool
            return _Codec(int, int, bool)
        case [inspect.EnumType()]:  # or a subclass of str
            return _Codec(field.type, attrgetter("_value_"))  # `value` is much slower
        case _:
            return _Codec(bytes | None, encoded, msgspec.msgpack.Decoder(field.type).decode)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    made = field.default is msgspec.NODEFAULT
    return field.default_factory() if made else field.default


_CODECS: Final = {name: _codec(_FIELDS[name]) for name in WITH_COLUMN}
_BLANK: Final = {name: _default(_FIELDS[name]) for name in WITH_COLUMN}

_NEW: Final = ("queue", "id", *IN_JOBS)
_new: Final = itemgetter(*(list(_FIELDS).index(name) for name in _NEW))
_NEW_COLUMNS: Final = tuple(IN_JOBS.get(name, name) for name in _NEW)
_ENCODED: Final = tuple(
    (place, codec.encode)
    for place, codec in enumerate(map(_CODECS.get, _NEW))
    if codec is not None and codec.encode is not None
)
_DECODED: Final = tuple(
    (place, codec.decode)
    for place, codec in enumerate(_CODECS.values())
    if codec.decode is not None
)
"""Which of a row's values need to be encoded or decoded, and how."""

_Stored: Any = msgspec.defstruct(
    "_Stored",
    [
        *zip(_IDENTITY, (int, str, str, int, bytes), strict=True),
        *((name, codec.type) for name, codec in _CODECS.items()),
    ],
    array_like=True,
    gc=False,
)
"""A row, checked."""


def decode_steps(column: bytes | None) -> dict[str, bytes]:
    """Return the steps of a row of `notes`."""
    return {} if column is None else _steps(column)


def decode_logs(column: bytes | None) -> tuple[str, ...]:
    """Return the log lines of a row of `notes`."""
    return () if column is None else _logs(column)


# -- writing ------------------------------------------------------------------------------------


def new_columns(job: JobRecord, sequence: int) -> dict[str, Any]:
    """Return the columns of `jobs` for a new job that are not NULL."""
    values = list(_new(astuple(job)))
    for place, to_column in _ENCODED:
        if values[place] is not None:
            values[place] = to_column(values[place])
    columns = zip(_NEW_COLUMNS, values, strict=True)
    found = {column: value for column, value in columns if value is not None}
    found["sequence"] = sequence
    return found


def new_body(job: JobRecord) -> bytes:
    """Return what has no column of a job."""
    return encode(replace(job, **_BLANK))


def new_notes(job: JobRecord) -> Row | None:
    """Return the row of `notes` for a new job, without its number; None if it has none."""
    if job.progress is None and not job.steps and not job.logs:
        return None
    return job.progress, encoded(job.steps), encoded(job.logs)


def _key(dedup: Dedup | None) -> str | None:
    """Return what the index of keys needs of a field that is in the body, too."""
    return None if dedup is None else dedup.key


def to_columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of `jobs` for new values of fields; fields without one are left out."""
    columns: dict[str, Any] = {"dedup": _key(fields["dedup"])} if "dedup" in fields else {}
    for name, value in fields.items():
        if name in IN_JOBS:
            to_column = _CODECS[name].encode
            if value is not None and to_column is not None:
                value = to_column(value)  # noqa: PLW2901 - as its column stores it
            columns[IN_JOBS[name]] = value
    return columns


# -- reading ------------------------------------------------------------------------------------


def record(row: Row) -> JobRecord:
    """Return the record of a row with the columns `ROW`.

    Raises:
        CorruptRecord: a part is missing or cannot be decoded.
    """
    try:
        return _record(row)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise CorruptRecord(
            f"Job {Ref(row[1], row[2])} cannot be read: {error}. It is set aside, and the queue "
            f"goes on without it."
        ) from error


def readable(rows: Iterable[Row]) -> tuple[list[tuple[int, JobRecord]], list[int]]:
    """Return the records of rows with their numbers, and the numbers of unreadable rows."""
    jobs: list[tuple[int, JobRecord]] = []
    corrupt: list[int] = []
    for row in rows:
        try:
            jobs.append((row[0], record(row)))
        except CorruptRecord:
            corrupt.append(row[0])
    return jobs, corrupt


def _record(row: Row) -> JobRecord:
    it = convert(row, _Stored, builtin_types=(bytes,))
    job = _body(it.body)
    if job.queue != it.queue or job.id != it.id:  # whoever ran it could not finish it
        raise ValueError("it does not have the identity that it was created with")
    values = list(astuple(it)[len(_IDENTITY) :])
    for place, decode in _DECODED:
        if values[place] is not None:
            values[place] = decode(values[place])
    named = zip(WITH_COLUMN, values, strict=True)
    fields = {name: value for name, value in named if value is not None}
    return replace(job, **fields)  # what is NULL is blank in the body, which is None, too


def text(stored: bytes) -> str | bytes:
    """Return a stored text; what is no UTF-8 stays bytes, so that its row is found unreadable."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored


def decode_settings(column: bytes | None) -> QueueSettings:
    """Return the settings of a row of `queues`.

    Raises:
        CorruptRecord: they cannot be decoded.
    """
    try:
        return QueueSettings() if column is None else _settings(column)
    except (msgspec.MsgspecError, TypeError) as error:
        raise CorruptRecord(
            f"A queue's settings cannot be read: {error}. Delete its row from the table 'queues' "
            f"while no worker runs; its jobs stay."
        ) from error
