"""What must be there before a driver works: server version, indexes, the bell. Made and checked."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

from pymongo import ASCENDING, IndexModel
from pymongo.errors import CollectionInvalid, DuplicateKeyError, OperationFailure
from taskmux.driver import StoreIncompatible

from taskmux_mongodb.store import Store

__all__ = ["COUNTED", "EXPIRY", "LINE", "LINED_UP", "SCHEMA", "identity", "prepare"]

SCHEMA: Final = 2
"""The version of the documents that this driver reads and writes.

Version 1 knew no lines: its jobs all stand in the common one, and stay there.
"""

LINE: Final = "line"
LINED_UP: Final = "lined up"
EXPIRY: Final = "expiry"
COUNTED: Final = "counted"

_WIRE_4_4: Final = 9
_NAMESPACE_EXISTS: Final = 48
_INDEX_DIFFERS: Final = {67, 85, 86}
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
        _keys("queue", "dedup"),
        name="dedup",
        unique=True,
        partialFilterExpression={"dedup": {"$exists": True}, "finished_at": None},
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
    store.transactional = "setName" in hello or hello.get("msg") == "isdbgrid"
    await _check_schema(store, where)
    await _make_bell(store, where)
    await _make_indexes(store, where)


async def _check_schema(store: Store, where: str) -> None:
    with suppress(DuplicateKeyError):  # its majority write shows that there is a majority
        await store.meta.insert_one({"_id": "schema", "version": SCHEMA, "store": uuid4().hex})
    await store.meta.update_one({"_id": "schema", "version": 1}, {"$set": {"version": SCHEMA}})
    found = await store.meta.find_one({"_id": "schema"})
    version = None if found is None else found.get("version")
    if version != SCHEMA:
        raise StoreIncompatible(
            f"The database at {where} has taskmux documents of version {version!r}, and this "
            f"driver knows {SCHEMA}. Use the taskmux that wrote them, or another database."
        )


async def identity(database: Any, session: Any = None) -> str | None:
    """Return what tells this database from all others, on whatever deployment; None: not opened."""
    found = await database.get_collection("meta").find_one({"_id": "schema"}, session=session)
    return None if found is None else found.get("store")


async def _make_bell(store: Store, where: str) -> None:
    try:
        await store.database.create_collection("bell", capped=True, size=_BELL_BYTES)
    except (CollectionInvalid, OperationFailure) as error:
        if isinstance(error, OperationFailure) and error.code != _NAMESPACE_EXISTS:
            raise
    options = await store.bell.collection.options()
    if not options.get("capped"):
        raise StoreIncompatible(
            f"The collection 'bell' at {where} is not capped, so nobody can listen to it. Drop "
            f"it, or name another database in the URL."
        )


async def _make_indexes(store: Store, where: str) -> None:
    try:
        await store.jobs.create_indexes(list(_JOBS))
        await store.ring.create_indexes(list(_RING))
        await store.gates.create_indexes(list(_GATES))
        await store.workers.create_indexes(list(_WORKERS))
    except OperationFailure as error:
        if error.code not in _INDEX_DIFFERS:
            raise
        raise StoreIncompatible(
            f"An index of taskmux at {where} has other options than this driver's: {error}. Drop "
            f"that index while no worker runs, or name another database in the URL."
        ) from None
