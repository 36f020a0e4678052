"""Repair: jobs that a failed script left in no index go back to where their records say.

Redis undoes nothing of a script that fails half-way. So a client whose script failed leaves word
of it in the store, and repairs the queue itself once scripts work again; and each turn of pruning
looks at some records of each queue, and at all of them where sizes do not add up or word was left.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from taskmux.driver import Log, StoreDenied, StoreError

from taskmux_redis.connection import Connection
from taskmux_redis.keys import QueueKeys
from taskmux_redis.scripts import Script, script

__all__ = ["Repairs", "may_leave_damage"]

logger = Log("taskmux.redis")
_REPAIR: Final = script("repair")
_ONLY_READ: Final = {"cancel_requests", "counts", "find", "get", "standing"}
_AT_ONCE: Final = 20
"""Chunks that an operation waits for; the operations after it go on with the rest."""
_APART: Final = 0.1
_AFTER_FAILURE: Final = 1.0
_UNDER_WAY: Final = "under way"


def may_leave_damage(script: Script) -> bool:
    """Whether a failure of this script may leave jobs in no index."""
    return script.name not in _ONLY_READ


class Repairs:
    """Which queues a failed script may have left damaged, and their repair."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.suspects: dict[str, str] = {}
        """For each queue what `repair.lua` takes as `since`."""
        self._not_before: dict[str, float] = {}
        self._found: dict[str, Counter[str]] = {}
        self._walking: set[str] = set()
        self._is_denied = False

    async def suspect(self, keys: QueueKeys) -> None:
        """A script failed: leave word, as far as that is possible now."""
        if self.suspects.get(keys.queue) == "now":
            return
        self.suspects[keys.queue] = "now"
        with suppress(StoreError):
            await self._connection.once("HSET", keys["repair"], "asked", "1")

    async def go_on(self, keys: QueueKeys) -> None:
        """Scripts work again: repair a queue that is suspected, a bounded part at a time."""
        queue, clock = keys.queue, asyncio.get_running_loop().time
        if queue not in self.suspects or self._not_before.get(queue, 0.0) > clock():
            return
        self._not_before[queue] = clock() + _AFTER_FAILURE
        with suppress(StoreError):
            await self._walk(keys, _AT_ONCE)
            self._not_before[queue] = clock() + _APART

    async def take_turn(self, keys: QueueKeys) -> None:
        """Look at some of a queue's records, and at all of them if there is reason to.

        Raises:
            CorruptRecord: a key is of another type.
        """
        try:
            await self._walk(keys)
        except StoreDenied as error:
            if not self._is_denied:  # an older ACL; all else works
                self._is_denied = True
                logger.warning("What failed scripts left is not looked for: %s", error)

    async def _walk(self, keys: QueueKeys, chunks: int | None = None) -> None:
        """Walk until there is no reason to go on, or for so many chunks.

        After each chunk the server has as much time for others as the chunk took.
        """
        queue, clock = keys.queue, asyncio.get_running_loop().time
        if queue in self._walking:
            return
        self._walking.add(queue)
        try:
            since, is_done = "", False
            while not is_done and chunks != 0:
                began = clock()
                since, is_done = await self._look(keys, since)
                chunks = None if chunks is None else chunks - 1
                await asyncio.sleep(clock() - began)
        finally:
            self._walking.discard(queue)

    async def _look(self, keys: QueueKeys, since: str) -> tuple[str, bool]:
        """Walk one chunk; return how to go on, and whether it is done."""
        queue, suspected = keys.queue, self.suspects.get(keys.queue)
        if suspected is not None:
            since, self.suspects[queue] = suspected, _UNDER_WAY
        try:
            start, is_done, *found = await self._connection.run(_REPAIR, keys.of(_REPAIR), since)
        except BaseException:
            if self.suspects.get(queue) is _UNDER_WAY:
                self.suspects[queue] = since
            raise
        since = start.decode()
        if self.suspects.get(queue) is _UNDER_WAY:
            del self.suspects[queue]
            if not is_done:
                self.suspects[queue] = since
        self._count(queue, found)
        if is_done:
            self._tell(queue)
        return since, bool(is_done) and queue not in self.suspects

    def _count(self, queue: str, found: Sequence[int]) -> None:
        if any(found):
            names = ("jobs", "entries", "lines")
            self._found.setdefault(queue, Counter()).update(dict(zip(names, found, strict=True)))

    def _tell(self, queue: str) -> None:
        found = self._found.pop(queue, None)
        if found is not None:
            logger.warning(
                "Queue %s was repaired: %d jobs that no index had are back where their records "
                "say, %d entries of no such job went, and %d lines have a turn again. A script "
                "had failed half-way (a key of another type, a refused command), or somebody "
                "changed keys by hand",
                queue,
                found["jobs"],
                found["entries"],
                found["lines"],
                extra={"queue": queue, "jobs": found["jobs"]},
            )
