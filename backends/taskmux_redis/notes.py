"""Notes of running jobs: progress, steps, log lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskmux.driver import EVENT_DATA, Applied, Note

from taskmux_redis.apply import answers
from taskmux_redis.batches import Part, by_queue
from taskmux_redis.scripts import script
from taskmux_redis.store import Store

__all__ = ["annotate"]

_ANNOTATE = script("annotate")


async def annotate(store: Store, notes: Sequence[Note]) -> list[Applied]:
    """Write notes under their jobs' fences."""

    async def send(queue: str, part: Part, some: Sequence[Note]) -> list[Applied]:
        arguments = [argument for note in some for argument in _spelt(note)]
        return answers(await store.run(queue, _ANNOTATE, EVENT_DATA, *arguments, size=part.size))

    return await by_queue(notes, lambda note: note.ref.queue, send, _size)


def _size(note: Note) -> int:
    steps = sum(len(result) for result in (note.steps or {}).values())
    return len(note.progress or b"") + len(note.log or "") + steps


def _spelt(note: Note) -> list[Any]:
    """Return a note as `annotate.lua` takes it."""
    fields: list[Any] = [] if note.progress is None else ["v", note.progress]
    for name, result in (note.steps or {}).items():
        fields += (f"${name}", result)
    index, line = ("", "") if note.log is None else (note.log_index, note.log)
    return [note.ref.id, note.fence, index, line, len(fields) // 2, *fields]
