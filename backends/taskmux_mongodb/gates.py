"""Gates: what rates and holds have left open, of a queue or of a line, and where that is stored.

A gate is a document of its own: `_id` is the queue's name, or that of the queue and the line.

- `level`, `at`: the meter of its rate (`taskmux.driver.gcra`). `held_until`: the end of a hold.
- `expire_at`: when it is as if there were none; then the server removes it.

A queue's gate is also where claims of a queue with limits take turns:

- `by`, `until`: the claim whose turn it is, and when it has lost that at the latest.
- `full`: a claim found the queue full, so whoever makes room wakes the others.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from taskmux.driver import Rate, gcra

__all__ = ["OPEN", "Gate", "expiry", "gate_key", "gate_of"]

Document = dict[str, Any]

OPEN: Final = 2**31
"""More than anybody asks for."""

_GRACE_MS: Final = 3_600_000
_LAST_MS: Final = 253_370_764_800_000
"""The year 9999: no date lies after it."""

_Level = Annotated[float, msgspec.Meta(ge=0, le=2**53)]
_Instant = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Gate(msgspec.Struct, frozen=True):
    """A meter and the end of a hold."""

    level: _Level = 0.0
    at: _Instant = 0
    held_until: _Instant = 0

    def room(self, rate: Rate | None, now: int) -> int:
        """Return how many may start now."""
        if self.held_until > now:
            return 0
        return OPEN if rate is None else gcra.room(rate, self._meter, now)

    def opens_in(self, rate: Rate | None, now: int) -> int:
        """Return the milliseconds until one may start."""
        paced = 0 if rate is None else gcra.opens_in(rate, self._meter, now)
        return max(0, self.held_until - now, paced)

    def after(self, rate: Rate, now: int, count: int) -> Gate:
        """Return the gate after so many starts now."""
        meter = gcra.spend(rate, self._meter, now, count)
        return Gate(meter.level, meter.at, self.held_until)

    def spent(self, rate: Rate, now: int, count: int) -> Document:
        """Return the update of a gate's document for so many starts now."""
        after = self.after(rate, now, count)
        empty_at = after.at + int(after.level * rate.per / rate.count) + 1
        return {
            "$set": {"level": after.level, "at": after.at},
            "$max": {"expire_at": expiry(empty_at)},
        }

    @property
    def _meter(self) -> gcra.Meter:
        return gcra.Meter(self.level, self.at)


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
