"""Push inside a transaction that the application began: the job exists once that commits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import msgspec
from pymongo.errors import PyMongoError
from taskmux.driver import (
    JobRecord,
    NewJob,
    Pushed,
    PushStatus,
    State,
    StoreBusy,
    StoreError,
    errors,
)

from taskmux_mongodb import lines_ring
from taskmux_mongodb.failures import FAULTS, translate
from taskmux_mongodb.lines_count import over, sizes_of
from taskmux_mongodb.push import moved_queues, placed
from taskmux_mongodb.records import REMOVED, key_of, owned_key
from taskmux_mongodb.schema import identity
from taskmux_mongodb.store import Store

__all__ = ["TransactionInterrupted", "Watch", "push_within"]

_PAUSES: Final = (0.002, 0.25)
"""Seconds between two looks whether a transaction is over: the first, and the longest."""

_SLOWER: Final = 1.25

_TRANSIENT: Final = "TransientTransactionError"
_SESSIONS: Final = {"AsyncClientSession", "AsyncIOMotorClientSession"}


class TransactionInterrupted(StoreBusy, PyMongoError):
    """The server aborted the transaction; run it again from its beginning.

    It is one of PyMongo's errors, too, with their label: `session.with_transaction` then runs the
    transaction again by itself.
    """


class Watch:
    """Waits for transactions to end, to ring the bell for what they committed.

    A transaction cannot write the bell itself, nor the ring, which every claim writes too; and a
    session tells nobody that its transaction has ended. So one task looks, while there are any.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: list[_Pushed] = []
        self._task: asyncio.Task[None] | None = None

    def after(self, session: Any, queues: AbstractSet[str], places: set[lines_ring.Place]) -> None:
        """Ring for queues, and give lines a place in the ring, when a transaction has ended."""
        self._open.append(_Pushed(session, queues, places))
        if self._task is None:
            self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        pause, longest = _PAUSES
        while self._open:
            await asyncio.sleep(pause)
            pause = min(pause * _SLOWER, longest)
            ended = [one for one in self._open if not one.session.in_transaction]
            if ended:
                pause = _PAUSES[0]
                self._open = [one for one in self._open if one.session.in_transaction]
                await self._tell(ended)
        self._task = None

    async def _tell(self, ended: list[_Pushed]) -> None:
        places = {place for one in ended for place in one.places}
        with suppress(*FAULTS, StoreError):
            await lines_ring.join_if_waiting(self._store, places)
        self._store.bell.ring({queue for one in ended for queue in one.queues})

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


class _Pushed(msgspec.Struct):
    """What was pushed in a session's transaction: its queues, and its lines."""

    session: Any
    queues: AbstractSet[str]
    places: set[lines_ring.Place]


async def push_within(
    store: Store, watch: Watch, session: Any, jobs: Sequence[NewJob]
) -> list[Pushed]:
    """Create jobs in the session's transaction; see `Transactions.push_within`.

    Nothing is sent again here: only the application can run its transaction again.
    """
    _check(store, session)
    queues = {new.job.queue for new in jobs}
    try:
        await store.clock.fresh()
        restricted = await store.restrictions.of(queues)
        moved = moved_queues(restricted)
        collection = await _jobs(store, session)
        records = [new.job for new in jobs]
        full = await over(collection, sizes_of(restricted), records, session)
        answers = [
            Pushed(PushStatus.MOVED, moved[new.job.queue])
            if new.job.queue in moved
            else Pushed(PushStatus.FULL, new.job.id)
            if at in full
            else await _push(store, collection, session, new)
            for at, new in enumerate(jobs)
        ]
    except FAULTS as error:
        raise _mapped(error, store) from None
    # Not in the transaction: claims write the ring all the time, and each would abort it.
    places = {
        (job.queue, job.group)
        for job in records
        if job.group is not None and job.state is State.WAITING
    }
    watch.after(session, queues - moved.keys(), places)
    return answers


def _check(store: Store, session: Any) -> None:
    if not _SESSIONS.intersection(kind.__name__ for kind in type(session).__mro__):
        raise errors.DeclarationError(
            f"session= is a {type(session).__module__}.{type(session).__qualname__}. Give the "
            f"session of an AsyncMongoClient or an AsyncIOMotorClient."
        )
    if not store.transactional:
        raise errors.UnsupportedFeature(
            "This MongoDB is a single server, which has no transactions, and session= needs them. "
            "Make it a replica set (one member is enough), or enqueue after your own writes."
        )
    if not session.in_transaction:
        raise errors.DeclarationError(
            "session= is in no transaction. Enqueue between its start_transaction() and the "
            "commit, or in the callback of with_transaction()."
        )


async def _jobs(store: Store, session: Any) -> Any:
    """Return the collection of jobs as the session's own client reaches it.

    Raises:
        DeclarationError: that client is connected to another deployment.
    """
    if session.client is store.client:
        return store.jobs
    database = store.database_of(session.client)
    theirs = await identity(database, session)
    if theirs is None or theirs != await identity(store.database):
        raise errors.DeclarationError(
            "session= belongs to a client of another MongoDB deployment than this app's, and no "
            "transaction spans two. Give the app that client: Taskmux(client=...)."
        )
    return database.get_collection("jobs")


async def _push(store: Store, collection: Any, session: Any, new: NewJob) -> Pushed:
    """Look first, for a refused insert would abort the transaction.

    Both happen on one snapshot: whoever takes the id or the key meanwhile is a write conflict.
    """
    job = new.job
    shown = {"state": 1, "fence": 1, "ops": 1}
    there = await collection.find_one({"_id": key_of(job.ref)}, shown, session=session)
    if there is not None and there.get("state") != REMOVED:
        return Pushed(PushStatus.DUPLICATE, job.id)
    owner = await _owner(store, collection, session, job)
    if owner is not None:
        return Pushed(PushStatus.DEDUPLICATED, owner)
    born = uuid4().hex
    if there is None:
        await collection.insert_one(placed(store, new, born), session=session)
    else:
        document = placed(store, new, born, fence=there["fence"]) | {"ops": there["ops"]}
        await collection.replace_one({"_id": document["_id"]}, document, session=session)
    return Pushed(PushStatus.CREATED, job.id)


async def _owner(store: Store, collection: Any, session: Any, job: JobRecord) -> str | None:
    """Return the id of the job that owns this one's key; one whose time is over makes way."""
    if job.dedup is None:
        return None
    owned = {"owns": owned_key(job.queue, job.dedup.key)}
    owner = await collection.find_one(owned, {"until": 1}, session=session)
    if owner is None:
        return None
    if "until" in owner and owner["until"] <= store.clock.earliest():
        free = {"$unset": {"owns": "", "until": ""}, "$set": {"rev": store.numbers.next()}}
        await collection.update_one({"_id": owner["_id"]}, free, session=session)
        return None
    return str(owner["_id"][len(job.queue) + 1 :])


def _mapped(error: BaseException, store: Store) -> BaseException:
    if isinstance(error, PyMongoError) and error.has_error_label(_TRANSIENT):
        return TransactionInterrupted(
            f"MongoDB interrupted the transaction ({str(error)[:200]}). Run it again from its "
            f"beginning, as session.with_transaction() does by itself.",
            {_TRANSIENT},
        )
    return translate(error, f"database {store.name!r}")
