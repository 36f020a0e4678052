"""Locks: claims of a queue with limits go one after the other, from counting to leasing.

The lock is in the queue's gate and has an end, so that a claimer that dies keeps nobody up for
long. It leases nothing when its time is nearly over.
"""

from __future__ import annotations

import asyncio
import random
import time
from types import TracebackType
from typing import Any, Final, Self

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError
from taskmux.driver import StoreBusy

from taskmux_mongodb.lines_gates import Gate, expiry, gate_of
from taskmux_mongodb.store import Store

__all__ = ["Lock"]

Document = dict[str, Any]

_LOCKED_MS: Final = 4_000
_LEASED_WITHIN: Final = 2.0
"""Seconds after which a holder does not begin to lease; the rest is for its writes to arrive."""

_PATIENCE: Final = 3 * _LOCKED_MS / 1000
_PAUSES: Final = (0.001, 0.05)
"""Seconds between two tries: the first, doubled each time up to the last."""


class Lock:
    """One claim's turn at a queue with limits, as an async context manager.

    Args:
        store: where the gate is.
        queue: whose limits.
        mark: the claim; sent again, it finds the lock to be its own.
    """

    def __init__(self, store: Store, queue: str, mark: str) -> None:
        self._store = store
        self._queue = queue
        self._mark = mark
        self._since = 0.0
        self._left = False
        self.gate = Gate()

    async def __aenter__(self) -> Self:
        """Wait for the turn.

        Raises:
            StoreBusy: it did not come.
        """
        end = time.monotonic() + _PATIENCE
        pause, longest = _PAUSES
        while not await self._enter():
            if time.monotonic() > end:
                raise StoreBusy(
                    f"Too many claim from queue {self._queue!r} at once. Send it again."
                )
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - jitter
            pause = min(2 * pause, longest)
        return self

    async def _enter(self) -> bool:
        self._since = time.monotonic()
        clock = self._store.clock
        free = [{"by": self._mark}, {"until": {"$not": {"$gt": clock.earliest()}}}]
        until = clock.latest() + _LOCKED_MS
        mine = {"$set": {"by": self._mark, "until": until}, "$max": {"expire_at": expiry(until)}}
        try:
            found = await self._store.hasty_gates.find_one_and_update(
                {"_id": self._queue, "$or": free},
                mine,
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        except DuplicateKeyError:  # it is there, and somebody else's
            return False
        self.gate = gate_of(found)
        return True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.leave()

    def check(self) -> None:
        """Make sure that there is time left to lease.

        Raises:
            StoreBusy: there is none.
        """
        if time.monotonic() - self._since > _LEASED_WITHIN:
            raise StoreBusy(
                f"Claiming from queue {self._queue!r} took too long to keep its limits. The "
                f"operation may be sent again."
            )

    async def leave(self, change: Document | None = None, *, full: bool = False) -> None:
        """Let others go on, and write what the claim changed at the gate; once."""
        if self._left:
            return
        change = change or {}
        fields = change.get("$set", {}) | {"until": 0, "by": ""} | ({"full": True} if full else {})
        ours = {"_id": self._queue, "by": self._mark}
        await self._store.hasty_gates.update_one(ours, change | {"$set": fields})
        self._left = True
