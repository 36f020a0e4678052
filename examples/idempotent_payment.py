"""An idempotent payment: however often a client asks for it, an order is charged once.

Run it on any backend: `python examples/idempotent_payment.py [URL]`; without one, in memory.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

from taskmux import Context, Dedup, JobHandle, Taskmux

mux = Taskmux(sys.argv[1] if len(sys.argv) > 1 else "memory://")


class Bank:
    """A payment provider that keeps to idempotency keys, as providers do."""

    def __init__(self) -> None:
        self.charged: Counter[str] = Counter()
        self._receipts: dict[str, str] = {}

    async def charge(self, key: str, order: str) -> str:
        """Charge once for each key."""
        if key not in self._receipts:
            self.charged[order] += 1
            self._receipts[key] = f"receipt {len(self._receipts) + 1}"
        return self._receipts[key]


bank = Bank()


@mux.task(queue="payments", max_attempts=5, backoff="10ms")
async def pay(ctx: Context, order: str, cents: int) -> str:
    """Charge an order. The job's id is the provider's idempotency key."""
    receipt = await ctx.step("charge", bank.charge, ctx.id, order)
    if ctx.attempt == 1:
        raise ConnectionError("the network broke just after the charge")
    return f"{order}: {cents / 100:.2f} EUR, {receipt}"


async def requested(order: str, cents: int) -> JobHandle[str]:
    """Do what a web handler does when a client posts a payment."""
    # For a day a second request for the order is the first one's job, finished or not.
    once = Dedup(f"pay:{order}", ttl="1d")
    return await pay.options(dedup=once).enqueue(order, cents)


async def main() -> None:
    """Let impatient clients click, and see what was charged."""
    orders = {"order-1": 1999, "order-2": 500}
    clicks = [requested(order, cents) for order, cents in orders.items() for _ in range(5)]
    jobs = await asyncio.gather(*clicks)
    async with mux.worker(["payments"]):
        receipts = {await job.result(timeout="30s") for job in jobs}
        late = await requested("order-1", 1999)  # the client comes back after the payment
        assert await late.result(timeout="30s") in receipts
    for receipt in sorted(receipts):
        print(receipt)
    again = sum(job.duplicate for job in [*jobs, late])
    print(f"{len(jobs) + 1} requests, {again} of them for a payment that there was.")
    print(f"Charged: {dict(bank.charged)}")
    await mux.close()


asyncio.run(main())
