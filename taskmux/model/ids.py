"""Ids of jobs that nobody named."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator

__all__ = ["new_id"]


class _Ids:
    """Makes ids: a millisecond, then a number.

    The first number of a millisecond is random and the others count up from it, so the system is
    asked for randomness once a millisecond. Two threads that come first in one millisecond each
    count from a random number of their own.
    """

    def __init__(self) -> None:
        # The last millisecond, as a number and as the ids of it begin, and its numbers to come.
        self._last: tuple[int, str, Iterator[int]] = 0, "", itertools.count()

    def begin_anew(self) -> None:
        """Forget the last: a forked process must not go on where its parent does."""
        self._last = 0, "", itertools.count()

    def new(self) -> str:
        """Return an id: 11 hexadecimal digits of the time in ms, then 16 of a number.

        Ids sort by their millisecond; those that one thread makes in one sort in the order in which
        they were made. The number is no secret: from one id its neighbours can be guessed.
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
