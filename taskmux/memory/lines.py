"""Lines: which waiting job is next, and what keeps a line from giving one."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable

from taskmux.driver import LINE_LIMIT, QueueSettings, gcra

__all__ = ["Line", "Lines", "Spot"]

Line = str | None
"""A line's name; None is the common one."""

Spot = tuple[int, int, str]
"""Priority, sequence and id of a waiting job."""


STALE = 100
"""Spots of jobs that moved on, which a heap may keep beyond twice those that are waiting."""


class Lines:
    """A queue's lines. Those that may give are in the ring, in the order of their turns.

    A line that may not give is parked. It comes back behind the others when its rate opens (its
    instant is in `opening`), when one of its jobs stops running, or with new settings.

    Args:
        active: returns how many jobs of a line are active.
        current: whether a job still waits at that spot. Jobs that moved on leave their spots in
            the heaps, to be dropped when they come up.
    """

    def __init__(self, active: Callable[[Line], int], current: Callable[[Spot], bool]) -> None:
        self.queue = gcra.Gate()
        self.waiting: Counter[Line] = Counter()
        self.is_full = False
        """Whether a claim found the queue full since a job last stopped running."""
        self.active = active
        self._current = current
        self._gates: dict[Line, gcra.Gate] = {}
        self._heaps: dict[Line, list[Spot]] = {}
        self._ring: dict[Line, None] = {}
        self._parked: set[Line] = set()
        self._patience = 0  # lines that this claim may still pass over
        self._opening: list[tuple[int, str, Line]] = []

    def gate(self, line: Line) -> gcra.Gate:
        """Return a line's gate."""
        return self._gates.get(line, _OPEN)

    def hold(self, line: Line, until: int, *, alone: bool) -> None:
        """Let a line alone, or all of them, give nothing before an instant."""
        if alone:
            self._gates[line] = self.gate(line).held(until)
        else:
            self.queue = self.queue.held(until)

    def enter(self, line: Line, spot: Spot) -> None:
        """Put a job in its line; a line that was empty goes behind the others."""
        heapq.heappush(self._heaps.setdefault(line, []), spot)
        self.waiting[line] += 1
        if line not in self._parked:
            self._ring.setdefault(line)

    def leave(self, line: Line) -> None:
        """Count a job out of its line."""
        self.waiting[line] -= 1
        if not self.waiting[line]:
            del self.waiting[line], self._heaps[line]
            self._ring.pop(line, None)
            self._parked.discard(line)
        elif len(self._heaps[line]) > 2 * self.waiting[line] + STALE:
            self._heaps[line] = sorted(set(filter(self._current, self._heaps[line])))

    def next(self, settings: QueueSettings, now: int) -> str | None:
        """Return the id of the job whose turn it is, and give the line's next turn to another.

        The caller makes the job active at once.
        """
        while self._patience:
            line = next(iter(self._ring), _END)
            if isinstance(line, _End):
                return None
            del self._ring[line]
            rate = settings.line(line).rate
            if self._may_give(line, settings, now):
                self._ring[line] = None
                if rate is not None:
                    self._gates[line] = self.gate(line).spent(rate, now, 1)
                return self._first(line)
            self._patience -= 1
            self._parked.add(line)
            opens_in = self.gate(line).opens_in(rate, now)
            if opens_in:
                heapq.heappush(self._opening, (now + opens_in, line or "", line))
        return None

    def _may_give(self, line: Line, settings: QueueSettings, now: int) -> bool:
        own = settings.line(line)
        if own.concurrency is not None and self.active(line) >= own.concurrency:
            return False
        return not own.paused and self.gate(line).room(own.rate, now) > 0

    def _first(self, line: Line) -> str:
        heap = self._heaps[line]
        while not self._current(heap[0]):
            heapq.heappop(heap)
        return heap[0][2]

    def begin(self, now: int) -> None:
        """Begin a claim: let the lines whose rate has opened come back, in that order."""
        self._patience = LINE_LIMIT
        while self._opening and (self._opening[0][0] <= now or not self._opens(0)):
            self.readmit(heapq.heappop(self._opening)[2])

    def made_room(self, line: Line) -> bool:
        """Note that a job of a line stopped running; say whether a claim may give more now."""
        was_full, self.is_full = self.is_full, False
        return self.readmit(line) or was_full

    def readmit(self, line: Line) -> bool:
        """Let a line come back behind the others; say whether it was parked."""
        if line not in self._parked:
            return False
        self._parked.remove(line)
        self._ring[line] = None
        return True

    def begin_anew(self) -> None:
        """Go by new settings: end all holds, and let every parked line come back."""
        self.queue = self.queue.let_go()
        self._gates = {line: gate.let_go() for line, gate in self._gates.items()}
        for line in sorted(self._parked, key=lambda name: name or ""):
            self.readmit(line)

    def forget_open(self, settings: QueueSettings, now: int) -> None:
        """Forget the gates that keep nothing back any more."""
        for line in tuple(self._gates):
            gate, rate = self._gates[line], settings.line(line).rate
            untouched = rate is None or gcra.room(rate, gate, now) > rate.burst
            if untouched and gate.held_until <= now:
                del self._gates[line]

    def kept(self, now: int) -> tuple[bool, int | None]:
        """Say whether lines with waiting jobs may not give, and when the first of them may.

        That is at once if there are lines that nobody looked at yet.
        """
        if self._ring:
            return False, 0
        while self._opening and not self._opens(0):
            heapq.heappop(self._opening)
        opens_in = max(0, self._opening[0][0] - now) if self._opening else None
        return bool(self._parked), opens_in

    def _opens(self, place: int) -> bool:
        return self._opening[place][2] in self._parked


class _End:
    """Stands for no line where None is one."""


_END = _End()
_OPEN = gcra.Gate()
