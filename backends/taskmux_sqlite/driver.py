"""The SQLite driver: every verb is one transaction on the session's thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Self, TypeVar

from taskmux.driver import (
    Applied,
    Beat,
    BeatReply,
    ClaimAsk,
    Claimed,
    Command,
    CorruptRecord,
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
    StoreUnavailable,
    Transition,
    WorkerInfo,
    hookimpl,
)

from taskmux_sqlite import apply, claim, dedup, events, lines, presence, prune, push, read
from taskmux_sqlite.address import parse
from taskmux_sqlite.leases import extend, reclaim
from taskmux_sqlite.notes import annotate
from taskmux_sqlite.session import Session
from taskmux_sqlite.settings import put_settings, settings
from taskmux_sqlite.transaction import Transaction, outdated

__all__ = ["SQLiteDriver", "taskmux_driver"]

Reply = TypeVar("Reply")


def epoch_ms() -> int:
    """Return the machine's clock in milliseconds."""
    return time.time_ns() // 1_000_000


class SQLiteDriver(Driver):
    """Jobs in one SQLite file, for any number of processes on one machine.

    Args:
        url: `sqlite:///relative.db` or `sqlite:////absolute.db`, with the options
            `busy_timeout` (milliseconds) and `synchronous` (`full` or `normal`).
        clock: the store's clock, in epoch milliseconds.

    Raises:
        InvalidURL: the URL names no file, or an option is wrong.
    """

    def __init__(
        self, url: str = "sqlite:///taskmux.db", *, clock: Callable[[], int] = epoch_ms
    ) -> None:
        self._given: Final = url
        self._address = parse(url)
        self._clock: Final = clock
        self._session: Session | None = None
        self._opening = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._nothing: Final[dict[tuple[str, str, str], tuple[int, Claimed]]] = {}

    @property
    def url(self) -> str:
        """The store's URL."""
        return self._address.url

    async def open(self) -> None:
        """See `Driver.open`."""
        async with (
            self._one_at_a_time()
        ):  # the second of two callers opens it if the first one cannot
            if self._session is None or not self._session.here:
                session = Session(self._address, self._clock)
                await session.open()
                self._session = session

    async def close(self) -> None:
        """See `Driver.close`."""
        async with self._one_at_a_time():
            session, self._session = self._session, None
        if session is not None:
            await session.close()

    def abandon(self) -> None:
        """See `Driver.abandon`."""
        session, self._session = self._session, None
        if session is not None:
            session.abandon()

    def fork(self) -> Self:
        """Return another unopened instance on the same file."""
        fork = type(self)(self._given, clock=self._clock)
        fork._address = self._address  # noqa: SLF001 - a relative path stays what it was
        return fork

    # -- the hot path ---------------------------------------------------------------------------

    async def push(self, op: Op, jobs: Sequence[NewJob]) -> Sequence[Pushed]:
        """See `Driver.push`."""
        return await self._write(partial(push.push, op=op, jobs=jobs))

    async def claim(self, op: Op, ask: ClaimAsk) -> Claimed:
        """See `Driver.claim`."""
        return await self._once(op, "claim", ask.queue, partial(claim.claim, op=op, ask=ask))

    async def apply(self, op: Op, transitions: Sequence[Transition]) -> Sequence[Applied]:
        """See `Driver.apply`."""
        return await self._write(partial(apply.apply, op=op, transitions=transitions))

    async def annotate(self, notes: Sequence[Note]) -> Sequence[Applied]:
        """See `Driver.annotate`."""
        return await self._write(partial(annotate, notes=notes))

    # -- leases ---------------------------------------------------------------------------------

    async def extend(self, leases: Sequence[HeldLease], lease: int) -> Sequence[Extended]:
        """See `Driver.extend`."""
        return await self._write(partial(extend, leases=leases, lease=lease))

    async def reclaim(self, op: Op, ask: ReclaimAsk) -> Sequence[JobRecord]:
        """See `Driver.reclaim`."""
        do = partial(reclaim, op=op, ask=ask)
        return (await self._once(op, "reclaim", ask.queue, do)).jobs

    # -- reading --------------------------------------------------------------------------------

    async def get(self, refs: Sequence[Ref]) -> Sequence[JobRecord | None]:
        """See `Driver.get`."""
        try:
            return await self._read(partial(read.get, refs=refs))
        except CorruptRecord:
            await self._write(partial(read.set_aside, refs=refs))
            raise

    async def find(self, ask: FindAsk) -> Page:
        """See `Driver.find`."""
        while True:
            try:
                return await self._read(partial(read.find, ask=ask))
            except CorruptRecord:
                await self._write(partial(read.set_aside_page, ask=ask))

    async def counts(self, queue: str) -> dict[State, int]:
        """See `Driver.counts`."""
        return await self._read(partial(read.counts, queue=queue))

    async def queues(self) -> Sequence[str]:
        """See `Driver.queues`."""
        return await self._read(read.queues)

    async def standing(self, ref: Ref) -> Standing | None:
        """See `Lines.standing`."""
        return await self._read(partial(lines.standing, ref=ref))

    async def prune(self, ask: PruneAsk) -> int:
        """See `Driver.prune`."""
        return await self._write(partial(prune.prune, ask=ask))

    async def dedup_owner(self, queue: str, key: str) -> str | None:
        """See `Driver.dedup_owner`. One whose time is over makes way: that is a write."""
        return await self._write(partial(dedup.dedup_owner, queue=queue, key=key))

    async def release_dedup(self, queue: str, key: str, owner: str) -> bool:
        """See `Driver.release_dedup`."""
        return await self._write(partial(dedup.release_dedup, queue=queue, key=key, owner=owner))

    # -- settings, wake-ups, presence -----------------------------------------------------------

    async def settings(self, queue: str) -> QueueSettings:
        """See `Driver.settings`."""
        return await self._read(partial(settings, queue=queue))

    async def put_settings(self, queue: str, settings: QueueSettings) -> bool:
        """See `Driver.put_settings`."""
        return await self._write(partial(put_settings, queue=queue, new=settings))

    async def wait(self, queues: Sequence[str], timeout: float) -> bool:  # noqa: ASYNC109 - the interface's
        """See `Driver.wait`."""
        return await self._opened().wait(queues, timeout)

    async def events(
        self,
        queue: str,
        after: str | None,
        limit: int,
        timeout: float,  # noqa: ASYNC109 - the interface's
    ) -> EventPage:
        """See `Events.events`."""

        def read_page(transaction: Transaction) -> EventPage:
            kept = transaction.queue(queue).settings.events
            return events.page(transaction.connection, queue, kept, after, limit)

        page = await self._read(read_page)
        if after is None or page.events or page.gap or timeout <= 0:
            return page
        ready = partial(events.are_events, queue=queue, after=page.cursor)
        return await self._read(read_page) if await self._opened().follow(ready, timeout) else page

    async def beat(self, beat: Beat) -> BeatReply:
        """See `Presence.beat`."""
        return await self._write(partial(presence.beat, beat=beat))

    async def tell(self, worker: str, command: Command) -> bool:
        """See `Presence.tell`."""
        return await self._write(partial(presence.tell, worker=worker, command=command))

    async def workers(self) -> Sequence[WorkerInfo]:
        """See `Presence.workers`."""
        return await self._read(presence.workers)

    # -- helpers --------------------------------------------------------------------------------

    async def _read(self, do: Callable[[Transaction], Reply]) -> Reply:
        return await self._opened().ask(lambda store: store.read(do))

    async def _write(self, do: Callable[[Transaction], Reply]) -> Reply:
        return await self._opened().ask(lambda store: store.write(do))

    def _opened(self) -> Session:
        if self._session is None:
            raise StoreUnavailable(f"The driver of {self.url} is not open. Await its open() first.")
        return self._session

    async def _once(
        self, op: Op, verb: str, queue: str, do: Callable[[Transaction], Claimed]
    ) -> Claimed:
        """Claim or reclaim. The repeat of one that gave nothing is answered as before.

        That is remembered here and not in the file, so that an idle worker's claims write nothing.
        """
        number, nothing = self._nothing.get((op.origin, verb, queue), (None, None))
        if nothing is not None and number is not None and number >= op.number:
            if number > op.number:
                raise outdated(verb, op)
            return nothing
        claimed = await self._write(do)
        if not claimed.jobs:
            self._nothing[op.origin, verb, queue] = op.number, claimed
        return claimed

    def _one_at_a_time(self) -> asyncio.Lock:
        """Return the lock of opening and closing: a new one in another event loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._opening = loop, asyncio.Lock()
        return self._opening


@hookimpl
def taskmux_driver(url: str) -> Driver | None:
    """Serve `sqlite://` URLs."""
    return SQLiteDriver(url) if url.lower().startswith("sqlite:") else None
