"""Ids of jobs that nobody named."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator

__all__ = ["new_id"]


class _Ids:
    """Makes ids: what was given out last is a millisecond, how its ids begin, and their numbers.

    Numbers of a millisecond begin anywhere and count up, so that the system is asked for
    randomness once in each. Threads may begin one at once: each then counts from where it began.
    """

    def __init__(self) -> None:
        self._last: tuple[int, str, Iterator[int]] = 0, "", itertools.count()

    def begin_anew(self) -> None:
        """Forget the last: a forked process must not go on where its parent does."""
        self._last = 0, "", itertools.count()

    def new(self) -> str:
        """Return an id: 11 hexadecimal digits of the time in ms, then 16 of a number.

        Ids sort by their millisecond, and within it as they were made where one thread makes them.
        Like the time, the number is no secret: who knows one id can guess its neighbours.
        """
        now = time.time_ns() // 1_000_000
        then, begin, numbers = self._last
        if then != now:
            first = int.from_bytes(os.urandom(8), "big") >> 1
            begin, numbers = f"{now:011x}", itertools.count(first)
            self._last = now, begin, numbers
        return f"{begin}{next(numbers):016x}"


_ids = _Ids()
new_id = _ids.new

if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_ids.begin_anew)
