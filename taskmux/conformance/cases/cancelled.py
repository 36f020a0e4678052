"""Cancelled calls: a caller that gives up harms neither the next caller nor the store."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from random import Random
from typing import Any

import pytest

from taskmux.conformance.bench import LONG, Bench
from taskmux.conformance.faults import resend
from taskmux.driver import ClaimAsk, NewJob, PushStatus, State, transition

TURNS = (0, 1, 2, 3, 5, 8)
"""After how many turns of the event loop a call is cancelled: before, during, after the sending."""


async def _cancel_after(call: Coroutine[Any, Any, object], turns: int) -> None:
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class CancelledCases:
    """P4, C5 and A4 when the caller went away; replies that must not cross."""

    @pytest.mark.parametrize("turns", TURNS)
    async def test_p4_a_cancelled_push_is_sent_again(self, bench: Bench, turns: int) -> None:
        op = bench.op()
        await _cancel_after(bench.push(bench.job(), op=op), turns)
        push = partial(bench.driver.push, op, [NewJob(bench.job())])
        assert [answer.status for answer in await resend(push)] == [PushStatus.CREATED]
        assert await bench.claimed_ids(10) == ["job"]

    @pytest.mark.parametrize("turns", TURNS)
    async def test_c5_a_cancelled_claim_is_sent_again(self, bench: Bench, turns: int) -> None:
        await bench.created(*map(bench.job, "abcd"))
        op, ask = bench.op("worker"), ClaimAsk(bench.queue, "worker", 2, LONG)
        await _cancel_after(bench.driver.claim(op, ask), turns)
        claimed = await resend(partial(bench.driver.claim, op, ask))
        assert [job.id for job in claimed.jobs] == ["a", "b"]
        assert await bench.claimed_ids(10) == ["c", "d"]

    @pytest.mark.parametrize("turns", TURNS)
    async def test_a4_a_cancelled_apply_is_sent_again(self, bench: Bench, turns: int) -> None:
        one = transition.complete(await bench.running(), b"1")
        op = bench.op()
        await _cancel_after(bench.driver.apply(op, [one]), turns)
        (answer,) = await resend(partial(bench.driver.apply, op, [one]))
        assert answer.state is State.COMPLETED
        assert (await bench.record(one.ref)).attempts == 1

    async def test_a_storm_of_cancellations_crosses_no_replies(self, bench: Bench) -> None:
        jobs = await bench.created(*(bench.job(f"job-{n}") for n in range(12)))
        rng = Random(1)  # noqa: S311 - repeatable on purpose
        for _ in range(20):
            tasks = {job.id: asyncio.ensure_future(bench.driver.get([job.ref])) for job in jobs}
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            for name in rng.sample(sorted(tasks), 6):
                tasks[name].cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            finished = {name: task for name, task in tasks.items() if not task.cancelled()}
            got = {
                name: [job and job.id for job in task.result()] for name, task in finished.items()
            }
            assert got == {name: [name] for name in finished}
        assert list(await bench.driver.get([job.ref for job in jobs])) == jobs
