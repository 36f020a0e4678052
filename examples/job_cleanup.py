"""Job cleanup: ended jobs go by themselves, by age, by count, or as soon as nobody waits for them.

Run it on any backend: `python examples/job_cleanup.py [URL]`; without one, in memory. It takes a
little more than ten seconds: so long every result can be read by whoever waits for it.
"""

from __future__ import annotations

import asyncio
import sys

from taskmux import Fail, JobFailed, Keep, Taskmux

mux = Taskmux(
    sys.argv[1] if len(sys.argv) > 1 else "memory://",
    defaults={"retention": Keep("1d")},  # what nobody says otherwise about
)


NEWEST = 3
MISSING = 13


@mux.task(queue="thumbnails", retention={"completed": 0, "dead": "7d"})
async def thumbnail(picture: int) -> str:
    """Nobody asks for these later; only what failed is kept."""
    if picture == MISSING:
        raise Fail("no such picture")
    return f"{picture}.small"


@mux.task(queue="reports", retention={"completed": Keep("90d", count=NEWEST)})
async def report(day: int) -> str:
    """The last three stay readable, for a quarter at most."""
    return f"report of day {day}"


async def show(when: str) -> None:
    """Print what is stored."""
    for name in ("thumbnails", "reports"):
        counts = await mux.queue(name).counts()
        print(f"{when}: {name} has {counts.completed} completed and {counts.dead} dead")


async def only(name: str, left: int) -> None:
    """Wait until a queue has no more completed jobs than that."""
    while (await mux.queue(name).counts()).completed > left:  # noqa: ASYNC110 - another process may do it
        await asyncio.sleep(0.05)


async def main() -> None:
    """Let jobs end, then let their retention pass."""
    thumbnails = [await thumbnail.enqueue(number) for number in range(20)]
    reports = [await report.enqueue(day) for day in range(20)]
    async with mux.worker(["thumbnails", "reports"]):
        results = await asyncio.gather(
            *(job.result(timeout="60s") for job in [*thumbnails, *reports]), return_exceptions=True
        )
    failed = sum(isinstance(result, JobFailed) for result in results)
    print(f"{len(results) - failed} results were read, {failed} job failed")
    await show("Then")
    await asyncio.sleep(11)
    async with mux.worker(["thumbnails", "reports"]):  # workers remove, at once and then and when
        await only("thumbnails", 0)
        await only("reports", NEWEST)
    await show("Later")
    await mux.close()


asyncio.run(main())
