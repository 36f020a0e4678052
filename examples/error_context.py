"""Error context: a dead letter tells what failed, with which arguments, how often and for whom.

Run it on any backend: `python examples/error_context.py [URL]`; without one, in memory.
"""

from __future__ import annotations

import asyncio
import sys

from taskmux import Context, Fixed, JobFailed, JobRecord, Taskmux, hookimpl

letters: asyncio.Queue[JobRecord] = asyncio.Queue()


class Letters:
    """Hears of each dead job, however it died."""

    @hookimpl
    def taskmux_dead(self, job: JobRecord) -> None:
        """Hand it to whoever sends alerts."""
        letters.put_nowait(job)


mux = Taskmux(sys.argv[1] if len(sys.argv) > 1 else "memory://", plugins=[Letters()])


class PaymentError(Exception):
    """What the payment service said, with all that helps to find it there."""


def ask_the_service() -> None:
    """Fail, as the service does today."""
    raise ConnectionError("503 from payments.example")


@mux.task(queue="payments", max_attempts=2, backoff=Fixed(0))
async def charge(ctx: Context, order: int, amount: int) -> None:
    """Pretend to charge; the service is down."""
    try:
        ask_the_service()
    except ConnectionError as error:
        error.add_note(f"request {order}-{ctx.attempt}")  # notes are part of the traceback
        raise PaymentError(f"order {order}: could not charge {amount}") from error


async def main() -> None:
    """Let a job die and print its letter, as an on-call engineer would read it."""
    async with mux, mux.worker(["payments"]):
        call = charge.options(headers={"traceparent": "00-abc-01"}, tags=["customer:7"])
        job = await call.enqueue(order=42, amount=100)
        try:
            await job.result(timeout="60s")
        except JobFailed as error:
            print(f"The caller sees: {error}")
        letter = await letters.get()
    print(f"Dead: {letter.ref.queue}, {letter.task.rpartition('.')[2]}, {letter.reason}")
    print(f"Arguments: {letter.arguments}; tags {letter.tags}; headers {letter.headers}")
    for past in letter.history:
        assert past.error is not None
        print(f"Attempt {past.number} {past.outcome}: {past.error.type}: {past.error.message}")
    assert letter.error is not None
    trace = letter.error.traceback or ""
    print(f"Its cause is in the traceback: {'503 from payments.example' in trace}")
    print(f"So is the note of the last request: {'request 42-2' in trace}")


asyncio.run(main())
