"""An e-mail queue and the calls that a web controller makes to it.

Send now, later, urgently and in bulk; look how one is doing; try a failed one again; cancel; count.
Run it on any backend: `python examples/email_queue.py [URL]`; without one, in memory.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from taskmux import Context, Fixed, JobFailed, Taskmux

mux = Taskmux(sys.argv[1] if len(sys.argv) > 1 else "memory://")
outbox: list[str] = []
known_hosts = {"example.org"}


@mux.task(queue="email", max_attempts=2, backoff=Fixed("10ms", jitter=0), timeout="30s")
async def send(ctx: Context, to: str, subject: str) -> dict[str, str]:
    """Pretend to send an e-mail in two steps."""
    await ctx.progress({"percent": 10})
    host = to.rpartition("@")[2]
    if host not in known_hosts:
        raise LookupError(f"no mail server for {host}")
    outbox.append(f"{to}: {subject}")
    await ctx.progress({"percent": 100})
    return {"to": to, "status": "sent"}


class EmailController:
    """What the routes of a web application call."""

    def __init__(self) -> None:
        self.queue = mux.queue("email")

    async def welcome(self, to: str) -> str:
        """POST /email: send one."""
        return (await send.enqueue(to, "Welcome")).id

    async def urgent(self, to: str, subject: str) -> str:
        """POST /email/urgent: before all others."""
        return (await send.options(priority="critical").enqueue(to, subject)).id

    async def remind(self, to: str, delay: str) -> str:
        """POST /email/reminder: later."""
        return (await send.options(delay=delay).enqueue(to, "Do not forget")).id

    async def newsletter(self, addresses: list[str]) -> int:
        """POST /email/bulk: many in one go, behind everything else."""
        calls = [send.options(priority="low").bind(to, "News") for to in addresses]
        return len(await mux.enqueue_many(calls))

    async def status(self, job_id: str) -> dict[str, Any]:
        """GET /email/{id}: how one is doing."""
        job = await self.queue.get(job_id)
        return {
            "id": job.id,
            "state": job.state.value,
            "progress": job.progress_value,
            "result": job.result_value,
            "attempts": job.attempts,
            "error": job.error.message if job.error else None,
        }

    async def retry(self, job_id: str) -> None:
        """POST /email/{id}/retry: try a failed one again."""
        await self.queue.job(job_id).retry()

    async def cancel(self, job_id: str) -> None:
        """DELETE /email/{id}: not to be sent."""
        await self.queue.job(job_id).cancel(reason="not wanted any more")

    async def stats(self) -> dict[str, int]:
        """GET /email/stats: how many are in each state."""
        counts = await self.queue.counts()
        return {state: getattr(counts, state) for state in ("completed", "dead", "cancelled")}


async def main() -> None:
    """Make the calls of a busy morning."""
    email = EmailController()
    bulk = await email.newsletter([f"reader{number}@example.org" for number in range(50)])
    welcome = await email.welcome("ada@example.org")
    urgent = await email.urgent("ops@example.org", "The disk is full")
    lost = await email.welcome("bob@example.net")
    reminder = await email.remind("eve@example.org", delay="1h")
    await email.cancel(reminder)
    print(f"{bulk} of a newsletter wait. {(await email.status(welcome))['state']}: {welcome}")

    async with mux.worker(["email"], concurrency=1):
        try:
            await email.queue.job(lost).result(timeout="60s")
        except JobFailed as error:
            print(error)
        known_hosts.add("example.net")
        await email.retry(lost)
        await email.queue.job(lost).result(timeout="60s")
        print((await email.status(lost))["result"])
        await asyncio.gather(
            *[mux.job("email", job.id).result() async for job in email.queue.jobs("waiting")]
        )
    print(await email.status(urgent))
    print(f"The first one out: {outbox[0]}")
    print(await email.stats())
    await mux.close()


asyncio.run(main())
