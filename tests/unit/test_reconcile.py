from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from taskmux.api.connection import Connection
from taskmux.api.reconcile import RECENT_MS, applied_before, pushed_before
from taskmux.driver import Applied, ApplyStatus, ClaimAsk, NewJob, Op, PushStatus
from taskmux.memory import MemoryDriver
from taskmux.model import transition
from taskmux.model.errors import PayloadTooLarge
from taskmux.model.job import JobRecord, Keep, Ref, State
from taskmux.model.transition import Transition

BAD = b'"bad"'


class Partial(MemoryDriver):
    """Stores what comes before a bad item of a batch, and refuses the batch for it."""

    async def push(self, op: Op, jobs: Sequence[NewJob]) -> Any:
        return await self._until_bad(super().push, op, jobs, lambda new: new.job.payload)

    async def apply(self, op: Op, transitions: Sequence[Transition]) -> Any:
        return await self._until_bad(super().apply, op, transitions, lambda one: one.changes.result)

    async def _until_bad(
        self, verb: Any, op: Op, items: Sequence[Any], of: Callable[[Any], object]
    ) -> Any:
        good = next((at for at, item in enumerate(items) if of(item) == BAD), len(items))
        answers = await verb(op, items[:good])
        if good < len(items):
            raise PayloadTooLarge("too large")
        return answers


@pytest.fixture
async def driver():
    driver = Partial("memory://")
    await driver.open()
    yield driver
    await driver.close()


def new(job_id: str, payload: bytes = b"{}", queue: str = "q") -> NewJob:
    return NewJob(JobRecord(queue=queue, id=job_id, task="t", payload=payload))


class TestPushes:
    async def test_a_job_stored_by_the_refused_try_counts_as_created(self, driver):
        connection = Connection(driver)
        await driver.push(Op("other", 1), [new("old", b"1")])
        asked = [new("a"), new("old"), new("b"), new("bad", BAD), new("c"), new("a", b"2")]
        replies = await asyncio.gather(
            *(connection.push(one) for one in asked), return_exceptions=True
        )
        assert isinstance(replies[3], PayloadTooLarge)
        del replies[3]
        assert [reply.status for reply in replies] == [
            PushStatus.CREATED,
            PushStatus.DUPLICATE,
            PushStatus.CREATED,
            PushStatus.CREATED,
            PushStatus.DUPLICATE,
        ]

    async def test_an_old_job_with_the_same_contents_is_the_owner_of_its_id(
        self, driver, monkeypatch
    ):
        await driver.push(Op("o", 1), [new("a")])
        replies = await driver.push(Op("o", 2), [new("a")])
        (reply,) = await pushed_before(driver, [new("a")], replies)
        assert reply.status is PushStatus.CREATED
        later = time.time_ns() + (RECENT_MS + 1000) * 1_000_000
        monkeypatch.setattr("time.time_ns", lambda: later)
        (reply,) = await pushed_before(driver, [new("a")], replies)
        assert reply.status is PushStatus.DUPLICATE


class TestTransitions:
    @pytest.fixture
    async def claimed(self, driver) -> list[JobRecord]:
        await driver.push(Op("p", 1), [new(name) for name in "abcd"])
        ask = ClaimAsk(queue="q", worker="w", limit=4, lease=60_000)
        return list((await driver.claim(Op("w", 1), ask)).jobs)

    async def test_an_outcome_stored_by_the_refused_try_counts_as_applied(self, driver, claimed):
        a, b, c, d = claimed
        connection = Connection(driver)
        outcomes = [
            transition.complete(a, b"1"),
            transition.release(b),
            transition.complete(c, BAD),
            transition.complete(d, b"4"),
        ]
        replies = await asyncio.gather(
            *(connection.apply(one) for one in outcomes), return_exceptions=True
        )
        assert isinstance(replies[2], PayloadTooLarge)
        del replies[2]
        assert replies == [
            Applied(ApplyStatus.APPLIED, State.COMPLETED),
            Applied(ApplyStatus.APPLIED, State.WAITING),
            Applied(ApplyStatus.APPLIED, State.COMPLETED),
        ]

    async def test_one_that_lost_its_lease_is_stale_all_the_same(self, driver, claimed):
        job = claimed[0]
        await driver.apply(Op("w", 2), [transition.release(job)])
        ask = ClaimAsk(queue="q", worker="x", limit=1, lease=60_000)
        await driver.claim(Op("x", 1), ask)
        late = [transition.complete(job, b"1")]
        replies = await driver.apply(Op("w", 3), late)
        assert await applied_before(driver, late, replies) == replies
        assert replies[0].status is ApplyStatus.STALE

    async def test_a_users_verb_is_done_if_the_job_is_where_it_was_to_go(self, driver):
        await driver.push(Op("p", 1), [new("a"), new("b")])
        verbs = [transition.cancel(Ref("q", "a"), Keep()), transition.remove(Ref("q", "b"))]
        done = await driver.apply(Op("p", 2), verbs)
        again = await driver.apply(Op("p", 3), verbs)
        assert {reply.status for reply in again} == {ApplyStatus.STALE, ApplyStatus.GONE}
        told = await applied_before(driver, verbs, again)
        assert [one.status for one in told] == [one.status for one in done]
        promote = [transition.promote(Ref("q", "a"))]
        (told,) = await applied_before(driver, promote, await driver.apply(Op("p", 4), promote))
        assert told.status is ApplyStatus.STALE
