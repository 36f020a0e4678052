"""Gates: what rates and holds have left open, of a queue or of a line, and where that is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from taskmux.driver import Rate, gcra

__all__ = ["Gate", "gate_of", "read_gate", "write_gate"]

OPEN: Final = 2**31
"""More than anybody asks for."""

_Level = Annotated[float, msgspec.Meta(ge=0, le=2**53)]
_Instant = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Gate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A meter and the end of a hold, as the columns of `queues` and `gates` have them."""

    level: _Level = 0.0
    metered_at: _Instant = 0
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

    def spent(self, rate: Rate, now: int, count: int) -> Gate:
        """Return the gate after so many starts now."""
        meter = gcra.spend(rate, self._meter, now, count)
        return Gate(meter.level, meter.at, self.held_until)

    def held(self, until: int) -> Gate:
        """Return the gate held until then at least."""
        return Gate(self.level, self.metered_at, max(self.held_until, until))

    def let_go(self) -> Gate:
        """Return the gate without a hold."""
        return Gate(self.level, self.metered_at)

    def empty_at(self, rate: Rate | None) -> int:
        """Return from when on a gate that nobody touches is as if there were none."""
        leaks = 0 if rate is None else int(self.level * rate.per / rate.count) + 1
        return max(self.held_until, self.metered_at + leaks)

    @property
    def _meter(self) -> gcra.Meter:
        return gcra.Meter(self.level, self.metered_at)


def gate_of(row: tuple[Any, ...]) -> Gate:
    """Return the gate of three columns; an open one if they hold none, so that jobs go on."""
    try:
        return msgspec.convert(row, Gate)
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
        (queue, line, gate.level, gate.metered_at, gate.held_until, gate.empty_at(rate)),
    )
