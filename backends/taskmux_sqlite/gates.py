"""Gates: how much of its rate a queue or a line has spent, and until when it rests.

A queue's gate is in its row of `queues`; the lines' gates have a table of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from taskmux.driver import Rate, gcra

__all__ = ["Gate", "gate_of", "read_gate", "write_gate"]

Gate = gcra.Gate


def gate_of(row: tuple[Any, ...]) -> Gate:
    """Return the gate of three columns; an open one if they are damaged, so that jobs go on."""
    try:
        return msgspec.convert(dict(zip(Gate.__struct_fields__, row, strict=True)), Gate)
    except msgspec.ValidationError:
        return Gate()


def read_gate(execute: Callable[..., Any], queue: str, line: str | None) -> Gate:
    """Return a line's gate."""
    row = execute(
        "SELECT level, metered_at, held_until FROM gates WHERE queue = ? AND line IS ?",
        (queue, line),
    ).fetchone()
    return Gate() if row is None else gate_of(row)


def write_gate(
    execute: Callable[..., Any], queue: str, line: str | None, gate: Gate, rate: Rate | None
) -> None:
    """Store a line's gate in place of what was stored; `prune` forgets it when it is empty."""
    execute("DELETE FROM gates WHERE queue = ? AND line IS ?", (queue, line))
    execute(
        "INSERT INTO gates (queue, line, level, metered_at, held_until, empty_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (queue, line, gate.level, gate.at, gate.held_until, gate.empty_at(rate)),
    )
