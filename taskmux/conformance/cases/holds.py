"""Holds of queues and lines, and what ends the wait of those who found no room."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from taskmux.conformance.bench import LONG, Bench, needs
from taskmux.conformance.cases.moves import SPENT
from taskmux.driver import (
    ApplyStatus,
    Claimed,
    LineSettings,
    State,
    transition,
)

AGES = 20.0
"""Seconds. A wait that lasts this long was not woken."""

SHORT = 150
"""Milliseconds between two starts, where a case waits for the next one."""


def _told(claimed: Claimed) -> tuple[list[str], str | None]:
    return [job.id for job in claimed.jobs], claimed.blocked_by


async def _opens_in(bench: Bench, claimed: Claimed, low: int, high: int) -> None:
    error = bench.hooks.clock_error_ms
    assert claimed.next_in is not None
    assert low - error <= claimed.next_in <= high + error, f"next_in is {claimed.next_in}"


async def _at_rest(bench: Bench) -> None:
    """Take every hint about what came before, as a worker does that finds nothing."""
    woken, jobs = True, True
    while woken or jobs:
        woken, jobs = await bench.driver.wait([bench.queue], 0), bool((await bench.claim()).jobs)


async def _woken(bench: Bench, news: Awaitable[object]) -> None:
    """Wait, let it happen, and check that it ended the wait."""
    waiting = asyncio.create_task(bench.driver.wait([bench.queue], AGES))
    await asyncio.sleep(0)
    await news
    assert await waiting


class HoldCases:
    """A11, W4, and W1 where a queue has limits."""

    # -- holds ------------------------------------------------------------------------------------

    @needs("lines")
    async def test_a11_a_hold_keeps_the_queue_back(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abc"))
        job = await bench.claim_one()
        await bench.applied(transition.limited(job, SPENT, LONG))
        stored = await bench.record(job)
        assert (stored.state, stored.reason) == (State.WAITING, SPENT.reason)
        kept = await bench.claim(5)
        assert _told(kept) == ([], "rate")
        await _opens_in(bench, kept, LONG - 5_000, LONG)

    @needs("lines")
    @pytest.mark.parametrize("line", [False, True])
    async def test_a11_a_hold_leaves_other_queues_alone(self, bench: Bench, *, line: bool) -> None:
        other = bench.another_queue()
        await bench.created(
            *(bench.job(f"{name}{n}", group="g") for name in "ab" for n in (1, 2)),
            *(bench.job(f"{name}{n}", group="g", queue=other) for name in "cd" for n in (1, 2)),
        )
        job = await bench.claim_one()
        there = await bench.claim_one(queue=other)
        await bench.applied(
            transition.limited(job, SPENT, LONG, line=line), transition.complete(there, None)
        )
        assert _told(await bench.claim(5)) == ([], "lines" if line else "rate")
        claimed = await bench.claim(5, queue=other)
        assert _told(claimed) == (["c2", "d1", "d2"], None)

    @needs("lines")
    async def test_a11_then_the_job_is_first(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abc"))
        job = await bench.claim_one()
        since = await bench.now()
        await bench.applied(transition.limited(job, SPENT, SHORT))
        await bench.reach(since + SHORT + 20)
        assert await bench.claimed_ids(5) == ["a", "b", "c"]

    @needs("lines")
    async def test_a11_a_shorter_hold_ends_no_longer_one(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abc"))
        one, other = (await bench.claim(2)).jobs
        await bench.applied(transition.limited(one, SPENT, LONG))
        await bench.applied(transition.limited(other, SPENT, 1))
        await bench.reach(await bench.now() + 2)
        assert _told(await bench.claim(5)) == ([], "rate")

    @needs("lines")
    @pytest.mark.parametrize("line", [False, True])
    async def test_a11_a_hold_outlives_a_prune(self, bench: Bench, *, line: bool) -> None:
        await bench.created(bench.job("a", group="g"), bench.job("b", group="g"))
        job = await bench.claim_one()
        await bench.applied(transition.limited(job, SPENT, LONG, line=line))
        assert await bench.prune() == 0
        assert _told(await bench.claim(5)) == ([], "lines" if line else "rate")

    @needs("lines")
    async def test_a11_a_line_is_held_alone(self, bench: Bench) -> None:
        await bench.created(bench.job("a1", group="a"), bench.job("a2", group="a"), bench.job("b"))
        job = await bench.claim_one()
        await bench.applied(transition.limited(job, SPENT, LONG, line=True))
        assert _told(await bench.claim(5)) == (["b"], None)
        kept = await bench.claim(5)
        assert _told(kept) == ([], "lines")
        await _opens_in(bench, kept, LONG - 5_000, LONG)

    @needs("lines")
    async def test_a11_jobs_without_a_group_are_held_as_a_line(self, bench: Bench) -> None:
        await bench.created(bench.job("a"), bench.job("b"))
        job = await bench.claim_one()
        await bench.applied(transition.limited(job, SPENT, LONG, line=True))
        kept = await bench.claim(5)
        assert _told(kept) == ([], "lines")
        await _opens_in(bench, kept, LONG - 5_000, LONG)

    @needs("lines")
    async def test_a11_a_line_is_held_where_limits_were_lifted(self, bench: Bench) -> None:
        await bench.set(concurrency=1)
        await bench.set(concurrency=None)
        await bench.created(bench.job("a1", group="a"), bench.job("a2", group="a"))
        job = await bench.claim_one()
        await bench.applied(transition.limited(job, SPENT, LONG, line=True))
        kept = await bench.claim(5)
        assert _told(kept) == ([], "lines")
        await _opens_in(bench, kept, LONG - 5_000, LONG)

    @needs("lines")
    async def test_a11_new_settings_end_all_holds(self, bench: Bench) -> None:
        await bench.created(bench.job("a1", group="a"), bench.job("b1", group="b"))
        a, b = (await bench.claim(2)).jobs
        await bench.applied(transition.limited(a, SPENT, LONG))
        await bench.applied(transition.limited(b, SPENT, LONG, line=True))
        assert _told(await bench.claim(5)) == ([], "rate")
        await bench.set(paused=False)
        assert _told(await bench.claim(5)) == (["a1", "b1"], None)

    @needs("lines")
    async def test_a11_a_zombie_holds_nothing(self, bench: Bench) -> None:
        zombie = await bench.running()
        await bench.applied(transition.release(zombie))
        (answer,) = await bench.apply(transition.limited(zombie, SPENT, LONG))
        assert answer.status is ApplyStatus.STALE
        assert await bench.claimed_ids() == ["job"]

    # -- wake-ups ---------------------------------------------------------------------------------

    @needs("lines")
    @pytest.mark.parametrize("of", ["queue", "line"])
    async def test_w4_room_ends_the_wait(self, bench: Bench, of: str) -> None:
        if of == "queue":
            await bench.set(concurrency=1)
        else:
            await bench.set(groups=LineSettings(concurrency=1))
        await bench.created(bench.job("a", group="g"), bench.job("b", group="g"))
        job = await bench.claim_one()
        other = await bench.fork()
        await _at_rest(bench)
        await _woken(bench, bench.apply(transition.complete(job, None), by=other))
        assert await bench.claimed_ids() == ["b"]

    @needs("lines")
    async def test_w4_what_makes_no_room_is_not_taken_for_it(self, bench: Bench) -> None:
        await bench.set(concurrency=1)
        await bench.created(bench.job("a"), bench.job("b"))
        job = await bench.claim_one()
        other = await bench.fork()
        await _at_rest(bench)
        await bench.apply(transition.start(job), by=other)
        await _woken(bench, bench.apply(transition.complete(job, None), by=other))
        assert await bench.claimed_ids() == ["b"]

    @needs("lines")
    async def test_w4_room_ends_the_wait_whatever_ended_before(self, bench: Bench) -> None:
        await bench.set(groups=LineSettings(concurrency=1))
        await bench.created(bench.job("a", group="g"), bench.job("b", group="g"), bench.job("c"))
        job, common = (await bench.claim(2)).jobs
        other = await bench.fork()
        await _at_rest(bench)
        await bench.apply(transition.complete(common, None), by=other)
        await _at_rest(bench)
        await _woken(bench, bench.apply(transition.complete(job, None), by=other))
        assert await bench.claimed_ids() == ["b"]

    @needs("lines")
    async def test_w1_new_settings_end_the_wait(self, bench: Bench) -> None:
        await bench.set(concurrency=1)
        await bench.created(bench.job("a"), bench.job("b"))
        await bench.claim_one()
        await _at_rest(bench)
        await _woken(bench, bench.set(concurrency=2))
        assert await bench.claimed_ids() == ["b"]
