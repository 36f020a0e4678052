"""Three of ten writes meet a conflict: all get done, each job once, and nobody hears of it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from taskmux import Taskmux
from tests.mongo_servers import MongoServer, mongod_program, running

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(300),
    pytest.mark.skipif(mongod_program() is None, reason="no mongod"),
]

APPS = 8
PRODUCERS = 16
EACH = 80
TRANSACTIONS = 5  # each runs some dozens of times until it meets no conflict


@contextmanager
def conflicts(server: MongoServer, share: float) -> Iterator[None]:
    """Let a share of the storage engine's writes fail as if somebody else were faster."""
    point = {"configureFailPoint": "WTWriteConflictException"}
    with server.client() as client:
        client.admin.command(point | {"mode": {"activationProbability": share}})
        yield
        met = client.admin.command("serverStatus")["metrics"]["operation"]["writeConflicts"]
        client.admin.command(point | {"mode": "off"})
    assert met > PRODUCERS * EACH * share, "there were hardly any conflicts"


class Shop:
    """Apps on one server, each with a worker; what was enqueued, and what ran."""

    def __init__(self, url: str) -> None:
        self.apps = [Taskmux(url) for _ in range(APPS)]
        self.tasks = [app.task(name="work")(self._work) for app in self.apps]
        self.enqueued: set[str] = set()
        self.ran: Counter[str] = Counter()
        self._one_ran = asyncio.Condition()

    async def _work(self, name: str) -> None:
        self.ran[name] += 1
        async with self._one_ran:
            self._one_ran.notify_all()

    async def produce(self, producer: int) -> None:
        task = self.tasks[producer % APPS]
        for number in range(EACH):
            name = f"{producer}-{number}"
            await task.enqueue(name)
            self.enqueued.add(name)

    async def transact(self, client: AsyncMongoClient[Any]) -> None:
        """Enqueue within transactions, which PyMongo runs again when they are aborted."""
        for number in range(TRANSACTIONS):
            name = f"transaction-{number}"

            async def both(session: Any, name: str = name) -> None:
                await client.shop.orders.insert_one({"_id": name}, session=session)
                await self.tasks[0].options(session=session).enqueue(name)

            async with client.start_session() as session:
                await session.with_transaction(both)
            self.enqueued.add(name)

    async def all_ran(self) -> None:
        async with self._one_ran:
            await self._one_ran.wait_for(lambda: set(self.ran) >= self.enqueued)


async def test_all_are_done_once_and_nobody_hears_of_conflicts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    with running() as server:
        with server.client() as plain:
            plain["shop"].create_collection("orders")
        shop = Shop(server.url)
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(AsyncMongoClient(server.url))
            for app in shop.apps:
                await stack.enter_async_context(app)
                await stack.enter_async_context(app.worker(concurrency=8))
            with conflicts(server, 0.3):
                producers = [shop.produce(number) for number in range(PRODUCERS)]
                await asyncio.gather(*producers, shop.transact(client))
                await shop.all_ran()
            made = len(shop.enqueued)
            assert made == PRODUCERS * EACH + TRANSACTIONS
            assert await client.shop.orders.count_documents({}) == TRANSACTIONS
        async with Taskmux(server.url) as reader:
            counts = await reader.queue("default").counts()
        assert (counts.completed, counts.total) == (made, made)
        assert set(shop.ran.values()) == {1}
    assert [one.getMessage() for one in caplog.records] == []
