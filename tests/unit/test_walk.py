"""Walking over what a filter means: jobs of one instant, and those that come meanwhile."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from taskmux import Taskmux
from taskmux.api.filters import Filter
from taskmux.api.walk import pages
from taskmux.driver import NewJob, Op
from taskmux.memory import MemoryDriver
from taskmux.model.job import JobRecord, State


async def test_a_bulk_call_leaves_jobs_alone_that_came_after_it_began():
    driver = MemoryDriver()
    mux = Taskmux(client=driver)
    async with mux:
        await mux.enqueue("t", queue="q")
        real = driver.store.clock
        driver.store.clock = lambda: real() + 60_000
        late = await mux.enqueue("t", queue="q")
        driver.store.clock = real
        assert (await mux.queue("q").hold(all=True)).done == 1
        assert await late.status() is State.WAITING


AT = 1_700_000_000_000


@pytest.mark.parametrize("bound", ["since", "until"])
@pytest.mark.parametrize("newest", [False, True])
async def test_all_jobs_of_the_instant_of_a_bound_are_met(bound, newest):
    driver = MemoryDriver()
    driver.store.clock = lambda: AT
    jobs = [
        JobRecord(queue="q", id=f"job-{number}", task="t", state=State.BLOCKED)
        for number in range(5)
    ]
    await driver.push(Op("o", 1), [NewJob(job) for job in jobs])
    where = replace(Filter.of(state="blocked"), **{bound: AT})
    found = [
        job.id
        async for page in pages(driver, "q", where, newest=newest, size=2)
        for job in page.jobs
    ]
    assert sorted(found) == [job.id for job in jobs]
