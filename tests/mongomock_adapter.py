"""What mongomock lacks of a MongoDB server, bridged for tests: the driver is not bent for it.

mongomock 4 knows no `hello`, no capped collections and no hints, refuses PyMongo's bulk writes of
updates, and cannot make an index twice. Everything else goes to mongomock as it is. It has no
tailable cursors, so here work is found by looking for it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from mongomock_motor import AsyncMongoMockClient
from pymongo import DeleteOne, ReplaceOne, UpdateMany
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

__all__ = ["MockClient"]

WIRE_6_0 = 17
DUPLICATE_KEY = 11000


class MockClient:
    """An `AsyncMongoMockClient` that answers as a server would where mongomock does not."""

    def __init__(self) -> None:
        self._client = AsyncMongoMockClient()

    def get_database(self, name: str, **_options: Any) -> MockDatabase:
        return MockDatabase(self._client.get_database(name))

    async def close(self) -> None:
        self._client.close()


class MockDatabase:
    def __init__(self, database: Any) -> None:
        self._database = database
        self._collections: dict[str, MockCollection] = {}

    def get_collection(self, name: str, **_options: Any) -> MockCollection:
        if name not in self._collections:
            self._collections[name] = MockCollection(self._database.get_collection(name))
        return self._collections[name]

    async def create_collection(self, name: str, **_options: Any) -> None:
        """Every collection is there already."""

    async def command(self, name: str) -> dict[str, Any]:
        assert name == "hello"
        now = datetime.fromtimestamp(time.time_ns() // 1_000_000 / 1000, UTC)
        return {"localTime": now.replace(tzinfo=None), "maxWireVersion": WIRE_6_0}


class MockCollection:
    def __init__(self, collection: Any) -> None:
        self._collection = collection
        self._named: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    def with_options(self, **_options: Any) -> MockCollection:
        return self

    async def options(self) -> dict[str, Any]:
        return {"capped": True}

    def find(self, *args: Any, cursor_type: int | None = None, **kwargs: Any) -> Any:
        if cursor_type is not None:
            raise OperationFailure("tailable cursor requested on a collection that is not capped")
        return MockCursor(self._collection.find(*args, **kwargs))

    async def index_information(self) -> dict[str, Any]:
        return self._named

    async def create_indexes(self, models: list[Any]) -> None:
        """Make the indexes that change what happens; the others only change how fast."""
        self._named |= {model.document["name"]: {} for model in models}
        there = await self._collection.index_information()
        for document in (model.document for model in models):
            if document.get("unique") and document["name"] not in there:
                keys = list(document["key"].items())
                partial = document["partialFilterExpression"]
                await self._collection.create_index(
                    keys, unique=True, name=document["name"], partialFilterExpression=partial
                )

    async def bulk_write(self, writes: list[Any], ordered: bool) -> Any:
        matched, errors = 0, []
        for at, write in enumerate(writes):
            try:
                matched += (await self._write(write)).matched_count
            except DuplicateKeyError as error:
                errors.append({"index": at, "code": DUPLICATE_KEY, "errmsg": str(error)})
        if errors:
            raise BulkWriteError({"nMatched": matched, "writeErrors": errors})
        return SimpleNamespace(matched_count=matched)

    async def _write(self, write: Any) -> Any:
        if isinstance(write, ReplaceOne):
            upsert = bool(write._upsert)
            return await self._collection.replace_one(write._filter, write._doc, upsert=upsert)
        if isinstance(write, DeleteOne):
            await self._collection.delete_one(write._filter)
            return SimpleNamespace(matched_count=0)
        if isinstance(write, UpdateMany):
            return await self._collection.update_many(write._filter, write._doc)
        upsert = bool(write._upsert)
        return await self._collection.update_one(write._filter, write._doc, upsert=upsert)


class MockCursor:
    """A cursor that takes hints and forgets them."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def sort(self, *args: Any) -> MockCursor:
        return MockCursor(self._cursor.sort(*args))

    def skip(self, count: int) -> MockCursor:
        return MockCursor(self._cursor.skip(count))

    def limit(self, count: int) -> MockCursor:
        return MockCursor(self._cursor.limit(count))

    def hint(self, _index: str) -> MockCursor:
        return self

    async def to_list(self, length: int | None) -> list[dict[str, Any]]:
        return await self._cursor.to_list(length)
