"""Life: opening, closing and further instances."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import pytest

from taskmux.conformance.bench import LONG, Bench
from taskmux.conformance.faults import resend
from taskmux.driver import (
    ClaimAsk,
    Driver,
    FindAsk,
    HeldLease,
    JobRecord,
    NewJob,
    Note,
    Op,
    PruneAsk,
    QueueSettings,
    ReclaimAsk,
    State,
    StoreBusy,
    StoreError,
    StoreUnavailable,
    transition,
)

Send = Callable[[Bench, JobRecord, Op], Awaitable[object]]

VERBS: dict[str, Send] = {
    "push": lambda bench, _, op: bench.driver.push(op, [NewJob(bench.job("new"))]),
    "claim": lambda bench, job, op: bench.driver.claim(op, ClaimAsk(job.queue, "w", 1, LONG)),
    "apply": lambda bench, job, op: bench.driver.apply(op, [transition.start(job)]),
    "annotate": lambda bench, job, _: bench.driver.annotate(
        [Note(ref=job.ref, fence=job.fence, progress=b"1")]
    ),
    "extend": lambda bench, job, _: bench.driver.extend([HeldLease(job.ref, job.fence)], LONG),
    "reclaim": lambda bench, job, op: bench.driver.reclaim(op, ReclaimAsk(job.queue, "w", 1, LONG)),
    "get": lambda bench, job, _: bench.driver.get([job.ref]),
    "find": lambda bench, job, _: bench.driver.find(FindAsk(queue=job.queue, state=job.state)),
    "counts": lambda bench, job, _: bench.driver.counts(job.queue),
    "queues": lambda bench, *_: bench.driver.queues(),
    "prune": lambda bench, job, _: bench.driver.prune(PruneAsk(job.queue)),
    "settings": lambda bench, job, _: bench.driver.settings(job.queue),
    "put_settings": lambda bench, job, _: bench.driver.put_settings(job.queue, QueueSettings()),
    "wait": lambda bench, job, _: bench.driver.wait([job.queue], 0.05),
}
"""Every verb, in a way that may be sent again and again."""


AGES = 20.0
"""Seconds. A call that lasts this long hangs."""


class LifeCases:
    """O1 to O6."""

    async def test_o1_opening_an_open_driver_changes_nothing(self, bench: Bench) -> None:
        job = await bench.running()
        before = await bench.snapshot()
        await bench.driver.open()
        assert await bench.snapshot() == before
        await bench.applied(transition.complete(job, None))

    async def test_o2_a_store_that_does_not_fit_is_refused(self, bench: Bench) -> None:
        unfit = await bench.hooks.unfit()
        if not unfit:
            pytest.skip("no unfit store to try: `unfit` is not overridden")
        for driver, error in unfit:
            assert issubclass(error, StoreError)
            try:
                with pytest.raises(error) as raised:
                    await driver.open()
            finally:
                await driver.close()
            assert len(str(raised.value)) > 20, "an error says what happened and what to do next"

    async def test_o3_several_may_open_an_empty_store_at_once(
        self, unopened_driver: Driver
    ) -> None:
        drivers = [unopened_driver, *(unopened_driver.fork() for _ in range(3))]
        try:
            opened = await asyncio.gather(
                *(driver.open() for driver in drivers), return_exceptions=True
            )
            assert opened == [None] * 4
            for driver in drivers:
                assert sum((await driver.counts("kit")).values()) == 0
        finally:
            for driver in drivers:
                await driver.close()

    async def test_o4_closing_twice_changes_nothing(self, bench: Bench) -> None:
        other = bench.driver.fork()
        await other.open()
        await other.close()
        await other.close()
        await bench.created(bench.job())

    async def test_o4_a_driver_that_was_never_opened_can_be_closed(self, bench: Bench) -> None:
        await bench.driver.fork().close()

    async def test_o4_a_closed_driver_can_be_opened_again(self, bench: Bench) -> None:
        other = bench.driver.fork()
        for number in range(3):
            await other.open()
            await bench.push(bench.job(f"job-{number}"), by=other)
            await other.close()
        assert await bench.claimed_ids(10) == ["job-0", "job-1", "job-2"]

    async def test_o4_jobs_outlive_the_driver(self, bench: Bench) -> None:
        (job,) = await bench.created(bench.job())
        await bench.driver.close()
        await bench.driver.open()
        assert await bench.record(job) == job

    async def test_o5_an_instance_sees_what_another_did(self, bench: Bench) -> None:
        other = await bench.fork()
        assert type(other) is type(bench.driver)
        await bench.push(bench.job(), by=other)
        job = await bench.claim_one()
        assert list(await other.get([job.ref])) == [job]
        await bench.apply(transition.complete(job, b"1"), by=other)
        assert (await bench.record(job)).state is State.COMPLETED
        assert await other.put_settings(bench.queue, QueueSettings(paused=True))
        assert (await bench.claim()).blocked_by == "paused"

    async def test_o5_an_instance_may_live_in_another_loop(self, bench: Bench) -> None:
        async def elsewhere() -> None:
            other = bench.driver.fork()
            await other.open()
            try:
                await other.push(bench.op("elsewhere"), [NewJob(bench.job())])
            finally:
                await other.close()

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert await bench.claimed_ids() == ["job"]

    async def test_o5_a_repeat_may_come_through_another_instance(self, bench: Bench) -> None:
        other = await bench.fork()
        op = bench.op()
        first = await bench.push(bench.job(), op=op)
        assert list(await bench.push(bench.job(), op=op, by=other)) == list(first)
        op = bench.op("worker")
        first_claim = await bench.claim(op=op)
        assert list((await bench.claim(op=op, by=other)).jobs) == list(first_claim.jobs)

    @pytest.mark.parametrize("moment", ["before", "during"])
    @pytest.mark.parametrize("verb", VERBS)
    async def test_o6_a_cut_connection_is_unavailable_and_made_anew(
        self, bench: Bench, verb: str, moment: str
    ) -> None:
        job = await bench.running()
        send = partial(VERBS[verb], bench, job, bench.op(verb))
        if moment == "before":
            if not await bench.hooks.cut(bench.driver):
                pytest.skip("no way to break connections: `cut` is not overridden")
            calls = [asyncio.ensure_future(send())]
        else:
            calls = [asyncio.ensure_future(send()) for _ in range(8)]
            await asyncio.sleep(0)
            if not await bench.hooks.cut(bench.driver):
                await asyncio.gather(*calls)
                pytest.skip("no way to break connections: `cut` is not overridden")
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, BaseException):
                assert type(outcome) in {StoreUnavailable, StoreBusy}
                assert len(str(outcome)) > 20, "an error says what happened and what to do next"
        assert await resend(send) is not None
        assert (await bench.record(job)).id == "job"

    async def test_o6_a_verb_of_a_driver_that_is_not_open_says_so(self, bench: Bench) -> None:
        job = await bench.running()
        opened, bench.driver = bench.driver, bench.driver.fork()
        try:
            for verb, send in VERBS.items():
                with suppress(StoreUnavailable):  # or there is nothing to open, and it works
                    async with asyncio.timeout(AGES):
                        assert await send(bench, job, bench.op(verb)) is not None
        finally:
            await bench.driver.close()
            bench.driver = opened

    async def test_the_url_can_be_logged(self, bench: Bench) -> None:
        assert ":" in bench.driver.url
        assert bench.driver.fork().url == bench.driver.url
