"""The open store: its collections, its clock, and the few ways in which it is written."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from bson.codec_options import CodecOptions
from bson.timestamp import Timestamp
from pymongo import (
    AsyncMongoClient,
    DeleteOne,
    ReadPreference,
    ReplaceOne,
    UpdateMany,
    UpdateOne,
    WriteConcern,
)
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError
from pymongo.read_concern import ReadConcern

from taskmux_mongodb.bell import Bell
from taskmux_mongodb.clock import Clock, Numbers
from taskmux_mongodb.deadlines import allowance, parts
from taskmux_mongodb.operations import Operations
from taskmux_mongodb.records import CORRUPT, Document
from taskmux_mongodb.restrictions import Restrictions

__all__ = ["DUPLICATE_KEY", "Store", "Written"]

DUPLICATE_KEY: Final = 11000

_WTIMEOUT: Final = 10_000
"""Milliseconds to wait for a majority before the write is sent again."""

Write = UpdateOne | UpdateMany | ReplaceOne[Document] | DeleteOne


class Written:
    """What a bulk write did: how many documents matched, and the error of each write that failed.

    Errors are the server's own documents (`code`, `errmsg`), by the write's place in the bulk.
    """

    def __init__(self, matched: int, errors: dict[int, Document]) -> None:
        self.matched = matched
        self.errors = errors


class Store:
    """Collections with every guarantee explicit, whatever the client's own defaults are.

    A write is acknowledged when a majority has it in its journals. A write that changes nothing
    waits for the majority, too: so an operation that is sent again is durable when it is answered.
    """

    def __init__(
        self, client: AsyncMongoClient[Document], database: str, patience: float | None = None
    ) -> None:
        self.client = client
        self.patience = patience
        self.name = database
        self.database = self.database_of(client)
        self.transactional = False
        self.opened_at: Timestamp | None = None
        """The server's logical time when this was opened; None where it has none."""
        self.jobs = self.database.get_collection("jobs")
        # Hasty writes do not wait for a majority: a later write does, or only an order is lost.
        self.hasty_jobs = self.jobs.with_options(write_concern=WriteConcern(1))
        self.queues = self.database.get_collection("queues")
        self.ring = self.database.get_collection("ring")
        self.hasty_ring = self.ring.with_options(write_concern=WriteConcern(1))
        self.gates = self.database.get_collection("gates")
        self.hasty_gates = self.gates.with_options(write_concern=WriteConcern(1))
        self.workers = self.database.get_collection("workers")
        self.replacements = self.database.get_collection("replacements")
        self.reclaims = self.database.get_collection("reclaims")
        self.meta = self.database.get_collection("meta")
        self.clock = Clock(self._server_ms)
        self.numbers = Numbers(self.clock)
        self.operations = Operations()
        # Claims of one instance take turns: at once they would only collide.
        self.turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.restrictions = Restrictions(self.queues, self.gates, self.clock)
        self.bell = Bell(self.database.get_collection("bell", write_concern=WriteConcern(0)))

    def database_of(self, client: AsyncMongoClient[Document]) -> AsyncDatabase[Document]:
        """Return the database as a client reaches it: this store's own, or an application's."""
        return client.get_database(
            self.name,
            codec_options=CodecOptions(),
            read_preference=ReadPreference.PRIMARY,
            write_concern=WriteConcern("majority", wtimeout=_WTIMEOUT, j=True),
            read_concern=ReadConcern("local"),
        )

    async def _server_ms(self) -> int:
        hello = await self.database.command("hello")
        told: datetime = hello["localTime"]
        return round(told.replace(tzinfo=UTC).timestamp() * 1000)

    async def write(
        self,
        writes: Sequence[Write],
        *,
        to: AsyncCollection[Document] | None = None,
        weights: Sequence[int] | None = None,
    ) -> Written:
        """Write, each write for itself, in order.

        Args:
            writes: what to write.
            to: where to; the jobs unless told.
            weights: about how many bytes each write has, where that may be many.
        """
        collection = self.jobs if to is None else to
        if weights is None:
            return await self._write(collection, writes)
        done = Written(0, {})
        for part in parts(weights):
            with allowance(self.patience, sum(weights[part])):
                one = await self._write(collection, writes[part])
            done.matched += one.matched
            done.errors |= {part.start + at: error for at, error in one.errors.items()}
        return done

    async def _write(
        self, collection: AsyncCollection[Document], writes: Sequence[Write]
    ) -> Written:
        try:
            result = await collection.bulk_write(list(writes), ordered=False)
        except BulkWriteError as error:
            details: Any = error.details
            if details.get("writeConcernErrors"):
                raise
            errors = {one["index"]: one for one in details["writeErrors"]}
            return Written(details["nMatched"], errors)
        return Written(result.matched_count, {})

    async def barrier(self) -> None:
        """Return when all that was written before is held by a majority, or gone for good.

        Whoever looks for what an earlier try of an operation wrote looks after this: what a
        failover can still undo must not be answered for.
        """
        await self.jobs.update_one({"_id": ""}, {"$unset": {"nothing": ""}})

    async def set_aside(self, keys: Sequence[Any]) -> None:
        """Take documents that cannot be read out of their queue; they stay to be looked at."""
        if keys:
            dropped = dict.fromkeys(("claim", "owns", "follows", "expire_at", "keep_count"), "")
            aside = {"$set": {"state": CORRUPT}, "$unset": dropped}
            await self.jobs.update_many({"_id": {"$in": list(keys)}}, aside)
