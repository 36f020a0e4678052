"""Sending: a batch of transitions goes to the store, the same one under the same op."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from taskmux.api.reconcile import applied_before
from taskmux.driver import Applied, ApplyStatus, Driver, Op
from taskmux.model.transition import Transition
from taskmux.worker.held import Held
from taskmux.worker.outage import WAITED_OUT, Outage

__all__ = ["Entry", "Sender", "size"]

DUTY = "storing outcomes"


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


class Sender:
    """Sends the batches of one group commit.

    Args:
        driver: the store, open.
        outage: told when the store does not take outcomes, and when it does again.
    """

    def __init__(self, driver: Driver, outage: Outage) -> None:
        self._driver = driver
        self._outage = outage
        self._batch: tuple[Op, list[Entry]] | None = None

    async def send(self, op: Op, entries: Sequence[Entry]) -> Sequence[Applied]:
        """Apply transitions; start marks that nobody needs any more are left out."""
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

    async def reconcile(
        self, entries: Sequence[Entry], replies: Sequence[Applied | BaseException]
    ) -> Sequence[Applied | BaseException]:
        """Return what the owners of transitions are told that a refused batch may have applied."""
        return await applied_before(self._driver, [entry.what for entry in entries], replies)


def _needless(entry: Entry) -> bool:
    """Say whether a start mark has been overtaken by its job's outcome, which is on its way."""
    return (
        entry.reply is None
        and entry.held.outcome is not None
        and entry.what is not entry.held.outcome
    )


def size(entry: Entry) -> int:
    """Return how many bytes a transition carries: its result is all that can be large."""
    result = entry.what.changes.result
    return len(result) if isinstance(result, bytes) else 0
