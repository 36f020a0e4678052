"""A connection: one driver on one event loop, and the group commits that its users share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from taskmux.batch import Ops, Replies, resend
from taskmux.capabilities import Transactions
from taskmux.driver import Driver
from taskmux.errors import CorruptRecord, UnsupportedFeature
from taskmux.job import JobRecord, Ref
from taskmux.messages import Applied, NewJob, Op, Pushed
from taskmux.transition import Transition

__all__ = ["Connection"]


class Connection:
    """What producers, handles and queues share: batched `push`, `apply` and `get`."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._pushes: Replies[NewJob, Pushed] = Replies(driver.push)
        self._actions: Replies[Transition, Applied] = Replies(driver.apply)
        self._bulk = asyncio.Lock()
        self._bulk_ops = Ops()
        self._reads: Replies[Ref, JobRecord | None] = Replies(self._get)

    async def open(self) -> None:
        """Open the driver."""
        await self.driver.open()

    async def close(self) -> None:
        """Let what is under way finish, then close the driver."""
        await self._pushes.close()
        await self._actions.close()
        await self._reads.close()
        await self.driver.close()

    async def push(self, new: NewJob) -> Pushed:
        """Create one job, together with others asked for meanwhile."""
        return await self._pushes.ask(new)

    async def push_many(self, news: Sequence[NewJob]) -> Sequence[Pushed]:
        """Create a batch of jobs in one operation."""
        async with self._bulk:  # an origin has one operation in flight
            op = self._bulk_ops.next()
            return await resend(lambda: self.driver.push(op, news), tries=3)

    async def push_within(self, session: Any, new: NewJob) -> Pushed:
        """Create one job inside the application's own transaction: it exists once that commits.

        Raises:
            UnsupportedFeature: the store has no transactions.
        """
        if not isinstance(self.driver, Transactions):
            raise UnsupportedFeature(
                f"{self.driver.url} has no capability 'transactions', which session= needs. "
                f"Enqueue after your transaction has committed, or use a store that has it."
            )
        return (await self.driver.push_within(session, [new]))[0]

    async def apply(self, one: Transition) -> Applied:
        """Apply one transition, together with others asked for meanwhile."""
        return await self._actions.ask(one)

    async def get(self, ref: Ref) -> JobRecord | None:
        """Read one record, together with others asked for meanwhile."""
        return await self._reads.ask(ref)

    async def _get(
        self, _op: Op, refs: Sequence[Ref]
    ) -> Sequence[JobRecord | BaseException | None]:
        try:
            return await self.driver.get(refs)
        except CorruptRecord as error:  # one bad record must not spoil its neighbours' reads
            if len(refs) == 1:
                return [error]
            return [(await self._get(_op, [ref]))[0] for ref in refs]
