"""The MongoDB driver: every verb is guarded writes of single documents, sent again when lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Self, TypeVar
from uuid import uuid4

from pymongo import AsyncMongoClient
from pymongo.errors import NetworkTimeout, ServerSelectionTimeoutError
from taskmux.driver import (
    Applied,
    Beat,
    BeatReply,
    ClaimAsk,
    Claimed,
    Command,
    Driver,
    EventPage,
    Extended,
    FindAsk,
    HeldLease,
    JobRecord,
    NewJob,
    Note,
    Op,
    Page,
    PruneAsk,
    Pushed,
    QueueSettings,
    ReclaimAsk,
    Ref,
    Standing,
    State,
    StoreError,
    StoreIncompatible,
    StoreUnavailable,
    Transition,
    WorkerInfo,
    hookimpl,
)

from taskmux_mongodb import (
    apply,
    claim,
    dedup,
    lines_count,
    presence,
    prune,
    push,
    read,
    schema,
    settings,
    transactions,
    wait,
)
from taskmux_mongodb.address import DATABASE, Address, check_database, connect, parse
from taskmux_mongodb.claim_jobs import ClaimMemory
from taskmux_mongodb.deadlines import longer
from taskmux_mongodb.events import Ask, Streams, follow
from taskmux_mongodb.failures import FAULTS, translate
from taskmux_mongodb.home import Home
from taskmux_mongodb.leases import extend, reclaim
from taskmux_mongodb.notes import annotate
from taskmux_mongodb.records import Document
from taskmux_mongodb.settings import put_settings
from taskmux_mongodb.store import Store

__all__ = ["MongoDriver", "taskmux_driver"]

Reply = TypeVar("Reply")

_TRIES: Final = 3
"""How often an operation is sent before the core hears that the store is unavailable."""

_PAUSE: Final = 0.1
_LAST_SENT: Final = 5.0
"""Seconds that closing gives to operations whose callers were cancelled."""


class MongoDriver(Driver):
    """Jobs in a MongoDB database, on a replica set or a single server.

    Args:
        url: `mongodb://` or `mongodb+srv://`, as PyMongo takes it; its path names the database
            (`taskmux` if it has none).

    Raises:
        InvalidURL: host, database or an option is wrong.
    """

    def __init__(self, url: str = "mongodb://localhost") -> None:
        self._address: Address | None = parse(url)
        self._given: AsyncMongoClient[Document] | None = None
        self._home: Home | None = None
        self._database = self._address.database
        self._store: Store | None = None
        self._claims: Final = ClaimMemory()
        self._streams: Final = Streams()
        self._sent: Final[set[asyncio.Task[Any]]] = set()

    @classmethod
    def from_client(cls, client: Any, *, database: str = DATABASE) -> Self:
        """Return a driver that uses an application's own client, as it is.

        The client, and so this driver and its forks, belong to the application's event loop. It
        is neither opened nor closed here, and keeps its own timeouts and options; read and write
        concerns are set for each operation all the same.

        Args:
            client: a PyMongo `AsyncMongoClient` or a Motor `AsyncIOMotorClient`.
            database: where the collections go.

        Raises:
            InvalidURL: the database's name cannot be one.
        """
        driver = cls()
        driver._address, driver._given, driver._home = None, client, Home()
        driver._database = check_database(database)
        return driver

    @property
    def url(self) -> str:
        """The store's URL, without credentials."""
        if self._address is None:
            return f"mongodb://client/{self._database}"
        return self._address.shown

    @property
    def bound(self) -> bool:
        """Whether the client is the application's own."""
        return self._address is None

    # -- life -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `Driver.open`."""
        if self._store is not None:
            return
        client = connect(self._address) if self._address is not None else self._given
        assert client is not None
        patience = None if self._address is None else self._address.patience
        self._store = store = Store(client, self._database, patience)
        self._caretaker = schema.Caretaker(store, self.url)
        store.bell.mend = self._caretaker.mend
        self._watch = transactions.Watch(store)
        try:
            await self._send(lambda store: schema.prepare(store, self.url))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See `Driver.close`."""
        store, self._store = self._store, None
        if store is not None:
            await self._at_home(lambda: self._close(store))

    async def _close(self, store: Store) -> None:
        if self._sent:
            await asyncio.wait(self._sent, timeout=_LAST_SENT)
        await self._streams.close(store)
        await store.bell.close()
        await self._watch.close()
        await self._caretaker.close()
        if self._given is None:
            await store.client.close()

    def fork(self) -> Self:
        """Return another unopened instance: on the same URL, or on the same client handed in."""
        if self._address is None:
            fork = self.from_client(self._given, database=self._database)
            fork._home = self._home  # noqa: SLF001 - of the same class
            return fork
        return type(self)(self._address.url)

    # -- the hot path ---------------------------------------------------------------------------

    async def push(self, op: Op, jobs: Sequence[NewJob]) -> Sequence[Pushed]:
        """See `Driver.push`."""
        return await self._send(lambda store: push.push(store, op, jobs))

    async def push_within(self, session: Any, jobs: Sequence[NewJob]) -> Sequence[Pushed]:
        """Create jobs in a transaction of the application's own; see `Transactions.push_within`.

        Args:
            session: of PyMongo's async API or of Motor, in a transaction, from any client of this
                deployment.
            jobs: what to create.

        Raises:
            DeclarationError: the session is of another kind or deployment, or in no transaction.
            UnsupportedFeature: the deployment is a single server.
            TransactionInterrupted: the transaction must be run again.
        """
        return await transactions.push_within(self._opened(), self._watch, session, jobs)

    async def claim(self, op: Op, ask: ClaimAsk) -> Claimed:
        """See `Driver.claim`."""
        await self._at_home(self._opened().bell.listen)
        self._opened().bell.mark([ask.queue])
        return await self._send(lambda store: claim.claim(store, self._claims, op, ask), reads=True)

    async def apply(self, op: Op, transitions: Sequence[Transition]) -> Sequence[Applied]:
        """See `Driver.apply`."""
        return await self._send(lambda store: apply.apply(store, op, transitions))

    async def annotate(self, notes: Sequence[Note]) -> Sequence[Applied]:
        """See `Driver.annotate`."""
        return await self._send(lambda store: annotate(store, notes))

    # -- leases ---------------------------------------------------------------------------------

    async def extend(self, leases: Sequence[HeldLease], lease: int) -> Sequence[Extended]:
        """See `Driver.extend`."""
        return await self._send(lambda store: extend(store, leases, lease))

    async def reclaim(self, op: Op, ask: ReclaimAsk) -> Sequence[JobRecord]:
        """See `Driver.reclaim`."""
        return await self._send(lambda store: reclaim(store, op, ask), reads=True)

    # -- reading --------------------------------------------------------------------------------

    async def get(self, refs: Sequence[Ref]) -> Sequence[JobRecord | None]:
        """See `Driver.get`."""
        return await self._send(lambda store: read.get(store, refs), reads=True)

    async def find(self, ask: FindAsk) -> Page:
        """See `Driver.find`."""
        return await self._send(lambda store: read.find(store, ask), reads=True)

    async def counts(self, queue: str) -> dict[State, int]:
        """See `Driver.counts`."""
        return await self._send(lambda store: read.counts(store, queue))

    async def queues(self) -> Sequence[str]:
        """See `Driver.queues`."""
        return await self._send(read.queues)

    async def standing(self, ref: Ref) -> Standing | None:
        """See `Lines.standing`."""
        return await self._send(lambda store: lines_count.standing(store, ref))

    async def prune(self, ask: PruneAsk) -> int:
        """See `Driver.prune`."""
        return await self._send(lambda store: prune.prune(store, ask))

    async def dedup_owner(self, queue: str, key: str) -> str | None:
        """See `Driver.dedup_owner`."""
        return await self._send(lambda store: dedup.dedup_owner(store, queue, key))

    async def release_dedup(self, queue: str, key: str, owner: str) -> bool:
        """See `Driver.release_dedup`."""
        return await self._send(lambda store: dedup.release_dedup(store, queue, key, owner))

    # -- settings, wake-ups, presence -----------------------------------------------------------

    async def settings(self, queue: str) -> QueueSettings:
        """See `Driver.settings`."""
        return await self._send(lambda store: settings.settings(store, queue))

    async def put_settings(self, queue: str, settings: QueueSettings) -> bool:
        """See `Driver.put_settings`."""
        call = uuid4().hex
        return await self._send(lambda store: put_settings(store, queue, settings, call))

    async def wait(self, queues: Sequence[str], timeout: float) -> bool:  # noqa: ASYNC109 - the interface's
        """See `Driver.wait`."""
        bell = self._opened().bell

        async def look() -> bool:
            return await self._send(lambda store: wait.look(store, queues, self._claims.blocked))

        return await self._at_home(lambda: wait.wait(bell, queues, timeout, look))

    async def events(
        self,
        queue: str,
        after: str | None,
        limit: int,
        timeout: float,  # noqa: ASYNC109 - the interface's
    ) -> EventPage:
        """See `Events.events`."""
        ask = Ask(queue, after, limit, 0)
        return await follow(self._send, self._streams, ask, timeout)

    async def beat(self, beat: Beat) -> BeatReply:
        """See `Presence.beat`."""
        return await self._send(lambda store: presence.beat(store, beat))

    async def tell(self, worker: str, command: Command) -> bool:
        """See `Presence.tell`."""
        return await self._send(lambda store: presence.tell(store, worker, command))

    async def workers(self) -> Sequence[WorkerInfo]:
        """See `Presence.workers`."""
        return await self._send(presence.workers)

    # -- helpers --------------------------------------------------------------------------------

    async def _send(self, do: Callable[[Store], Awaitable[Reply]], *, reads: bool = False) -> Reply:
        """Do it in a task of its own, which goes on if the caller is cancelled.

        A command cut off on the wire costs its connection, and may leak the socket. What `reads`
        whole records may get large replies.
        """
        return await self._at_home(lambda: self._shielded(do, reads=reads))

    async def _at_home(self, work: Callable[[], Awaitable[Reply]]) -> Reply:
        return await (work() if self._home is None else self._home.run(work))

    async def _shielded(self, do: Callable[[Store], Awaitable[Reply]], *, reads: bool) -> Reply:
        task = asyncio.ensure_future(self._try(self._opened(), do, reads=reads))
        self._sent.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        """Let go of what was sent. A caller that was cancelled does not ask how it ended."""
        self._sent.discard(task)
        if not task.cancelled():
            task.exception()

    async def _try(
        self, store: Store, do: Callable[[Store], Awaitable[Reply]], *, reads: bool
    ) -> Reply:
        """Do it, again if the connection broke: every verb can be repeated."""
        late = 0
        for left in reversed(range(_TRIES)):
            try:
                await store.clock.fresh()
                self._caretaker.look_soon()
                with longer(store.patience, late):
                    return await do(store)
            except (*FAULTS, StoreError) as error:
                late += reads and isinstance(error, NetworkTimeout)
                mapped = error if isinstance(error, StoreError) else translate(error, self.url)
                if isinstance(mapped, StoreUnavailable):
                    store.clock.forget()
                if not left or not await self._may_help(error, mapped):
                    raise mapped from None
            await asyncio.sleep(random.uniform(0, _PAUSE))  # noqa: S311 - jitter
        raise AssertionError("unreachable")

    async def _may_help(self, error: BaseException, mapped: BaseException) -> bool:
        """Return whether sending it again may help after an error, mapped to the store's."""
        if isinstance(error, ServerSelectionTimeoutError):
            return False  # it was waited for
        if isinstance(mapped, StoreIncompatible):
            with suppress(*FAULTS, StoreError):
                return await self._caretaker.mend()
        return isinstance(mapped, StoreUnavailable)

    def _opened(self) -> Store:
        if self._store is None:
            raise StoreUnavailable(f"The driver of {self.url} is not open. Await its open() first.")
        return self._store


@hookimpl
def taskmux_driver(url: str) -> Driver | None:
    """Serve `mongodb://` and `mongodb+srv://` URLs."""
    scheme = url.partition("://")[0].lower()
    return MongoDriver(url) if scheme in {"mongodb", "mongodb+srv"} else None
