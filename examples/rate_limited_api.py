"""An external API that allows ten calls a second and says 429 beyond: stay below, and obey.

Run it on any backend: `python examples/rate_limited_api.py [URL]`; without one, in memory.
"""

from __future__ import annotations

import asyncio
import sys
import time

from taskmux import RateLimited, Taskmux

mux = Taskmux(sys.argv[1] if len(sys.argv) > 1 else "memory://")


class TooManyRequests(Exception):
    """What the API's client raises on a 429, with the Retry-After header."""

    def __init__(self, retry_after: str) -> None:
        super().__init__(f"429, Retry-After: {retry_after}")
        self.retry_after = retry_after


class Api:
    """Refuses once, in the middle, as APIs do when somebody else uses up the quota."""

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.refused_at = 0.0

    async def charge(self, order: int) -> str:
        """Charge an order."""
        if len(self.calls) == 15 and not self.refused_at:  # noqa: PLR2004 - half-way
            self.refused_at = time.monotonic()
            raise TooManyRequests(retry_after="1")
        self.calls.append(time.monotonic())
        return f"order {order} is charged"


api = Api()


@mux.task(queue="charges")
async def charge(order: int) -> str:
    """Charge an order; let the whole queue rest when the API says so."""
    try:
        return await api.charge(order)
    except TooManyRequests as error:
        raise RateLimited(after=error.retry_after, message=str(error)) from error


async def main() -> None:
    """Charge 30 orders, at most ten a second."""
    await mux.queue("charges").limit(rate="10/s+2", concurrency=5)
    jobs = [await charge.enqueue(number) for number in range(30)]
    async with mux.worker(["charges"]):
        await asyncio.gather(*(job.result(timeout="60s") for job in jobs))
    began = api.calls[0]
    rest = min(call for call in api.calls if call > api.refused_at) - api.refused_at
    print(f"30 orders charged in {api.calls[-1] - began:.1f} s, none of them twice.")
    print(f"After the 429 nobody called for {rest:.1f} s.")
    await mux.close()


asyncio.run(main())
