"""Fair turns: a tenant with many exports does not keep a small one waiting.

Run it on any backend: `python examples/fair_tenants.py [URL]`; without one, in memory.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

from taskmux import Taskmux

mux = Taskmux(sys.argv[1] if len(sys.argv) > 1 else "memory://")
order: list[str] = []


@mux.task(queue="exports")
async def export(tenant: str, page: int) -> str:
    """Pretend to export a page."""
    order.append(tenant)
    await asyncio.sleep(0.005)
    return f"page {page} of {tenant}"


async def main() -> None:
    """Enqueue 200 exports of one tenant, then five of another, and see who waits."""
    big = [export.options(group="big").bind("big", page) for page in range(200)]
    small = [export.options(group="small").bind("small", page) for page in range(5)]
    jobs = await mux.enqueue_many([*big, *small])
    await mux.queue("exports").limit(group="*", concurrency=2)  # of each tenant, everywhere
    async with mux.worker(["exports"], concurrency=4):
        await asyncio.gather(*(job.result(timeout="60s") for job in jobs))
    last = max(at for at, tenant in enumerate(order) if tenant == "small")
    print(f"{Counter(order)['big']} exports of big, {Counter(order)['small']} of small.")
    print(f"The last one of small was number {last + 1} of {len(order)} to start.")
    await mux.close()


asyncio.run(main())
