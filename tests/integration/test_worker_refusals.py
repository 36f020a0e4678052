"""What a store refuses of one job is that job's own trouble. Runs on every backend."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from taskmux import Context, State
from taskmux.config import Limits
from taskmux.conformance import FaultyDriver
from taskmux.model.errors import PayloadTooLarge
from taskmux.model.job import TERMINAL
from taskmux.plugins.loading import driver_for, plugin_manager

COUNT = 30
CULPRIT = 17
LARGE = 17_000_000


class Odd(Exception):
    """An error whose module's name no store can hold as it is."""


Odd.__module__ = "odd\ud800"


class Together:
    """Lets so many handlers end in one turn, so that their outcomes go as one batch."""

    def __init__(self, count: int) -> None:
        self.runs: Counter[int] = Counter()
        self._missing = count
        self._all = asyncio.Event()

    async def __call__(self, number: int) -> None:
        self.runs[number] += 1
        self._missing -= 1
        if self._missing == 0:
            self._all.set()
        await self._all.wait()


async def ended(mux, jobs):
    """Return the records when all jobs have ended."""
    for job in jobs:
        while (await job.record()).state not in TERMINAL:
            await asyncio.sleep(0.02)
    return [await job.record() for job in jobs]


def check_innocents(records, runs) -> None:
    innocents = [record for number, record in enumerate(records) if number != CULPRIT]
    assert {(one.state, one.attempts, one.crashes, one.history) for one in innocents} == {
        (State.COMPLETED, 1, 0, ())
    }
    assert runs == Counter(range(COUNT))


class TestOneAmongMany:
    async def test_a_result_that_the_store_cannot_hold(self, stored, app):
        mux = app(limits=Limits(result=20_000_000))
        together = Together(COUNT)

        @mux.task(max_attempts=1)
        async def work(number: int) -> str:
            await together(number)
            return "x" * LARGE if number == CULPRIT else "ok"

        async with mux.worker(concurrency=COUNT, lease="10s"):
            jobs = await mux.enqueue_many([work.bind(number) for number in range(COUNT)])
            async with asyncio.timeout(60):
                records = await ended(mux, jobs)
        check_innocents(records, together.runs)
        culprit = records[CULPRIT]
        if stored.url.startswith("mongodb"):
            assert culprit.state is State.DEAD
            assert (culprit.attempts, culprit.crashes) == (1, 0)
            assert [entry.error.type for entry in culprit.history] == [
                "taskmux.model.errors.PayloadTooLarge"
            ]
        else:
            assert culprit.state is State.COMPLETED

    async def test_an_error_whose_name_no_store_can_hold(self, mux):
        together = Together(COUNT)

        @mux.task(max_attempts=1)
        async def work(number: int) -> None:
            await together(number)
            if number == CULPRIT:
                raise Odd("odd")

        async with mux.worker(concurrency=COUNT, lease="10s"):
            jobs = await mux.enqueue_many([work.bind(number) for number in range(COUNT)])
            async with asyncio.timeout(60):
                records = await ended(mux, jobs)
        check_innocents(records, together.runs)
        assert records[CULPRIT].state is State.DEAD
        assert records[CULPRIT].history[0].error.message == "odd"


class Refusing(FaultyDriver):
    """A store that refuses whole batches for one progress that is too large."""

    def __init__(self, wrapped):
        super().__init__(wrapped, lambda _: None)

    async def annotate(self, notes):
        if any(note.progress and len(note.progress) > 1000 for note in notes):
            raise PayloadTooLarge("too large for this store")
        return await super().annotate(notes)

    def fork(self):
        return Refusing(self.wrapped.fork())


class TestNotes:
    async def test_one_that_is_refused_fails_alone(self, url, app, app_on):
        mux = app_on(Refusing(driver_for(url, plugin_manager())))
        together = Together(COUNT)

        @mux.task(max_attempts=1)
        async def work(ctx: Context, number: int) -> str:
            await together(number)
            if number == CULPRIT:
                with pytest.raises(PayloadTooLarge):
                    await ctx.progress("x" * 2000)
                return "told"
            await ctx.progress(number)
            return "ok"

        async with mux.worker(concurrency=COUNT, lease="10s"):
            jobs = await app().enqueue_many([work.bind(number) for number in range(COUNT)])
            async with asyncio.timeout(60):
                records = await ended(mux, [app().job("default", job.id) for job in jobs])
        check_innocents(records, together.runs)
        assert records[CULPRIT].result == b'"told"'
        assert records[3].progress == b"3"
