"""Bulk verbs while replies are lost, processes die and jobs move. On every backend."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from taskmux import State, StoreUnavailable
from taskmux.api.bulk import Bulk, Options, prepared
from taskmux.api.bulk_verbs import PROMOTE, cancelling
from taskmux.api.filters import Filter
from taskmux.conformance import FaultyDriver, lost, refused, script
from taskmux.driver import ClaimAsk, FindAsk, Op, transition
from taskmux.plugins.loading import driver_for, plugin_manager

QUEUE = "mail"
COUNT = 12


class Watching(FaultyDriver):
    """Calls `between` before every batch of transitions."""

    between = None

    def fork(self):
        twin = super().fork()
        twin.between = self.between
        return twin

    async def apply(self, op, transitions):
        if self.between is not None:
            await self.between(self.wrapped)
        return await super().apply(op, transitions)


def on(stored, app_on, plan, between=None):
    driver = Watching(driver_for(stored.url, plugin_manager()), plan)
    driver.between = between
    return app_on(driver), driver


async def arrange(mux, driver, state: str) -> None:
    """Bring jobs into a state, and some others into another."""
    options = {"delay": "1h"} if state == "delayed" else {}
    for _ in range(COUNT):
        await mux.enqueue("mail.send", queue=QUEUE, **options)
    if state == "held":
        await mux.queue(QUEUE).hold(all=True)
    if state in {"dead", "active"}:
        jobs = (await driver.claim(Op("w", 1), ClaimAsk(QUEUE, "w", COUNT, 600_000))).jobs
        if state == "dead":
            changes = transition.Changes(attempts=3)
            await driver.apply(Op("w", 2), [transition.bury(job, changes) for job in jobs])


VERBS = {
    "retry": ("dead", lambda queue: queue.retry(all=True), {"waiting": COUNT}),
    "cancel": ("waiting", lambda queue: queue.cancel(all=True), {"cancelled": COUNT}),
    "cancel running ones": ("active", lambda queue: queue.cancel(all=True), {"active": COUNT}),
    "promote": ("delayed", lambda queue: queue.promote(all=True), {"waiting": COUNT}),
    "remove": ("dead", lambda queue: queue.remove(all=True), {}),
    "reprioritise": ("waiting", lambda queue: queue.reprioritise(7, all=True), {"waiting": COUNT}),
    "hold": ("waiting", lambda queue: queue.hold(all=True), {"blocked": COUNT}),
    "unhold": ("held", lambda queue: queue.unhold(all=True), {"waiting": COUNT}),
    "drain": ("delayed", lambda queue: queue.drain(delayed=True), {}),
    "clean": ("dead", lambda queue: queue.clean(0), {}),
    "obliterate": ("active", lambda queue: queue.obliterate(force=True), {}),
}


async def everything(driver) -> list:
    """Return all records, without what a repeat could not have changed."""
    found = []
    for state in State:
        page = await driver.find(FindAsk(queue=QUEUE, state=state, limit=1000))
        found += page.jobs
    return found


async def counted(driver) -> dict[str, int]:
    counts = await driver.counts(QUEUE)
    return {state.value: count for state, count in counts.items() if count}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_lost_reply_changes_nothing_twice(stored, app_on, mux, driver, verb):
    start, call, expected = VERBS[verb]
    await arrange(mux, driver, start)
    faulty, struck = on(stored, app_on, script({"apply": [lost, lost], "find": [lost, refused]}))
    result = await call(faulty.queue(QUEUE))
    assert struck.struck["apply"] == 2
    assert result.done + result.requested == COUNT
    assert result.skipped == {}
    assert await counted(driver) == expected
    before = await everything(driver)
    again = await call(mux.queue(QUEUE))
    assert again.matched == 0, "the same call again found something to do"
    assert await everything(driver) == before


@pytest.mark.parametrize("verb", ["retry", "cancel", "remove", "hold", "promote"])
async def test_a_call_that_the_store_gave_up_on_is_taken_up_again(
    stored, app_on, mux, driver, verb
):
    start, call, expected = VERBS[verb]
    await arrange(mux, driver, start)
    faulty, _ = on(stored, app_on, script({"apply": [lost, lost, lost]}))
    with pytest.raises(StoreUnavailable):
        await call(faulty.queue(QUEUE))
    await call(faulty.queue(QUEUE))
    assert await counted(driver) == expected


async def test_jobs_that_go_back_while_they_are_cancelled_are_met(stored, app_on, mux, driver):
    """All are running when the walk looks at the delayed ones, and delayed when it looks there."""
    await arrange(mux, driver, "waiting")
    jobs = list((await driver.claim(Op("w", 1), ClaimAsk(QUEUE, "w", 4, 600_000))).jobs)
    number = 1

    async def between(store):
        nonlocal number
        if jobs:
            number += 1
            later = transition.again(jobs.pop(), transition.Changes(attempts=1), 600_000)
            await store.apply(Op("w", number), [later])

    faulty, _ = on(stored, app_on, script({}), between)
    result = await faulty.queue(QUEUE).cancel(all=True)
    assert not [job for job in await everything(driver) if not _is_cancelled(job)]
    assert result.done + result.requested >= COUNT


def _is_cancelled(job) -> bool:
    return job.state is State.CANCELLED or job.cancel_requested


async def test_new_jobs_keep_no_call_from_ending(stored, app_on, mux, driver):
    await arrange(mux, driver, "waiting")

    async def between(_):
        for _ in range(3):
            await mux.enqueue("mail.send", queue=QUEUE)

    faulty, _ = on(stored, app_on, script({}), between)
    queue, cancel = faulty.queue(QUEUE), cancelling(None)
    where = prepared(cancel, Filter(), everything=True)
    bulk = Bulk(await queue._connection(), QUEUE, where, cancel, Options(batch=2))
    async with asyncio.timeout(20):
        assert (await bulk.run()).done >= COUNT


async def test_a_promoted_job_that_is_delayed_again_is_left_alone(stored, app_on, mux, driver):
    await arrange(mux, driver, "delayed")
    number = 0

    async def between(store):
        nonlocal number
        number += 1
        ask = ClaimAsk(QUEUE, "w", 1, 600_000)
        for job in (await store.claim(Op("w", number), ask)).jobs:
            later = transition.again(job, transition.Changes(attempts=1), 7_200_000)
            await store.apply(Op("w", number), [later])

    faulty, _ = on(stored, app_on, script({}), between)
    queue = faulty.queue(QUEUE)
    told = []
    small = Options(batch=2, on_progress=lambda done, _: told.append(done))
    where = prepared(PROMOTE, Filter(), everything=True)
    result = await Bulk(await queue._connection(), QUEUE, where, PROMOTE, small).run()
    assert result.done == COUNT
    assert told == list(range(2, COUNT + 1, 2))
    attempts = Counter(job.attempts for job in await everything(driver))
    assert set(attempts) <= {0, 1}
    assert (await counted(driver))["delayed"] == attempts[1]
    assert attempts[1] > 0
