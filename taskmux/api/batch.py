"""Group commit: what is asked for while a batch is on the wire goes together as the next one.

No timer: an idle system sends at once, a busy one batches by itself. Producers (`push`), workers
(`apply`, `annotate`) and readers (`get`) all share this one class.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from taskmux.driver import Op
from taskmux.model.errors import StoreBusy, StoreUnavailable

__all__ = ["GroupCommit", "Ops", "Replies", "resend"]

Item = TypeVar("Item")
Reply = TypeVar("Reply")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0


class Ops:
    """Mints operation ids of one origin: random once, then counting."""

    def __init__(self) -> None:
        self._origin = os.urandom(8).hex()
        self._numbers = itertools.count(1)

    def next(self) -> Op:
        """Return the next operation id."""
        return Op(self._origin, next(self._numbers))


async def resend(
    send: Callable[[], Awaitable[Reply]], tries: int | None, pause: float = FIRST_PAUSE
) -> Reply:
    """Await `send()` until the store answers; `send` must repeat the same op.

    Args:
        send: starts the operation.
        tries: how often at most; None: until it is cancelled.
        pause: seconds before the second try, doubled after each up to 5.

    Raises:
        StoreUnavailable: the last try's.
        StoreError: any other at once: sending again would not help.
    """
    for number in itertools.count(1):
        try:
            return await send()
        except StoreUnavailable as error:
            final = tries is not None and (number >= tries or isinstance(error, StoreBusy))
            if final:
                raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
    raise AssertionError("unreachable")


class GroupCommit(Generic[Item, Reply]):
    """Collects items and sends them in batches, one batch in flight.

    Args:
        send: sends one batch under an op and returns a reply, or an error, per item.
        deliver: called per item with its reply, or with the error that its batch met.
        limit: the most items of one batch.
        tries: how often a batch is sent while the store is unavailable; None: for ever.
    """

    def __init__(
        self,
        send: Callable[[Op, Sequence[Item]], Awaitable[Sequence[Reply | BaseException]]],
        deliver: Callable[[Item, Reply | BaseException], None],
        *,
        limit: int = 500,
        tries: int | None = 3,
    ) -> None:
        self._send = send
        self._deliver = deliver
        self._limit = limit
        self._tries = tries
        self._ops = Ops()
        self._items: deque[Item] = deque()
        self._in_flight: list[Item] = []
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many items have no reply yet."""
        return len(self._items) + len(self._in_flight)

    def put(self, item: Item) -> None:
        """Send an item with the next batch."""
        self._items.append(item)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._ended)

    async def flush(self) -> None:
        """Wait until every item put so far has its reply."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def abandon(self) -> None:
        """Stop sending; items without a reply are delivered a `CancelledError`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._items:
            size = min(len(self._items), self._limit)
            self._in_flight = [self._items.popleft() for _ in range(size)]
            await self._commit(self._in_flight)
            self._in_flight = []
        self._task = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Tell the items of a task that was cancelled, perhaps before its first step."""
        if self._task is not task:  # it ended by itself, and another may be at work
            return
        self._task = None
        rest = [*self._in_flight, *self._items]
        self._in_flight = []
        self._items.clear()
        for item in rest:
            self._deliver(item, asyncio.CancelledError())

    async def _commit(self, batch: list[Item]) -> None:
        op = self._ops.next()
        try:
            replies = await resend(lambda: self._send(op, batch), self._tries)
        except Exception as error:  # noqa: BLE001 - each item's owner gets it
            for item in batch:
                self._deliver(item, error)
            return
        for item, reply in zip(batch, replies, strict=True):
            self._deliver(item, reply)


class Replies(Generic[Item, Reply]):
    """A group commit whose callers await their own reply.

    A cancelled caller takes nothing back: what it asked for may still happen.
    """

    def __init__(
        self,
        send: Callable[[Op, Sequence[Item]], Awaitable[Sequence[Reply | BaseException]]],
        limit: int = 500,
    ) -> None:
        async def send_items(
            op: Op, pairs: Sequence[tuple[Item, asyncio.Future[Reply]]]
        ) -> Sequence[Reply | BaseException]:
            return await send(op, [item for item, _ in pairs])

        self._group: GroupCommit[tuple[Item, asyncio.Future[Reply]], Reply] = GroupCommit(
            send_items, _answer, limit=limit
        )

    def ask(self, item: Item) -> asyncio.Future[Reply]:
        """Send an item with the next batch and return the future of its reply."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._group.put((item, future))
        return future

    async def close(self) -> None:
        """Wait for the replies under way."""
        await self._group.flush()


def _answer(pair: tuple[Item, asyncio.Future[Reply]], reply: Reply | BaseException) -> None:
    future = pair[1]
    if future.done():  # its caller was cancelled
        return
    if isinstance(reply, BaseException):
        future.set_exception(reply)
    else:
        future.set_result(reply)
