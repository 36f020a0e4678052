"""The Redis driver: each verb is one script call for each queue it touches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

from redis.asyncio import RedisCluster
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
    Transition,
    WorkerInfo,
)

from taskmux_redis import presence
from taskmux_redis.address import parse
from taskmux_redis.apply import apply
from taskmux_redis.checks import check_server
from taskmux_redis.claim import claim
from taskmux_redis.clients import (
    Client,
    check_client,
    connect,
    connections,
    longest_block,
    where_is,
)
from taskmux_redis.connection import Connection
from taskmux_redis.dedup import dedup_owner, release_dedup
from taskmux_redis.events import events
from taskmux_redis.home import Home
from taskmux_redis.keys import check_prefix
from taskmux_redis.leases import extend, reclaim
from taskmux_redis.lines import standing
from taskmux_redis.notes import annotate
from taskmux_redis.prune import prune
from taskmux_redis.push import push
from taskmux_redis.read import counts, find, get, queues
from taskmux_redis.settings import put_settings, settings
from taskmux_redis.store import Known, Store
from taskmux_redis.wait import wait_for_work

__all__ = ["RedisDriver"]

PREFIX = "tm"
TIMEOUT = 5.0


class RedisDriver(Driver):
    """Jobs in Redis or Valkey: one server, Sentinel or Cluster.

    Args:
        url: where the server is; `docs/redis.md` lists forms and options.
    """

    def __init__(self, url: str) -> None:
        self._address = parse(url)
        options = self._address.options
        self._accepts_eviction = options.allow_eviction
        self._may_have_missed = False
        self._connection = Connection(self._connect, self._address.where, options.timeout)
        self._store = Store(
            self._connection,
            options.prefix,
            Known(),
            is_cluster=self._address.scheme == "redis+cluster",
        )

    @staticmethod
    def from_client(client: Client, *, prefix: str = PREFIX) -> ClientDriver:
        """Return a driver that uses an application's own client, as it is.

        The client, and so this driver and its forks, belong to the application's event loop. It
        stays the application's to close.

        Args:
            client: a `redis.asyncio.Redis` or `RedisCluster`.
            prefix: begins every key.

        Raises:
            StoreIncompatible: the client cannot be used; the message says how to make one.
        """
        check_client(client)
        return ClientDriver(client, check_prefix(prefix))

    def _connect(self) -> Client:
        return connect(self._address)

    @property
    def url(self) -> str:
        """The server's URL, with credentials hidden."""
        return self._address.shown

    # -- life -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `Driver.open`."""
        if self._connection.is_open:
            return
        self._connection.open()
        try:
            await check_server(self._store, accepts_eviction=self._accepts_eviction)
        except BaseException:
            await self._connection.close()
            raise

    async def close(self) -> None:
        """See `Driver.close`."""
        await self._connection.close()

    def fork(self) -> Self:
        """Return another unopened instance on the same URL, with connections of its own."""
        return self._knowing(type(self)(self._address.url))

    def _knowing(self, fork: Self) -> Self:
        """Share with a fork what is known of the store."""
        fork._store.known = self._store.known
        return fork

    # -- the hot path ---------------------------------------------------------------------------

    async def push(self, op: Op, jobs: Sequence[NewJob]) -> Sequence[Pushed]:
        """See `Driver.push`."""
        return await push(self._store, op, jobs)

    async def claim(self, op: Op, ask: ClaimAsk) -> Claimed:
        """See `Driver.claim`."""
        return await claim(self._store, op, ask)

    async def apply(self, op: Op, transitions: Sequence[Transition]) -> Sequence[Applied]:
        """See `Driver.apply`."""
        return await apply(self._store, op, transitions)

    async def annotate(self, notes: Sequence[Note]) -> Sequence[Applied]:
        """See `Driver.annotate`."""
        return await annotate(self._store, notes)

    # -- leases ---------------------------------------------------------------------------------

    async def extend(self, leases: Sequence[HeldLease], lease: int) -> Sequence[Extended]:
        """See `Driver.extend`."""
        return await extend(self._store, leases, lease)

    async def reclaim(self, op: Op, ask: ReclaimAsk) -> Sequence[JobRecord]:
        """See `Driver.reclaim`."""
        return await reclaim(self._store, op, ask)

    # -- reading --------------------------------------------------------------------------------

    async def get(self, refs: Sequence[Ref]) -> Sequence[JobRecord | None]:
        """See `Driver.get`."""
        return await get(self._store, refs)

    async def find(self, ask: FindAsk) -> Page:
        """See `Driver.find`."""
        return await find(self._store, ask)

    async def counts(self, queue: str) -> dict[State, int]:
        """See `Driver.counts`."""
        return await counts(self._store, queue)

    async def standing(self, ref: Ref) -> Standing | None:
        """See `Lines.standing`."""
        return await standing(self._store, ref)

    async def queues(self) -> Sequence[str]:
        """See `Driver.queues`."""
        return await queues(self._store)

    async def prune(self, ask: PruneAsk) -> int:
        """See `Driver.prune`."""
        return await prune(self._store, ask)

    async def dedup_owner(self, queue: str, key: str) -> str | None:
        """See `Driver.dedup_owner`."""
        return await dedup_owner(self._store, queue, key)

    async def release_dedup(self, queue: str, key: str, owner: str) -> bool:
        """See `Driver.release_dedup`."""
        return await release_dedup(self._store, queue, key, owner)

    # -- settings, wake-ups, presence -----------------------------------------------------------

    async def settings(self, queue: str) -> QueueSettings:
        """See `Driver.settings`."""
        return await settings(self._store, queue)

    async def put_settings(self, queue: str, settings: QueueSettings) -> bool:
        """See `Driver.put_settings`."""
        return await put_settings(self._store, queue, settings)

    async def wait(self, queues: Sequence[str], timeout: float) -> bool:  # noqa: ASYNC109 - the interface's
        """See `Driver.wait`."""
        if self._may_have_missed:
            self._may_have_missed = False
            return True
        try:
            return await wait_for_work(self._store, queues, timeout)
        except asyncio.CancelledError:
            # the server may give a wake-up to the dying connection
            self._may_have_missed = True
            raise

    async def events(
        self,
        queue: str,
        after: str | None,
        limit: int,
        timeout: float,  # noqa: ASYNC109 - the interface's
    ) -> EventPage:
        """See `Events.events`."""
        return await events(self._store, queue, after, limit, timeout)

    async def beat(self, beat: Beat) -> BeatReply:
        """See `Presence.beat`."""
        return await presence.beat(self._store, beat)

    async def tell(self, worker: str, command: Command) -> bool:
        """See `Presence.tell`."""
        return await presence.tell(self._store, worker, command)

    async def workers(self) -> Sequence[WorkerInfo]:
        """See `Presence.workers`."""
        return await presence.workers(self._store)


class ClientDriver(RedisDriver):
    """Jobs in Redis, by an application's own client; made by `RedisDriver.from_client`."""

    def __init__(self, client: Client, prefix: str, home: Home | None = None) -> None:
        self._client = client
        self._home = Home() if home is None else home
        self._accepts_eviction = False
        self._may_have_missed = False
        self._connection = Connection(self._connect, where_is(client), TIMEOUT, self._home)
        is_cluster = isinstance(client, RedisCluster)
        self._store = Store(self._connection, prefix, Known(), is_cluster=is_cluster)
        self._store.longest_block = longest_block(client)
        self._store.followers = min(self._store.followers, connections(client) // 4)

    def _connect(self) -> Client:
        return self._client

    @property
    def url(self) -> str:
        """The server's address: a client does not tell a URL."""
        return f"redis://{self._connection.where}"

    @property
    def bound(self) -> bool:
        """Whether the client is the application's own: it is."""
        return True

    def fork(self) -> Self:
        """Return another unopened instance on the same client."""
        return self._knowing(type(self)(self._client, self._store.prefix, self._home))
