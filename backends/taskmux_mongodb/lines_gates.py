"""Gates: what rates and holds have left open, of a queue or of a line, and where that is stored.

A gate is a document of its own: `_id` is the queue's name, or that of the queue and the line.

- `level`, `at`: the meter of its rate (`taskmux.driver.gcra`). `held_until`: the end of a hold.
- `turn`, `left`: in the common line's alone; see `lines_common`.
- `expire_at`: when it is as if there were none; then the server removes it.

A queue's gate is also where claims of a queue with limits take turns:

- `by`, `until`: the claim whose turn it is, and when it has lost that at the latest.
- `full`: a claim found the queue full, so whoever makes room wakes the others.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from taskmux.driver import Rate, gcra

__all__ = ["Gate", "expiry", "gate_key", "gate_of", "spending"]

Document = dict[str, Any]

_GRACE_MS: Final = 3_600_000
_LAST_MS: Final = 253_370_764_800_000
"""The year 9999: no date lies after it."""

Gate = gcra.Gate


def spending(gate: Gate, rate: Rate, now: int, count: int) -> Document:
    """Return the update of a gate's document for so many starts now."""
    after = gate.let_go().spent(rate, now, count)
    return {
        "$set": {"level": after.level, "at": after.at},
        "$max": {"expire_at": expiry(after.empty_at(rate))},
    }


def gate_key(queue: str, line: str | None) -> str:
    """Return the `_id` of a line's gate, and of its place in the ring.

    Queue names have no slash, so no two lines share one; and none is a queue's name.
    """
    return f"{queue}/" if line is None else f"{queue}/={line}"


def gate_of(document: Document | None) -> Gate:
    """Return the gate of a document; an open one if it holds none, so that jobs go on."""
    try:
        return Gate() if document is None else msgspec.convert(document, Gate)
    except msgspec.ValidationError:
        return Gate()


def expiry(instant: int) -> datetime:
    """Return when a gate may go that nobody needs after an instant."""
    return datetime.fromtimestamp(min(instant + _GRACE_MS, _LAST_MS) / 1000, UTC)
