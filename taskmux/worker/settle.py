"""Settling: decided outcomes go to the store in batches, again and again until it answers.

Leases of unsettled jobs stay renewed meanwhile, so a store that is away for a while loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from taskmux.api.batch import ABOUT_THE_STORE, GroupCommit
from taskmux.driver import Applied, ApplyStatus, Driver
from taskmux.model import transition
from taskmux.model.log import Log
from taskmux.model.transition import Transition
from taskmux.worker.damage import DAMAGED
from taskmux.worker.held import Held
from taskmux.worker.mending import Mending
from taskmux.worker.outage import WAITED_OUT, Outage
from taskmux.worker.refusal import Substitutes
from taskmux.worker.sending import Entry, Sender, size

__all__ = ["Settler"]

logger = Log("taskmux.worker")

Stored = Callable[[Held, Transition, Applied], None]


class Settler:
    """Applies outcomes of one store's jobs.

    Args:
        driver: the store, open.
        stored: called for each outcome that the store answered.
        outage: told when the store does not take outcomes, and when it does again.
        substitutes: makes outcomes for those that the store refused.
    """

    def __init__(
        self, driver: Driver, stored: Stored, outage: Outage, substitutes: Substitutes
    ) -> None:
        self._driver = driver
        self._stored = stored
        self._outage = outage
        self._substitutes = substitutes
        sender = Sender(driver, outage)
        self._group: GroupCommit[Entry, Applied] = GroupCommit(
            sender.send,
            self._answered,
            tries=None,
            size=size,
            reconcile=sender.reconcile,
            again=WAITED_OUT,
            whole=ABOUT_THE_STORE + DAMAGED,
        )
        self._apart: dict[str, Mending] = {}
        """Queues of which a batch met damage. They must not hold up the outcomes of others."""
        self._begun: list[Held] = []
        self._given_up = False

    def __len__(self) -> int:
        """Return how many transitions the store has not answered yet."""
        apart = sum(map(len, self._apart.values()))
        return len(self._group) + len(self._begun) + apart

    def settle(self, held: Held, outcome: Transition) -> None:
        """Store an outcome with the next batch."""
        held.outcome = outcome
        self._put(Entry(held, outcome))

    def mark_started(self, held: Held) -> None:
        """Say with the next batch that a prefetched job runs now, unless it is done by then.

        A handler that never waits is done before this turn of the event loop ends.
        """
        held.started = True
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._put_marks)
        self._begun.append(held)

    def _put_marks(self) -> None:
        begun, self._begun = self._begun, []
        for held in begun:
            if held.outcome is None:
                self._put(Entry(held, transition.start(held.job)))

    async def confirm_started(self, held: Held) -> bool:
        """Say so and wait for the answer: False if the lease is lost.

        A job that was delivered before may be a poison message; the mark must be stored before
        its handler can bring the process down, or the crash would never be counted.
        """
        held.started = True
        reply: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._put(Entry(held, transition.start(held.job), reply))
        return await reply

    async def quiet(self) -> None:
        """Wait until everything given so far is stored, however long the store is away.

        What waits until a queue is mended is not waited for.
        """
        self._put_marks()
        await self._group.flush()
        for apart in tuple(self._apart.values()):
            await apart.sent()

    async def flush(self, timeout: float) -> bool:  # noqa: ASYNC109 - what is left is reported
        """Wait until everything is stored; False if `timeout` seconds were not enough."""
        self._put_marks()
        try:
            async with asyncio.timeout(timeout):
                await self._group.flush()
                while self._apart:
                    await next(iter(self._apart.values())).flush()
        except TimeoutError:
            self._given_up = True
            await self._group.abandon()
            for apart in tuple(self._apart.values()):
                await apart.abandon()
            return False
        return True

    def _put(self, entry: Entry) -> None:
        """Send with the next batch, or with that of its own queue if that is apart."""
        apart = self._apart.get(entry.held.job.queue) if self._apart else None
        if apart is None:
            self._group.put(entry)
        else:
            apart.put(entry)

    def _answered(self, entry: Entry, reply: Applied | BaseException) -> None:
        """Deliver the reply of a batch of any queues, one of which may be damaged."""
        if not isinstance(reply, DAMAGED):
            self._deliver(entry, reply)
            return
        queue = entry.held.job.queue
        if queue not in self._apart:
            sender = Sender(self._driver, self._outage)
            self._apart[queue] = Mending(queue, sender, self._deliver, self._rejoin)
        self._apart[queue].put(entry)

    def _rejoin(self, queue: str) -> None:
        del self._apart[queue]

    def _deliver(self, entry: Entry, reply: Applied | BaseException) -> None:
        if isinstance(reply, asyncio.CancelledError) and not self._given_up:
            # Somebody cancelled the task that sends, as a handler can: what it had goes again.
            entry.again = True
            self._put(entry)
            return
        if entry.again and isinstance(reply, Applied) and reply.status in _REFUSED:
            reply = Applied(ApplyStatus.REPEATED, entry.what.to)  # by its first copy, most likely
        lost = not isinstance(reply, Applied) or reply.status in _REFUSED
        if entry.reply is not None and not entry.reply.done():
            entry.reply.set_result(not lost)
        if entry.what is not entry.held.outcome:
            return
        if isinstance(reply, BaseException):
            if not isinstance(reply, _FINAL) and self._replaced(entry, reply):
                return
            logger.error(
                "job %s: its outcome could not be stored and its lease will lapse: %r",
                entry.held.job.ref,
                reply,
            )
            reply = Applied(ApplyStatus.STALE)
        self._stored(entry.held, entry.what, reply)

    def _replaced(self, refused: Entry, error: BaseException) -> bool:
        """Store something else about a run whose outcome was refused, if that may help."""
        held, refusals = refused.held, refused.refusals + 1
        what = self._substitutes.instead(held, error, refusals)
        if what is None:
            return False
        held.outcome = what
        entry = Entry(held, what)
        entry.refusals = refusals
        self._put(entry)
        return True


_FINAL = (asyncio.CancelledError, *DAMAGED)
"""Errors after which storing something else would not help: there is no time, or no lease."""

_REFUSED = frozenset({ApplyStatus.STALE, ApplyStatus.GONE})
