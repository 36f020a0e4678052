"""A bulk call whose process is killed is taken up by the next one, on every store that remains."""

from __future__ import annotations

import asyncio
import sys

import pytest
from taskmux import Taskmux
from taskmux.driver import ClaimAsk, JobRecord, NewJob, Op, transition
from tests.integration.conftest import BACKENDS

COUNT = 3000
BATCH = 500

KILLED = """
import asyncio, sys
from taskmux import Taskmux

def told(done, total):
    print(done, total, flush=True)
    sys.stdin.readline()

async def main():
    async with Taskmux(sys.argv[1]) as mux:
        await mux.queue("mail").retry(all=True, on_progress=told)

asyncio.run(main())
"""


async def bury_all(driver) -> None:
    for first in range(0, COUNT, BATCH):
        number = first // BATCH + 1
        jobs = [JobRecord(queue="mail", id=f"j{first + n}", task="t") for n in range(BATCH)]
        await driver.push(Op("p", number), [NewJob(job) for job in jobs])
        ask = ClaimAsk("mail", "w", BATCH, 600_000)
        claimed = (await driver.claim(Op("w", number), ask)).jobs
        changes = transition.Changes(attempts=3)
        await driver.apply(Op("w", number), [transition.bury(job, changes) for job in claimed])


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "memory"])
async def test_a_killed_call_is_taken_up(backend, request):
    with BACKENDS[backend](request) as stored:
        driver = stored.driver()
        await driver.open()
        await bury_all(driver)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED, stored.url, stdin=pipe, stdout=pipe
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"%d %d\n" % (BATCH, COUNT)
            process.stdin.write(b"\n")  # it is killed as it goes on with the second batch
            process.kill()
            await process.wait()
        async with Taskmux(stored.url) as mux:
            queue = mux.queue("mail")
            left = (await queue.counts()).dead
            assert left <= COUNT - BATCH
            assert (await queue.retry(all=True)).done <= left  # its last batch may come late
            assert (await queue.counts()).waiting == COUNT
            met = [(job.id, job.attempts) async for job in queue.jobs("waiting")]
        assert sorted(met) == sorted((f"j{n}", 0) for n in range(COUNT))
        await driver.close()
