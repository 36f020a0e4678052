"""Group commit: what is asked for while a batch is on the wire goes together as the next one.

No timer: an idle system sends at once, a busy one batches by itself. Producers (`push`), workers
(`apply`, `annotate`) and readers (`get`) all share this one class.

A store refuses a batch as a whole for one item that it cannot hold. The batch is then halved, and
the halves again, until the items that it was refused for are alone: only their owners are told.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Generic, TypeVar

from taskmux.api.begin import begin
from taskmux.driver import Op
from taskmux.model.errors import StoreBusy, StoreDenied, StoreFull, StoreUnavailable

__all__ = ["ABOUT_THE_STORE", "BATCH_BYTES", "GroupCommit", "Ops", "Replies", "resend"]

Item = TypeVar("Item")
Reply = TypeVar("Reply")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0

BATCH_BYTES = 8_000_000
"""About how many bytes of payloads one batch carries. A larger item travels alone."""

MOST_REFUSALS = 64
"""How many parts of a batch may be refused in a row. To find one bad item among 500 takes 9; after
so many with nothing accepted in between, it is not an item that is refused."""

CLOCK_RESOLUTION = 0.001

Errors = tuple[type[Exception], ...]

Reconcile = Callable[
    [Sequence[Item], Sequence[Reply | BaseException]], Awaitable[Sequence[Reply | BaseException]]
]

Asked = tuple[Item, "asyncio.Future[Reply]", float]
"""What is asked, the future of its reply, and when that is late."""

ABOUT_THE_STORE: Errors = (StoreUnavailable, StoreFull, StoreDenied)
"""Errors that every batch would meet: looking for an item to blame is of no use."""


class Ops:
    """Mints operation ids of one origin: random once, then counting."""

    def __init__(self) -> None:
        self._origin = os.urandom(8).hex()
        self._numbers = itertools.count(1)

    def next(self) -> Op:
        """Return the next operation id."""
        return Op(self._origin, next(self._numbers))


async def resend(
    send: Callable[[], Awaitable[Reply]],
    tries: int | None,
    pause: float = FIRST_PAUSE,
    again: Errors = (StoreUnavailable,),
) -> Reply:
    """Await `send()` until the store answers; `send` must repeat the same op.

    Args:
        send: starts the operation.
        tries: how often at most; None: until it is cancelled.
        pause: seconds before the second try, doubled after each up to 5.
        again: the errors after which it is sent again.

    Raises:
        StoreUnavailable: the last try's, or another error of `again`.
        StoreError: any other at once: sending again would not help.
    """
    for number in itertools.count(1):
        try:
            return await send()
        except again as error:
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
        deliver: called per item with its reply, or with the error that it was refused with.
        limit: the most items of one batch.
        tries: how often a batch is sent while the store is unavailable; None: for ever.
        size: returns about how many bytes an item takes, if batches are to be bounded by bytes.
        reconcile: given the items and replies of a part of a refused batch. The refused try may
            have stored some of them; it returns what their owners are to be told.
        again: the errors after which the same batch is sent again.
        whole: the errors for which no item is looked for: each of the batch is told.
    """

    def __init__(
        self,
        send: Callable[[Op, Sequence[Item]], Awaitable[Sequence[Reply | BaseException]]],
        deliver: Callable[[Item, Reply | BaseException], None],
        *,
        limit: int = 500,
        tries: int | None = 3,
        size: Callable[[Item], int] | None = None,
        reconcile: Reconcile[Item, Reply] | None = None,
        again: Errors = (StoreUnavailable,),
        whole: Errors = ABOUT_THE_STORE,
    ) -> None:
        self._send = send
        self._deliver = deliver
        self._limit = limit
        self._tries = tries
        self._size = size
        self._reconcile = reconcile
        self._again = again
        self._whole = whole
        self._ops = Ops()
        self._items: deque[Item] = deque()
        self._in_flight: list[Item] = []
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many items have no reply yet."""
        return len(self._items) + len(self._in_flight)

    def __iter__(self) -> Iterator[Item]:
        """Yield the items that have no reply yet, oldest first."""
        return itertools.chain(self._in_flight, self._items)

    def put(self, item: Item) -> None:
        """Send an item with the next batch."""
        self._items.append(item)
        if self._task is None:
            self._task = begin(self._run())
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
            self._in_flight = self._next_batch()
            await self._commit(self._in_flight)
            self._in_flight = []
        self._task = None

    def _next_batch(self) -> list[Item]:
        items, size = self._items, self._size
        count = min(len(items), self._limit)
        if size is None or count == 1:
            return [items.popleft() for _ in range(count)]
        batch = [items.popleft()]
        room = BATCH_BYTES - size(batch[0])
        while len(batch) < count and (room := room - size(items[0])) >= 0:
            batch.append(items.popleft())
        return batch

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
        try:
            replies = await self._sent(batch)
        except Exception as error:  # noqa: BLE001 - each item's owner gets it
            await self._divide(batch, error)
            return
        for item, reply in zip(batch, replies, strict=True):
            self._deliver(item, reply)

    async def _sent(self, batch: list[Item]) -> Sequence[Reply | BaseException]:
        op = self._ops.next()
        return await resend(lambda: self._send(op, batch), self._tries, again=self._again)

    async def _divide(self, batch: list[Item], error: Exception) -> None:
        """Send the parts of a refused batch, in order, until each item has its own answer."""
        self._in_flight = list(batch)
        left = deque([batch])  # the first part was refused, the others were not tried yet
        refusals = 1
        while True:
            part = left.popleft()
            if isinstance(error, self._whole) or refusals > MOST_REFUSALS:
                for rest in (part, *left):
                    self._tell(rest, [error] * len(rest))
                return
            if len(part) == 1:
                self._tell(part, [error])
            else:
                left.extendleft([part[len(part) // 2 :], part[: len(part) // 2]])
            while left:
                try:
                    replies = await self._sent_again(left[0])
                except Exception as refusal:  # noqa: BLE001 - each item's owner gets it
                    error, refusals = refusal, refusals + 1
                    break
                refusals = 0
                self._tell(left.popleft(), replies)
            else:
                return

    async def _sent_again(self, part: list[Item]) -> Sequence[Reply | BaseException]:
        replies, reconcile = await self._sent(part), self._reconcile
        if reconcile is None:
            return replies
        return await resend(lambda: reconcile(part, replies), self._tries, again=self._again)

    def _tell(self, part: list[Item], replies: Sequence[Reply | BaseException]) -> None:
        del self._in_flight[: len(part)]
        for item, reply in zip(part, replies, strict=True):
            self._deliver(item, reply)


class Replies(Generic[Item, Reply]):
    """A group commit whose callers await their own reply.

    A cancelled caller takes nothing back: what it asked for may still happen.

    Args:
        send, limit, size, reconcile: as for `GroupCommit`.
    """

    def __init__(
        self,
        send: Callable[[Op, Sequence[Item]], Awaitable[Sequence[Reply | BaseException]]],
        limit: int = 500,
        *,
        size: Callable[[Item], int] | None = None,
        reconcile: Reconcile[Item, Reply] | None = None,
    ) -> None:
        async def send_items(
            op: Op, asked: Sequence[Asked[Item, Reply]]
        ) -> Sequence[Reply | BaseException]:
            return await send(op, [one[0] for one in asked])

        async def reconcile_items(
            asked: Sequence[Asked[Item, Reply]], replies: Sequence[Reply | BaseException]
        ) -> Sequence[Reply | BaseException]:
            assert reconcile is not None
            return await reconcile([one[0] for one in asked], replies)

        self._group: GroupCommit[Asked[Item, Reply], Reply] = GroupCommit(
            send_items,
            _answer,
            limit=limit,
            size=None if size is None else lambda one: size(one[0]),
            reconcile=None if reconcile is None else reconcile_items,
        )
        self._next_deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, item: Item, deadline: float = math.inf) -> asyncio.Future[Reply]:
        """Send an item with the next batch and return the future of its reply.

        Args:
            item: what is sent.
            deadline: the event loop's time at which the future fails with `TimeoutError`, if there
                is no reply by then. The item may be sent all the same.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self._group.put((item, future, deadline))
        if deadline < self._next_deadline:
            self._watch(loop, deadline)
        return future

    def _watch(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """Look for late replies at this time. One timer serves all of them."""
        if self._timer is not None:
            self._timer.cancel()
        self._next_deadline = deadline
        self._timer = loop.call_at(deadline, self._fail_late, loop)

    def _fail_late(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._next_deadline = None, math.inf
        # The clock may be a little before a timer's time when it calls.
        now = loop.time() + CLOCK_RESOLUTION
        for _, future, deadline in self._group:
            if deadline <= now and not future.done():
                future.set_exception(TimeoutError("there was no reply in time"))
        soonest = min((one[2] for one in self._group if one[2] > now), default=math.inf)
        if soonest < math.inf:
            self._watch(loop, soonest)

    async def close(self) -> None:
        """Wait for the replies under way."""
        await self._group.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._next_deadline = None, math.inf


def _answer(asked: Asked[Item, Reply], reply: Reply | BaseException) -> None:
    future = asked[1]
    if future.done():  # its caller was cancelled, or told that the reply is late
        return
    if isinstance(reply, BaseException):
        future.set_exception(reply)
    else:
        future.set_result(reply)
