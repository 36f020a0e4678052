"""Priorities: what is urgent overtakes what waits, and what is equal stays in line.

Run it on any backend: `python examples/priorities.py [URL]`; without one, in memory.
"""

from __future__ import annotations

import asyncio
import sys

from taskmux import Taskmux

mux = Taskmux(sys.argv[1] if len(sys.argv) > 1 else "memory://")
sent: list[str] = []


@mux.task(queue="notices", priority="low")
async def notice(text: str) -> None:
    """Pretend to send a notice."""
    sent.append(text)


async def main() -> None:
    """Enqueue from the least to the most urgent, and see in which order they are sent."""
    jobs = [
        await notice.enqueue("newsletter"),
        await notice.enqueue("newsletter, second part"),
        await notice.options(priority="normal").enqueue("receipt"),
        await notice.options(priority=75).enqueue("password reset"),  # between high and normal
        await notice.options(priority="critical").enqueue("break-in"),
    ]
    overtakes = await notice.enqueue("account closed")
    await overtakes.set_priority("high")  # it has not begun, so it may still change
    async with mux.worker(["notices"], concurrency=1):  # one at a time: the order is plain to see
        await asyncio.gather(*(job.result(timeout="60s") for job in [*jobs, overtakes]))
    for place, text in enumerate(sent, 1):
        print(f"{place}. {text}")
    await mux.close()


asyncio.run(main())
