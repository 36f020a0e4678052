"""This process: its number, and the ids that it gives to jobs. Both begin anew after a fork."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from typing import ClassVar

__all__ = ["new_id", "process_id"]


class _Process:
    """What is known of this process without asking the system for each job.

    `ids` is a millisecond, how its ids begin, and the numbers given out in it. They begin anywhere
    and count up, so randomness is asked for once a millisecond.
    """

    id: ClassVar[int] = os.getpid()
    ids: ClassVar[tuple[int, str, Iterator[int]]] = (0, "", itertools.count())

    @classmethod
    def begin(cls) -> None:
        """Begin anew: a forked process must not go on where its parent does."""
        cls.id = os.getpid()
        cls.ids = 0, "", itertools.count()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_Process.begin)


def process_id() -> int:
    """Return the number of this process."""
    return _Process.id


def new_id() -> str:
    """Return a job id: 11 hexadecimal digits of its creation time in ms, and 16 random at first.

    Those of one thread sort as they were made.
    """
    now = time.time_ns() // 1_000_000
    then, begin, numbers = _Process.ids
    if then != now:
        begin, numbers = f"{now:011x}", itertools.count(int.from_bytes(os.urandom(8), "big") >> 1)
        _Process.ids = now, begin, numbers
    return f"{begin}{next(numbers):016x}"
