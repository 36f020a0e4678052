"""What stands in the cells of tables: instants, long texts, errors; for terminals and for pipes."""

from __future__ import annotations

from datetime import UTC, datetime

from taskmux.cli.output import console
from taskmux.model.job import JobRecord
from taskmux.model.units import show_ms

__all__ = ["ago", "clipped", "failure", "plural", "when"]

LONGEST = 100
"""Characters of a text in one cell on a terminal."""


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
    """Return a length of time in its largest unit, or in two where the first says little."""
    shown = show_ms(seconds * 1000)
    first = shown[: next(at for at, char in enumerate(shown, 1) if char.isalpha())]
    return shown if first[:-1] == "1" else first


def clipped(text: str, longest: int = LONGEST) -> str:
    """Return text that leaves room for other rows; whole for a pipe."""
    if not console.is_terminal or len(text) <= longest:
        return text
    return f"{text[: longest - 1]}…"


def failure(job: JobRecord) -> str:
    """Return a job's last error."""
    return f"{job.error.type}: {job.error.message}" if job.error else "-"


def plural(number: int, noun: str = "job") -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
