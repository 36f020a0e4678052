"""Walking over what a filter means, where many jobs are of one instant."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from taskmux.api.filters import Filter
from taskmux.api.walk import pages
from taskmux.driver import NewJob, Op
from taskmux.memory import MemoryDriver
from taskmux.model.job import JobRecord, State

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
