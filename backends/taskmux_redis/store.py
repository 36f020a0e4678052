"""The store as the verbs see it: scripts on one queue's keys, and which queues are listed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from taskmux.driver import CorruptRecord, JobRecord, Log, StoreError, StoreIncompatible

from taskmux_redis.connection import Connection
from taskmux_redis.failures import RefusedInScript, WrongType
from taskmux_redis.keys import OF_A_QUEUE, TYPES, QueueKeys, store_key
from taskmux_redis.records import Lease, read_job
from taskmux_redis.repair import Repairs, may_leave_damage
from taskmux_redis.scripts import Script, script

__all__ = ["Known", "Store"]

logger = Log("taskmux.redis")
_SET_ASIDE = script("set_aside")


class Known:
    """What this process knows to be in the store, shared by a driver and its forks.

    `listed`: queues in the list of queues. `used`: those that have had jobs. `beats`: until when
    (this process's clock) the store surely keeps what a worker's last heartbeat left. Where one
    of them is missing after all, somebody has emptied the store: nothing of it is believed any
    more, and the log says so once.
    """

    def __init__(self) -> None:
        self.listed: set[str] = set()
        self.used: set[str] = set()
        self.beats: dict[str, float] = {}

    def forget(self, where: str) -> None:
        """Learn that the store was emptied."""
        self.listed.clear()
        self.used.clear()
        self.beats.clear()
        logger.warning(
            "Redis at %s was emptied while taskmux used it (FLUSHALL, or a restart without its "
            "data): the jobs it held are gone. New jobs run; if nobody did this on purpose, look "
            "at the server's persistence",
            where,
        )


class Store:
    """A connection, the names of keys, and what is known of the store."""

    def __init__(
        self, connection: Connection, prefix: str, known: Known, *, is_cluster: bool
    ) -> None:
        self.connection = connection
        self.prefix = prefix
        self.known = known
        self.repairs = Repairs(connection)
        self.is_cluster = is_cluster
        self.longest_block = 5.0
        """Seconds of one blocking command: a dead connection is noticed soon after."""
        self.followers = 8
        """How many may block in the server for events at once; others look now and then."""
        self._keys: dict[str, QueueKeys] = {}

    def keys(self, queue: str) -> QueueKeys:
        """Return a queue's keys."""
        keys = self._keys.get(queue)
        if keys is None:
            keys = self._keys[queue] = QueueKeys(self.prefix, queue)
        return keys

    def key(self, name: str) -> bytes:
        """Return a key of the store as a whole."""
        return store_key(self.prefix, name)

    async def run(self, queue: str, script: Script, *args: Any, size: int | None = None) -> Any:
        """Run a script on the keys of a queue; `size` is as for `Connection.run`.

        Raises:
            CorruptRecord: a key is of another type; the message names queue and key.
        """
        keys = self.keys(queue).of(script)
        try:
            reply = await self.connection.run(script, keys, *args, size=size)
        except (WrongType, RefusedInScript, StoreIncompatible) as error:
            found = error
        else:
            if self.repairs.suspects:
                await self.repairs.go_on(self.keys(queue))
            return reply
        if may_leave_damage(script):
            await self.repairs.suspect(self.keys(queue))
        if not isinstance(found, WrongType):
            raise found
        every = [self.keys(queue)[name] for name in OF_A_QUEUE]
        raise await self.named(found, every, f" of queue {queue!r}")

    async def look_after(self, queue: str) -> None:
        """Repair what failed scripts left of a queue, if anything.

        Raises:
            CorruptRecord: a key is of another type; the message names queue and key.
        """
        try:
            await self.repairs.take_turn(self.keys(queue))
        except WrongType as error:
            found = error
        else:
            return
        every = [self.keys(queue)[name] for name in OF_A_QUEUE]
        raise await self.named(found, every, f" of queue {queue!r}")

    async def run_for_all(self, script: Script, names: Sequence[str], *args: Any) -> Any:
        """Run a script on keys of the store as a whole.

        Raises:
            CorruptRecord: a key is of another type; the message names it.
        """
        keys = [self.key(name) for name in names]
        try:
            return await self.connection.run(script, keys, *args)
        except WrongType as error:
            found = error
        raise await self.named(found, keys)

    async def named(self, error: WrongType, keys: Sequence[bytes], of: str = "") -> CorruptRecord:
        """Return the error that names the key of the wrong type, as far as that can be seen."""
        try:
            found = await asyncio.gather(*(self.wrong_type(key) for key in keys))
        except StoreError:
            return error  # an older ACL does not allow TYPE
        for key, wrong in zip(keys, found, strict=True):
            if wrong is not None:
                return CorruptRecord(
                    f"The key {key.decode()!r}{of} is a {wrong}, which taskmux did not write. "
                    f"Other queues go on. Remove or rename that key, or choose another prefix "
                    f"with ?prefix=."
                )
        return CorruptRecord(f"{error} It is one of the keys{of}.")

    async def wrong_type(self, key: bytes) -> str | None:
        """Return the type of a key if it is another than it should be."""
        wanted = TYPES.get(key.rpartition(b"}:")[2].partition(b":")[0].decode())
        found: str = (await self.connection.command("TYPE", key)).decode()
        return found if wanted is not None and found not in (wanted, "none") else None

    async def register(self, queue: str) -> None:
        """List the queue before its first job: the list lives in another cluster slot."""
        if queue not in self.known.listed:
            await self.list_queue(queue)

    async def met_first_job(self, queue: str) -> None:
        """Learn that a queue has just got the first job it ever had.

        If it has had jobs before, the store was emptied meanwhile, and the list of queues with it.
        """
        was_used = queue in self.known.used
        if was_used:
            self.known.forget(self.connection.where)
        self.known.used.add(queue)
        if was_used:
            await self.list_queue(queue)

    async def list_queue(self, queue: str) -> None:
        """List the queue.

        Raises:
            CorruptRecord: the list is a key of another type.
        """
        key = self.key("queues")
        try:
            await self.connection.command("SADD", key, queue)
        except WrongType as error:
            found = error
        else:
            self.known.listed.add(queue)
            return
        raise await self.named(found, [key])

    async def readable(
        self, queue: str, rows: Sequence[Any], lease: Lease | None = None
    ) -> list[JobRecord]:
        """Return the records of rows; unreadable ones are set aside."""
        jobs: list[JobRecord] = []
        bad: list[bytes] = []
        for row in rows:
            try:
                jobs.append(read_job(queue, row, lease))
            except CorruptRecord:
                bad.append(row[0])
        if bad:
            await self.run(queue, _SET_ASIDE, *bad)
        return jobs
