"""Life: opening, closing and further instances."""

from __future__ import annotations

import asyncio

import pytest

from taskmux.conformance.bench import Bench
from taskmux.driver import Driver, NewJob, QueueSettings, State, StoreError, transition


class LifeCases:
    """O1 to O5."""

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

    async def test_the_url_can_be_logged(self, bench: Bench) -> None:
        assert ":" in bench.driver.url
        assert bench.driver.fork().url == bench.driver.url
