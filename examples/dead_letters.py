"""Dead letters: what went wrong, an alert, a mended job, and a careful retry.

Run it on any backend: `python examples/dead_letters.py [URL]`; without one, in memory.
"""

from __future__ import annotations

import asyncio
import sys

from taskmux import JobRecord, Taskmux, hookimpl

ALERT_FROM = 5
server_is_up = asyncio.Event()


class Alert:
    """A plug-in that is told of every job that dies, in the worker that buried it."""

    def __init__(self) -> None:
        self.dead = 0

    @hookimpl
    def taskmux_dead(self, job: JobRecord) -> None:
        """Tell the people on call, once."""
        self.dead += 1
        if self.dead == ALERT_FROM:
            error = job.error.type if job.error else job.reason
            print(f"ALERT: {self.dead} jobs of {job.queue} are dead, the last by {error}")


mux = Taskmux(sys.argv[1] if len(sys.argv) > 1 else "memory://", plugins=[Alert()])


@mux.task(queue="email", max_attempts=1)
async def send(address: str) -> str:
    """Pretend to send an e-mail through a server that is down at first."""
    if "@" not in address:
        raise ValueError(f"{address!r} is no address")
    if not server_is_up.is_set():
        raise ConnectionError("the mail server 10.0.0.7:25 does not answer")
    return f"sent to {address}"


async def main() -> None:
    """Let e-mails die, look at why, mend the one that is wrong, and send the others again."""
    addresses = [f"user{number}@example.org" for number in range(6)]
    queue = mux.queue("email")
    jobs = await mux.enqueue_many([send.bind(address) for address in addresses])
    wrong = await send.options(id="wrong").enqueue("nobody")
    async with mux.worker(["email"]):
        await asyncio.gather(*(job.result() for job in [*jobs, wrong]), return_exceptions=True)
        stats = await queue.dead.stats()
        print(f"{stats.total} dead jobs:")
        for group in stats.groups:
            print(f"  {group.count} x {group.error}: {group.pattern}")

        await queue.dead.edit(wrong.id, {"address": "nobody@example.org"})
        server_is_up.set()
        first = await queue.dead.redrive(ids=[wrong.id])
        rest = await queue.dead.redrive(error="ConnectionError", rate="100/s")
        print(f"{first.done + rest.done} jobs were redriven.")
        await asyncio.gather(*(job.result() for job in [*jobs, wrong]))
    counts = await queue.counts()
    print(f"{counts.completed} completed, {counts.dead} dead.")
    await mux.close()


asyncio.run(main())
