"""What stands in the cells of tables: instants, long texts, errors; for terminals and for pipes."""

from __future__ import annotations

from datetime import UTC, datetime

from taskmux.cli.output import console
from taskmux.model.job import JobRecord
from taskmux.model.units import show_ms

__all__ = ["ago", "clipped", "error_name", "failure", "plural", "task_cell", "when"]

LONGEST = 100
"""Characters of a text in one cell on a terminal."""

LONGEST_TASK = 20


def when(ms: int | None) -> str | None:
    """Return an instant in full."""
    return None if ms is None else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def ago(ms: int | None, now: int) -> str:
    """Return an instant for a table: how far from now for people, in full for a pipe."""
    if ms is None:
        return "-"
    if not console.is_terminal:
        return when(ms) or ""
    seconds = (now - ms) // 1000
    if abs(seconds) < 1:
        return "now"
    length = _largest(abs(seconds))
    return f"{length} ago" if seconds > 0 else f"in {length}"


def _largest(seconds: int) -> str:
    """Return a length of time in its largest unit; in two where it is one hour or day and more."""
    shown = show_ms(seconds * 1000)
    end = next(at for at, char in enumerate(shown, 1) if char.isalpha())
    return shown if shown[:end] in {"1h", "1d"} else shown[:end]


def clipped(text: str, longest: int = LONGEST) -> str:
    """Return text that leaves room for other rows; whole for a pipe."""
    if not console.is_terminal or len(text) <= longest:
        return text
    return f"{text[: longest - 1]}…"


def task_cell(name: str) -> str:
    """Return a task's name; on a terminal the end of a long one, which says the most."""
    if not console.is_terminal or len(name) <= LONGEST_TASK:
        return name or "-"
    return f"…{name[1 - LONGEST_TASK :]}"


def error_name(kind: str) -> str:
    """Return an error's type; on a terminal without its module."""
    return kind.rpartition(".")[2] if console.is_terminal else kind


def failure(job: JobRecord) -> str:
    """Return a job's last error."""
    return f"{error_name(job.error.type)}: {job.error.message}" if job.error else "-"


def plural(number: int, noun: str = "job") -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
