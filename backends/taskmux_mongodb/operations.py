"""Operations in their order: what comes after a later one of its origin is not done any more.

Two things can be late. A try of this instance, whose caller has given up: it is refused here. And
a command that a broken connection still delivers: what that can do, and why it is not refused in
the store, is in `docs/decisions/0008-mongodb-late-operations.md`.
"""

from __future__ import annotations

from typing import Final, Literal

from taskmux.driver import Op, StoreBusy

__all__ = ["Operations", "late"]

Verb = Literal["push", "claim", "apply", "reclaim"]


class Operations:
    """The last operation that one instance has begun, by verb, origin and queue."""

    def __init__(self) -> None:
        self._last: Final[dict[tuple[Verb, str, str], int]] = {}

    def begin(self, verb: Verb, op: Op, queue: str = "") -> None:
        """Begin an operation, or begin it again.

        Args:
            verb: what is done.
            op: by whom, and the number.
            queue: the one that it is done in, for verbs that have one in flight in each queue.

        Raises:
            StoreBusy: a later one has begun.
        """
        key = (verb, op.origin, queue)
        last = self._last.get(key, op.number)
        if op.number < last:
            raise late(verb, op)
        self._last[key] = op.number


def late(verb: Verb, op: Op) -> StoreBusy:
    """Return the error for an operation that comes after a later one."""
    return StoreBusy(
        f"This {verb} ({op}) comes after a later one of its origin, so nothing was done for it. "
        f"Send a new operation."
    )
