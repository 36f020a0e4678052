"""Changes to the settings of a queue's lines. Pure functions on settings.

`groups` holds for every group, and what somebody set for one group by name holds for that group
instead, field by field. The result is stored for each such group, so that a driver looks in one
place only. A note beside it tells which fields were set by name: when `groups` changes, these stay
and the others follow. A task's own line begins with what the task declares, and may be changed by
name as well.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from taskmux.model.errors import DeclarationError
from taskmux.model.queue import LineSettings, QueueSettings

__all__ = ["change_groups", "change_line", "declare", "forget_line"]

MOST_LINES = 1000
"""Lines with settings of their own; every claim of the queue reads them."""


class _Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a line's settings come from: fields set by name, and the task's declaration."""

    said: tuple[str, ...] = ()
    task: LineSettings | None = None


def _read(own: LineSettings) -> _Note:
    if own.declared is None:
        return _Note()
    try:
        return msgspec.json.decode(own.declared, type=_Note)
    except msgspec.MsgspecError:  # written by hand, or by another version
        return _Note()


def _noted(own: LineSettings, note: _Note) -> LineSettings:
    return replace(own, declared=msgspec.json.encode(note).decode())


def _put(settings: QueueSettings, line: str, own: LineSettings | None) -> QueueSettings:
    lines = {name: one for name, one in settings.lines.items() if name != line}
    if own is not None:
        if len(lines) >= MOST_LINES:
            raise DeclarationError(
                f"{MOST_LINES} groups of this queue have settings of their own already. Use "
                f"group='*' for what they have in common, and reset(group=...) those that need "
                f"nothing of their own."
            )
        lines[line] = own
    return replace(settings, lines=lines)


def change_line(settings: QueueSettings, line: str, changes: dict[str, Any]) -> QueueSettings:
    """Return settings with changes for one group, or for a task that has a line of its own.

    Raises:
        DeclarationError: the task has no line of its own, or too many lines have settings.
    """
    known = settings.lines.get(line)
    if line.startswith("@"):
        if known is None:
            raise DeclarationError(
                f"The jobs of task {line[1:]!r} stand in the queue's common line. Give the task a "
                f"line of its own with own_line=True, concurrency= or rate= in @mux.task(...), and "
                f"start a worker that has it."
            )
        return _put(settings, line, replace(known, **changes))
    said = set(() if known is None else _read(known).said) | set(changes)
    own = replace(settings.line(line), **changes)
    if own.paused == settings.groups.paused:  # it is not set apart by that
        said.discard("paused")
    return _put(settings, line, _noted(own, _Note(tuple(sorted(said)))) if said else None)


def change_groups(settings: QueueSettings, changes: dict[str, Any]) -> QueueSettings:
    """Return settings with changes for all groups; what was set for one by name stays."""
    groups = replace(settings.groups, **changes)
    lines = {}
    for name, own in settings.lines.items():
        note = _read(own)
        if not name.startswith("@"):
            kept = {field: getattr(own, field) for field in note.said}
            own = _noted(replace(groups, **kept), note)  # noqa: PLW2901 - resolved anew
        lines[name] = own
    return replace(settings, groups=groups, lines=lines)


def forget_line(settings: QueueSettings, line: str) -> QueueSettings:
    """Return settings without any of a group's own; a task's line gets what the task declares."""
    known = settings.lines.get(line)
    task = None if known is None else _read(known).task
    return _put(settings, line, None if task is None else _noted(task, _Note(task=task)))


def declare(settings: QueueSettings, line: str, task: LineSettings | None) -> QueueSettings:
    """Return settings in which a task's line has what the task declares, if that has changed.

    Args:
        settings: the queue's.
        line: the task's own line.
        task: what its declaration says; None: it has no line of its own any more.
    """
    known = settings.lines.get(line)
    note = _Note() if known is None else _read(known)
    if task is None:
        return settings if note.task is None else _put(settings, line, None)
    if known is not None and note.task == task:
        return settings
    own = replace(task, paused=known is not None and known.paused)
    return _put(settings, line, _noted(own, _Note(task=task)))
