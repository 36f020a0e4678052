"""Settling: decided outcomes go to the store in batches, again and again until it answers.

Leases of unsettled jobs stay renewed meanwhile, so a store that is away for a while loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from taskmux.api.batch import GroupCommit
from taskmux.api.reconcile import applied_before
from taskmux.driver import Applied, ApplyStatus, Driver, Op
from taskmux.model import transition
from taskmux.model.log import Log
from taskmux.model.transition import Transition
from taskmux.worker.held import Held
from taskmux.worker.outage import WAITED_OUT, Outage
from taskmux.worker.refusal import Substitutes

__all__ = ["Settler"]

logger = Log("taskmux.worker")

Stored = Callable[[Held, Transition, Applied], None]


class Entry:
    """One transition on its way; `reply` is set for those that somebody awaits.

    `again`: its first copy was cut off, and may have been applied or not. `refusals`: how often
    the store refused what was to be stored about this run.
    """

    __slots__ = ("again", "held", "refusals", "reply", "what")

    def __init__(
        self, held: Held, what: Transition, reply: asyncio.Future[bool] | None = None
    ) -> None:
        self.held = held
        self.what = what
        self.reply = reply
        self.again = False
        self.refusals = 0


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
        self._group: GroupCommit[Entry, Applied] = GroupCommit(
            self._send,
            self._deliver,
            tries=None,
            size=_size,
            reconcile=self._reconcile,
            again=WAITED_OUT,
        )
        self._batch: tuple[Op, list[Entry]] | None = None
        self._begun: list[Held] = []
        self._given_up = False

    def __len__(self) -> int:
        """Return how many transitions the store has not answered yet."""
        return len(self._group) + len(self._begun)

    def settle(self, held: Held, outcome: Transition) -> None:
        """Store an outcome with the next batch."""
        held.outcome = outcome
        self._group.put(Entry(held, outcome))

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
                self._group.put(Entry(held, transition.start(held.job)))

    async def confirm_started(self, held: Held) -> bool:
        """Say so and wait for the answer: False if the lease is lost.

        A job that was delivered before may be a poison message; the mark must be stored before
        its handler can bring the process down, or the crash would never be counted.
        """
        held.started = True
        reply: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._group.put(Entry(held, transition.start(held.job), reply))
        return await reply

    async def quiet(self) -> None:
        """Wait until everything given so far is stored, however long the store is away."""
        self._put_marks()
        await self._group.flush()

    async def flush(self, timeout: float) -> bool:  # noqa: ASYNC109 - what is left is reported
        """Wait until everything is stored; False if `timeout` seconds were not enough."""
        self._put_marks()
        try:
            async with asyncio.timeout(timeout):
                await self._group.flush()
        except TimeoutError:
            self._given_up = True
            await self._group.abandon()
            return False
        return True

    async def _send(self, op: Op, entries: Sequence[Entry]) -> Sequence[Applied]:
        if self._batch is None or self._batch[0] != op:  # a repeat must be the same batch
            self._batch = op, [entry for entry in entries if not _needless(entry)]
        batch = self._batch[1]
        try:
            applied = await self._driver.apply(op, [entry.what for entry in batch])
        except WAITED_OUT as error:
            self._outage.met(error, DUTY)
            raise
        self._outage.over(DUTY)
        if len(batch) == len(entries):
            return applied
        replies = iter(applied)
        sent = set(map(id, batch))
        skipped = Applied(ApplyStatus.APPLIED)
        return [next(replies) if id(entry) in sent else skipped for entry in entries]

    async def _reconcile(
        self, entries: Sequence[Entry], replies: Sequence[Applied | BaseException]
    ) -> Sequence[Applied | BaseException]:
        return await applied_before(self._driver, [entry.what for entry in entries], replies)

    def _deliver(self, entry: Entry, reply: Applied | BaseException) -> None:
        if isinstance(reply, asyncio.CancelledError) and not self._given_up:
            # Somebody cancelled the task that sends, as a handler can: what it had goes again.
            entry.again = True
            self._group.put(entry)
            return
        if entry.again and isinstance(reply, Applied) and reply.status in _REFUSED:
            reply = Applied(ApplyStatus.REPEATED, entry.what.to)  # by its first copy, most likely
        lost = not isinstance(reply, Applied) or reply.status in _REFUSED
        if entry.reply is not None and not entry.reply.done():
            entry.reply.set_result(not lost)
        if entry.what is not entry.held.outcome:
            return
        if isinstance(reply, BaseException):
            if not isinstance(reply, asyncio.CancelledError) and self._replaced(entry, reply):
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
        self._group.put(entry)
        return True


DUTY = "storing outcomes"

_REFUSED = frozenset({ApplyStatus.STALE, ApplyStatus.GONE})


def _needless(entry: Entry) -> bool:
    """Say whether a start mark has been overtaken by its job's outcome, which is on its way."""
    return (
        entry.reply is None
        and entry.held.outcome is not None
        and entry.what is not entry.held.outcome
    )


def _size(entry: Entry) -> int:
    """Return how many bytes a transition carries: its result is all that can be large."""
    result = entry.what.changes.result
    return len(result) if isinstance(result, bytes) else 0
