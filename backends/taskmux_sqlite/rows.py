"""Records and rows: what of a job goes to which column, and back.

The columns are the fields that change, and the group, for the line's index; everything else is in
the body, one encoded record without those fields, so a field that the interface adds later is
stored without ado.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec
from msgspec import convert
from msgspec.structs import replace
from taskmux.driver import BlockedCause, CorruptRecord, JobRecord, QueueSettings, Ref, State

__all__ = [
    "PRIORITY",
    "SEQUENCE",
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
]

Row = tuple[Any, ...]

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""What is counted up: far enough from the largest integer of SQLite to be counted up further."""


class _Columns(msgspec.Struct, array_like=True, gc=False):
    """The columns of `records`. SQLite itself lets any column hold a value of any type."""

    number: int
    queue: str
    id: str
    state: State
    priority: int
    sequence: int
    lifo: int
    dedup: str | None
    created_at: int
    run_at: int | None
    finished_at: int | None
    expires_at: int | None
    keep_count: int | None
    attempts: _Count
    crashes: _Count
    children: _Count
    fence: _Count
    worker: str | None
    lease_until: int | None
    started: int
    cancel_requested: int
    cause: BlockedCause | None
    reason: str | None
    result: bytes | None
    error: bytes | None
    history: bytes | None
    notice: bytes | None  # of files made by an earlier version; nothing writes it
    body: bytes
    progress: bytes | None
    steps: bytes | None
    logs: bytes | None
    line: str | None


_FIELDS: Final = {field.name: field for field in msgspec.structs.fields(JobRecord)}

_COLUMNS: Final = (
    "group",
    "state",
    "priority",
    "created_at",
    "run_at",
    "finished_at",
    "attempts",
    "crashes",
    "children",
    "fence",
    "worker",
    "lease_until",
    "started",
    "cancel_requested",
    "cause",
    "reason",
    "result",
    "error",
    "history",
    "progress",
    "steps",
    "logs",
)

_BLANK: Final[dict[str, Any]] = {
    name: _FIELDS[name].default_factory()
    if _FIELDS[name].default is msgspec.NODEFAULT
    else _FIELDS[name].default
    for name in _COLUMNS
}

PRIORITY: Final = _Columns.__struct_fields__.index("priority")
SEQUENCE: Final = _Columns.__struct_fields__.index("sequence")
"""Where these are in a row."""

encode: Final = msgspec.msgpack.Encoder().encode
_body: Final = msgspec.msgpack.Decoder(JobRecord).decode
_error: Final = msgspec.msgpack.Decoder(_FIELDS["error"].type).decode
_history: Final = msgspec.msgpack.Decoder(_FIELDS["history"].type).decode
_steps: Final = msgspec.msgpack.Decoder(dict[str, bytes]).decode
_settings: Final = msgspec.msgpack.Decoder(QueueSettings).decode
_logs: Final = msgspec.msgpack.Decoder(tuple[str, ...]).decode


def text(stored: bytes) -> str | bytes:
    """Return a stored text; what is no UTF-8 stays bytes, so that its row is found unreadable."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored


def encoded(value: object) -> bytes | None:
    """Return a structured field as its column holds it: nothing for nothing."""
    return encode(value) if value else None


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


def decode_steps(column: bytes | None) -> dict[str, bytes]:
    """Return the steps of a row of `notes`."""
    return {} if column is None else _steps(column)


def decode_logs(column: bytes | None) -> tuple[str, ...]:
    """Return the log lines of a row of `notes`."""
    return () if column is None else _logs(column)


def new_columns(job: JobRecord, sequence: int) -> dict[str, Any]:
    """Return the columns of `jobs` for a new job that are not NULL."""
    columns = {
        "queue": job.queue,
        "id": job.id,
        "state": job.state.value,
        "priority": job.priority,
        "sequence": sequence,
        "lifo": int(job.lifo),  # the sqlite3 module is slow to bind a bool, or None
        "line": job.group,
        "dedup": None if job.dedup is None else job.dedup.key,
        "created_at": job.created_at,
        "run_at": job.run_at,
        "finished_at": job.finished_at,
        "attempts": job.attempts,
        "crashes": job.crashes,
        "children": job.children,
        "fence": job.fence,
        "worker": job.worker,
        "lease_until": job.lease_until,
        "started": int(job.started),
        "cancel_requested": int(job.cancel_requested),
        "cause": None if job.cause is None else job.cause.value,
        "reason": job.reason,
        "result": job.result,
        "error": encoded(job.error),
        "history": encoded(job.history),
    }
    return {name: value for name, value in columns.items() if value is not None}


def new_body(job: JobRecord) -> bytes:
    """Return what has no column of a job."""
    return encode(replace(job, **_BLANK))


def new_notes(job: JobRecord) -> Row | None:
    """Return the row of `notes` for a new job, without its number; None if it has none."""
    if job.progress is None and not job.steps and not job.logs:
        return None
    return job.progress, encoded(job.steps), encoded(job.logs)


def record(row: Row) -> JobRecord:
    """Return the record of a row of the view `records`.

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
    """Return the records of rows of `records` with their numbers, and the numbers of the rest."""
    jobs: list[tuple[int, JobRecord]] = []
    corrupt: list[int] = []
    for row in rows:
        try:
            jobs.append((row[0], record(row)))
        except CorruptRecord:
            corrupt.append(row[0])
    return jobs, corrupt


def _record(row: Row) -> JobRecord:
    it = convert(row, _Columns, builtin_types=(bytes,))
    job = _body(it.body)
    if job.queue != it.queue or job.id != it.id:  # whoever ran it could not finish it
        raise ValueError("it does not have the identity that it was created with")
    return replace(
        job,
        group=it.line,
        state=it.state,
        priority=it.priority,
        created_at=it.created_at,
        run_at=it.run_at,
        finished_at=it.finished_at,
        attempts=it.attempts,
        crashes=it.crashes,
        children=it.children,
        fence=it.fence,
        worker=it.worker,
        lease_until=it.lease_until,
        started=it.started == 1,
        cancel_requested=it.cancel_requested == 1,
        cause=it.cause,
        reason=it.reason,
        result=it.result,
        error=None if it.error is None else _error(it.error),
        history=() if it.history is None else _history(it.history),
        progress=it.progress,
        steps=decode_steps(it.steps),
        logs=decode_logs(it.logs),
    )
