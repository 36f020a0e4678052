"""Wait: a hint that work may be there. Nothing here measures how soon."""

from __future__ import annotations

import asyncio

import pytest

from taskmux.conformance.bench import LONG, Bench
from taskmux.conformance.cases.moves import SPENT
from taskmux.driver import (
    BlockedCause,
    Dedup,
    NewJob,
    QueueSettings,
    State,
    Transition,
    transition,
)

AGES = 20.0
"""Seconds. A wait that lasts this long was not woken."""


async def _idle(bench: Bench) -> None:
    """Claim until nothing is there, as a worker does before it waits."""
    while (await bench.claim(10)).jobs:
        continue


async def _at_rest(bench: Bench) -> None:
    """Take every hint about what came before, as a worker does that finds nothing."""
    woken, jobs = True, True
    while woken or jobs:
        woken, jobs = await bench.driver.wait([bench.queue], 0), bool((await bench.claim()).jobs)


class WaitCases:
    """W1 to W3."""

    async def test_w1_a_push_ends_the_wait(self, bench: Bench) -> None:
        producer = await bench.fork()
        await _idle(bench)
        waiting = asyncio.create_task(bench.driver.wait([bench.queue], AGES))
        await bench.push(bench.job(), by=producer)
        assert await waiting
        assert await bench.claimed_ids() == ["job"]

    async def test_w1_any_of_several_queues_counts(self, bench: Bench) -> None:
        producer = await bench.fork()
        queues = [bench.another_queue(), bench.another_queue(), bench.queue]
        await _idle(bench)
        waiting = asyncio.create_task(bench.driver.wait(queues, AGES))
        await bench.push(bench.job(queue=queues[1]), by=producer)
        assert await waiting

    async def test_w1_a_push_from_another_loop_ends_the_wait(self, bench: Bench) -> None:
        async def produce() -> None:
            producer = bench.driver.fork()
            await producer.open()
            try:
                await bench.push(bench.job(), by=producer)
            finally:
                await producer.close()

        await _idle(bench)
        waiting = asyncio.create_task(bench.driver.wait([bench.queue], AGES))
        await asyncio.to_thread(asyncio.run, produce())
        assert await waiting

    @pytest.mark.parametrize("move", ["promote", "unblock", "redrive", "release"])
    async def test_w1_a_transition_ends_the_wait(self, bench: Bench, move: str) -> None:
        start = {"promote": "delayed", "unblock": "blocked", "redrive": "dead"}
        job = await bench.arrange(start.get(move, "active"))
        moves: dict[str, Transition] = {
            "promote": transition.promote(job.ref),
            "unblock": transition.unblock(job.ref, BlockedCause.HOLD),
            "redrive": transition.redrive(job.ref),
            "release": transition.release(job),
        }
        other = await bench.fork()
        await _idle(bench)
        waiting = asyncio.create_task(bench.driver.wait([bench.queue], AGES))
        await bench.apply(moves[move], by=other)
        assert await waiting
        assert await bench.claimed_ids() == ["job"]

    @pytest.mark.parametrize("is_same", [True, False])
    @pytest.mark.parametrize("way", ["end", "release"])
    async def test_w1_a_successor_that_is_let_go_ends_the_wait(
        self, bench: Bench, way: str, *, is_same: bool
    ) -> None:
        dedup = Dedup("key", latest=True)
        owner = await bench.running("owner", dedup=dedup)
        await bench.created(bench.job("next", dedup=dedup))
        by = bench.driver if is_same else await bench.fork()
        await _idle(bench)
        waiting = asyncio.create_task(bench.driver.wait([bench.queue], AGES))
        if way == "end":
            await bench.apply(transition.complete(owner, None), by=by)
        else:
            assert await by.release_dedup(bench.queue, "key", "owner")
        assert await waiting
        assert await bench.claimed_ids() == ["next"]

    @pytest.mark.parametrize("by", ["push", "postpone", "retry"])
    async def test_w1_a_delayed_job_that_is_due_first_ends_the_wait(
        self, bench: Bench, by: str
    ) -> None:
        late = bench.job("late", state=State.DELAYED)
        await bench.created(NewJob(late, delay=3 * LONG))
        job = await bench.arrange("active" if by == "retry" else "blocked")
        other = await bench.fork()
        sooner = NewJob(bench.job("sooner", state=State.DELAYED), delay=LONG)
        moves = {
            "postpone": transition.postpone(late.ref, LONG),
            "retry": transition.again(job, SPENT, LONG),
        }
        await _at_rest(bench)
        waiting = asyncio.create_task(bench.driver.wait([bench.queue], AGES))
        await asyncio.sleep(0)
        if by == "push":
            await bench.push(sooner, by=other)
        else:
            await bench.apply(moves[by], by=other)
        assert await waiting
        next_in = (await bench.claim()).next_in
        assert next_in is not None
        assert next_in < 2 * LONG

    async def test_w1_new_settings_end_any_wait(self, bench: Bench) -> None:
        await bench.set(paused=True)
        await bench.created(bench.job())
        other = await bench.fork()
        await _at_rest(bench)
        waiting = asyncio.create_task(bench.driver.wait([bench.queue], AGES))
        await asyncio.sleep(0)
        assert await other.put_settings(bench.queue, QueueSettings(rev=1))
        assert await waiting
        assert await bench.claimed_ids() == ["job"]

    async def test_w1_every_instance_is_woken(self, bench: Bench) -> None:
        others = [await bench.fork() for _ in range(3)]
        for other in others:
            await bench.claim(by=other)
        waits = [asyncio.create_task(other.wait([bench.queue], AGES)) for other in others]
        await bench.push(*(bench.job(f"job-{n}") for n in range(3)))
        assert await asyncio.gather(*waits) == [True] * 3

    async def test_w1_it_wakes_again_and_again(self, bench: Bench) -> None:
        producer = await bench.fork()
        for number in range(5):
            await _idle(bench)
            await bench.driver.wait([bench.queue], 0)
            waiting = asyncio.create_task(bench.driver.wait([bench.queue], AGES))
            await asyncio.sleep(0)
            await bench.push(bench.job(f"job-{number}"), by=producer)
            assert await waiting

    async def test_w2_it_ends_by_itself(self, bench: Bench) -> None:
        await _idle(bench)
        for _ in range(50):
            if not await bench.driver.wait([bench.queue], 0.02):
                return
        raise AssertionError("wait() of an idle queue never answered False: workers would spin")

    async def test_w2_a_cancelled_wait_harms_nothing(self, bench: Bench) -> None:
        await _idle(bench)
        for _ in range(3):
            waiting = asyncio.create_task(bench.driver.wait([bench.queue], AGES))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        waiting = asyncio.create_task(bench.driver.wait([bench.queue], AGES))
        await bench.push(bench.job())
        assert await waiting
        assert await bench.claimed_ids() == ["job"]

    async def test_w3_what_came_between_claim_and_wait_counts(self, bench: Bench) -> None:
        producer = await bench.fork()
        await _idle(bench)
        await bench.push(bench.job(), by=producer)
        assert await bench.driver.wait([bench.queue], AGES)
        assert await bench.claimed_ids() == ["job"]
