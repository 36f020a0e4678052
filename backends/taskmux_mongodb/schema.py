"""What must be there while a driver works: indexes and the bell. Made, checked, and made again."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

from pymongo import ASCENDING, IndexModel
from pymongo.errors import CollectionInvalid, DuplicateKeyError, OperationFailure
from taskmux.driver import Log, StoreBusy, StoreError, StoreIncompatible

from taskmux_mongodb.failures import FAULTS
from taskmux_mongodb.store import DUPLICATE_KEY, Store

__all__ = [
    "COUNTED",
    "EXPIRY",
    "LINE",
    "LINED_UP",
    "SCHEMA",
    "Caretaker",
    "identity",
    "missing",
    "prepare",
]

logger = Log("taskmux.mongodb")

SCHEMA: Final = 3
"""The version of the documents that this driver reads and writes.

Version 1 knew no lines: its jobs all stand in the common one, and stay there. Until version 2 an
unfinished job owned the key in `dedup`.
"""

LINE: Final = "line"
LINED_UP: Final = "lined up"
EXPIRY: Final = "expiry"
COUNTED: Final = "counted"

_WIRE_4_4: Final = 9
_NAMESPACE_EXISTS: Final = 48
_INDEX_DIFFERS: Final = {67, 85, 86}
_MEANWHILE: Final = {26, 48, 117}
_TRIES: Final = 8
_SAID_FOR: Final = 10.0
"""Seconds for which one line tells of all losses of a store."""

_LOOK_AFTER: Final = 2.0
"""Seconds of use between two looks whether everything is there still."""

_BELL_BYTES: Final = 262_144
_WORKERS_KEPT: Final = 86_400


def _keys(*names: str) -> list[tuple[str, int]]:
    return [(name, ASCENDING) for name in names]


_JOBS: Final = (
    IndexModel(_keys("queue", "state", "rank", "seq", "lease_until"), name=LINE),
    IndexModel(
        _keys("claim", "queue", "state", "rank", "seq"),
        name="claim",
        partialFilterExpression={"claim": {"$exists": True}},
    ),
    IndexModel(
        _keys("queue", "line", "state", "rank", "seq"),
        name=LINED_UP,
        partialFilterExpression={"line": {"$exists": True}},
    ),
    IndexModel(
        _keys("owns"),
        name="dedup",
        unique=True,
        partialFilterExpression={"owns": {"$exists": True}},
    ),
    IndexModel(
        _keys("follows"),
        name="follows",
        unique=True,
        partialFilterExpression={"follows": {"$exists": True}},
    ),
    IndexModel(_keys("expire_at"), name=EXPIRY, expireAfterSeconds=0, sparse=True),
    IndexModel(
        _keys("queue", "state", "keep_count", "rank"),
        name=COUNTED,
        partialFilterExpression={"keep_count": {"$exists": True}},
    ),
)
_RING: Final = (IndexModel(_keys("queue", "parked", "turn", "_id"), name="ring"),)
_GATES: Final = (IndexModel(_keys("expire_at"), name=EXPIRY, expireAfterSeconds=0),)
_WORKERS: Final = (IndexModel(_keys("until"), name=EXPIRY, expireAfterSeconds=_WORKERS_KEPT),)
_RECLAIMS: Final = (IndexModel(_keys("expire_at"), name=EXPIRY, expireAfterSeconds=0),)
_INDEXES: Final = {
    "jobs": _JOBS,
    "ring": _RING,
    "gates": _GATES,
    "workers": _WORKERS,
    "reclaims": _RECLAIMS,
    "replacements": _RECLAIMS,
}


async def prepare(store: Store, where: str) -> None:
    """Make and check everything; several drivers may do so at once.

    Raises:
        StoreIncompatible: the server is too old, or something of another shape is in the way.
    """
    hello = await store.database.command("hello")
    if hello.get("maxWireVersion", 0) < _WIRE_4_4:
        raise StoreIncompatible(
            f"The MongoDB server at {where} is older than 4.4. Upgrade it, or use another one."
        )
    # A router (mongos) says so; both speak for servers that have transactions.
    store.opened_at = store.opened_at or hello.get("operationTime")
    store.transactional = "setName" in hello or hello.get("msg") == "isdbgrid"
    await _check_schema(store, where)
    await _make_bell(store, where)
    await _make_indexes(store, where)


async def _check_schema(store: Store, where: str) -> None:
    with suppress(DuplicateKeyError):  # its majority write shows that there is a majority
        await store.meta.insert_one({"_id": "schema", "version": SCHEMA, "store": uuid4().hex})
    found = await store.meta.find_one({"_id": "schema"})
    version = None if found is None else found.get("version")
    if version in {1, 2}:
        await _to_version_3(store)
        known = {"_id": "schema", "version": version}
        await store.meta.update_one(known, {"$set": {"version": SCHEMA}})
        version = SCHEMA
    if version != SCHEMA:
        raise StoreIncompatible(
            f"The database at {where} has taskmux documents of version {version!r}, and this "
            f"driver knows {SCHEMA}. Use the taskmux that wrote them, or another database."
        )


async def _to_version_3(store: Store) -> None:
    """Let each unfinished job own its key in the new way. It may be done again."""
    owning = {"dedup": {"$exists": True}, "finished_at": None, "owns": {"$exists": False}}
    owns = {"$concat": ["$queue", "/", "$dedup"]}
    with suppress(OperationFailure):  # there is none, or another process has dropped it
        await store.jobs.drop_index("dedup")
    await store.jobs.update_many(owning, [{"$set": {"owns": owns}}])


async def identity(database: Any, session: Any = None) -> str | None:
    """Return what tells this database from all others, on whatever deployment; None: not opened."""
    found = await database.get_collection("meta").find_one({"_id": "schema"}, session=session)
    return None if found is None else found.get("store")


async def _make_bell(store: Store, where: str) -> None:
    """Make the bell, or make it capped: who rings one that was dropped makes a plain one.

    Raises:
        StoreIncompatible: a collection of another program has its name.
    """
    for _ in range(_TRIES):
        try:
            await store.database.create_collection("bell", capped=True, size=_BELL_BYTES)
        except (CollectionInvalid, OperationFailure) as error:
            if isinstance(error, OperationFailure) and error.code != _NAMESPACE_EXISTS:
                raise
        if (await store.bell.collection.options()).get("capped"):
            return
        strange = {"$nor": [{"queues": {"$type": "array"}}]}
        if await store.bell.collection.find_one(strange) is not None:
            raise StoreIncompatible(
                f"The collection 'bell' at {where} is not capped and holds what is not taskmux's, "
                f"so nobody can listen to it. Drop it, or name another database in the URL."
            )
        try:
            await store.database.command("convertToCapped", "bell", size=_BELL_BYTES)
        except OperationFailure as error:  # somebody dropped or converted it meanwhile
            if error.code not in _MEANWHILE:
                raise
    raise StoreBusy(f"Others keep making the collection 'bell' at {where}. Send it again.")


async def _make_indexes(store: Store, where: str) -> None:
    for _ in range(_TRIES):
        try:
            for name, indexes in _INDEXES.items():
                await store.database.get_collection(name).create_indexes(list(indexes))
        except OperationFailure as error:
            if error.code == DUPLICATE_KEY:
                await _one_owner_each(store)
                continue
            if error.code not in _INDEX_DIFFERS:
                raise
            raise StoreIncompatible(
                f"An index of taskmux at {where} has other options than this driver's: {error}. "
                f"Drop that index while no worker runs, or name another database in the URL."
            ) from None
        return
    raise StoreBusy(f"Jobs with one deduplication key keep coming to {where}. Send it again.")


async def _one_owner_each(store: Store) -> None:
    """Let one job own each deduplication key: without its index several came to own one.

    The others stay and run; they own nothing.
    """
    for field in ("owns", "follows"):
        first: dict[str, Any] = {}
        async for one in store.jobs.find({field: {"$exists": True}}, {field: 1}):
            if first.setdefault(one[field], one["_id"]) != one["_id"]:
                await store.jobs.update_one({"_id": one["_id"]}, {"$unset": {field: ""}})


async def missing(store: Store) -> list[str]:
    """Return what `prepare` made and somebody has taken away since, by name."""
    found = await asyncio.gather(
        *(store.database.get_collection(name).index_information() for name in _INDEXES)
    )
    lost = [
        f"{name}.{index.document['name']}"
        for (name, indexes), there in zip(_INDEXES.items(), found, strict=True)
        for index in indexes if index.document["name"] not in there
    ]  # fmt: skip
    if not (await store.bell.collection.options()).get("capped"):
        lost.append("bell")
    if await store.meta.find_one({"_id": "schema"}, {"_id": 1}) is None:
        lost.append("meta")
    return lost


_said: dict[str, float] = {}
"""When this process last told of a loss, by store."""


class Caretaker:
    """Makes again what somebody drops while a driver is open, and says so.

    Args:
        store: where.
        where: its URL without credentials.
    """

    def __init__(self, store: Store, where: str) -> None:
        self._store = store
        self._where = where
        self._looked = time.monotonic()
        self._look: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()

    def look_soon(self) -> None:
        """Look in the background, if nobody has looked for some seconds."""
        if self._look is None and time.monotonic() - self._looked > _LOOK_AFTER:
            self._look = asyncio.create_task(self._look_once())

    async def _look_once(self) -> None:
        try:
            await self.mend()
        except (*FAULTS, StoreError):  # the next operation meets it, too
            pass
        finally:
            self._looked = time.monotonic()
            self._look = None

    async def mend(self) -> bool:
        """Make what is missing; return whether something was."""
        async with self._one_at_a_time:
            lost = await missing(self._store)
            if not lost:
                return False
            await prepare(self._store, self._where)
            self._say(lost)
            return True

    def _say(self, lost: list[str]) -> None:
        """Tell of a loss once in a while, however many instances of this process see it."""
        now = time.monotonic()
        if now - _said.get(self._where, -_SAID_FOR) >= _SAID_FOR:
            _said[self._where] = now
            logger.warning(
                "The database at %s lost %s while it was in use, and they are made again. Jobs "
                "that were dropped with their collection are gone.", self._where, ", ".join(lost)
            )  # fmt: skip

    async def close(self) -> None:
        """Stop looking."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])
