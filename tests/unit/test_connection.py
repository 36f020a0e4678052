"""What producers and handles share: one bulk push in flight, and settings that are read once."""

from __future__ import annotations

import asyncio

import pytest
from taskmux.api import batch, connection
from taskmux.api.connection import Connection
from taskmux.driver import JobRecord, NewJob, Op, Pushed, PushStatus, QueueSettings
from taskmux.memory import MemoryDriver
from taskmux.model.errors import StoreUnavailable


class Slow(MemoryDriver):
    """Answers when it is told to, and notes what it was asked meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.ops: list[Op] = []
        self.in_flight = self.most_in_flight = self.reads = 0

    async def push(self, op, jobs):
        self.ops.append(op)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await self.gate.wait()
        self.in_flight -= 1
        return [Pushed(PushStatus.CREATED, new.job.id) for new in jobs]

    async def settings(self, queue):
        self.reads += 1
        await self.gate.wait()
        return QueueSettings(rev=self.reads)


def new(name: str) -> NewJob:
    return NewJob(JobRecord(queue="q", id=name, task="t"))


async def test_an_origin_has_one_bulk_push_in_flight():
    driver = Slow()
    shared = Connection(driver)
    pushes = [asyncio.create_task(shared.push_many([new(name)])) for name in "abc"]
    await asyncio.sleep(0)
    driver.gate.set()
    answers = await asyncio.gather(*pushes)
    assert [one.id for (one,) in answers] == ["a", "b", "c"]
    assert driver.most_in_flight == 1
    assert len({op.origin for op in driver.ops}) == 1
    assert [op.number for op in driver.ops] == [1, 2, 3]


async def test_a_reader_that_gives_up_leaves_the_others_their_settings():
    driver = Slow()
    shared = Connection(driver)
    first, second = (asyncio.create_task(shared.settings("q")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    driver.gate.set()
    assert (await second).rev == 1
    assert driver.reads == 1


async def test_settings_are_read_again_after_two_seconds(monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr(connection.time, "monotonic", lambda: now[0])
    driver = Slow()
    driver.gate.set()
    shared = Connection(driver)
    assert [(await shared.settings("q")).rev for _ in range(3)] == [1, 1, 1]
    now[0] += connection.FRESH
    assert (await shared.settings("q")).rev == 2


async def test_pauses_between_tries_double_up_to_the_longest(monkeypatch: pytest.MonkeyPatch):
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def send() -> None:
        raise StoreUnavailable("not now")

    monkeypatch.setattr(batch.asyncio, "sleep", sleep)
    with pytest.raises(StoreUnavailable):
        await batch.resend(send, tries=11)
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
