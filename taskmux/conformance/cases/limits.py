"""Limits of queues and lines: concurrency and rates. Holds have a file of their own."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from taskmux.conformance.bench import LONG, Bench, needs
from taskmux.conformance.cases.moves import SPENT
from taskmux.driver import (
    ClaimAsk,
    Claimed,
    LineSettings,
    NewJob,
    QueueSettings,
    Rate,
    State,
    transition,
)

SHORT = 150
"""Milliseconds between two starts, where a case waits for the next one."""


def _told(claimed: Claimed) -> tuple[list[str], str | None]:
    return [job.id for job in claimed.jobs], claimed.blocked_by


async def _opens_in(bench: Bench, claimed: Claimed, low: int, high: int) -> None:
    error = bench.hooks.clock_error_ms
    assert claimed.next_in is not None
    assert low - error <= claimed.next_in <= high + error, f"next_in is {claimed.next_in}"


class LimitCases:
    """C9, C10, C12 and C13."""

    @needs("lines")
    async def test_c9_no_more_are_active_than_allowed(self, bench: Bench) -> None:
        await bench.set(concurrency=2)
        await bench.created(*map(bench.job, "abcde"))
        first = await bench.claim(5)
        assert _told(first) == (["a", "b"], None)
        assert _told(await bench.claim(5)) == ([], "concurrency")
        await bench.applied(transition.complete(first.jobs[0], None))
        assert _told(await bench.claim(5)) == (["c"], None)

    @needs("lines")
    @pytest.mark.parametrize("move", ["again", "release", "bury", "cancelled"])
    async def test_c9_whatever_ends_a_run_makes_room(self, bench: Bench, move: str) -> None:
        await bench.set(concurrency=1, groups=LineSettings(concurrency=1))
        await bench.created(bench.job("a", group="g"), bench.job("b", group="g", priority=0))
        job = await bench.claim_one()
        moves = {
            "again": transition.again(job, SPENT, LONG),
            "release": transition.release(job),
            "bury": transition.bury(job, SPENT),
            "cancelled": transition.cancelled(job, SPENT),
        }
        await bench.applied(moves[move])
        assert await bench.claimed_ids(5) == ["b" if move == "release" else "a"]
        assert _told(await bench.claim(5)) == ([], "concurrency")

    @needs("lines")
    async def test_c9_a_lapsed_lease_takes_room_until_it_is_settled(self, bench: Bench) -> None:
        await bench.set(concurrency=1)
        await bench.created(bench.job("a"), bench.job("b"))
        job = await bench.claim_one(lease=20)
        await bench.reach((job.lease_until or 0) + 1)
        assert _told(await bench.claim()) == ([], "concurrency")
        rescued = await bench.reclaim_one()
        assert _told(await bench.claim()) == ([], "concurrency")
        await bench.applied(transition.complete(rescued, None))
        assert await bench.claimed_ids() == ["b"]

    @needs("lines")
    async def test_c9_of_each_group(self, bench: Bench) -> None:
        await bench.set(
            groups=LineSettings(concurrency=1), lines={"b": LineSettings(concurrency=2)}
        )
        await bench.created(
            *(bench.job(f"{line}{n}", group=line) for line in "ab" for n in range(3)),
            bench.job("common1"),
            bench.job("common2"),
        )
        first = await bench.claim(20)
        assert _told(first) == (["a0", "b0", "common1", "b1", "common2"], None)
        kept = await bench.claim(20)
        assert (_told(kept), kept.next_in) == (([], "lines"), None)
        await bench.applied(transition.complete(first.jobs[0], None))
        assert await bench.claimed_ids(20) == ["a1"]

    @needs("lines")
    async def test_c9_a_full_line_that_lost_its_jobs_gives_the_next_one(self, bench: Bench) -> None:
        await bench.set(groups=LineSettings(concurrency=1))
        await bench.created(bench.job("a1", group="a"), bench.job("a2", group="a"))
        first = await bench.claim_one()
        assert _told(await bench.claim(5)) == ([], "lines")
        await bench.applied(transition.remove(bench.job("a2").ref))
        await bench.applied(transition.complete(first, None))
        assert _told(await bench.claim(5)) == ([], None)
        await bench.created(bench.job("a3", group="a"), bench.job("b1", group="b"))
        assert await bench.claimed_ids(5) == ["a3", "b1"]

    @needs("lines")
    async def test_c9_a_tasks_own_line_is_no_group(self, bench: Bench) -> None:
        await bench.set(
            groups=LineSettings(concurrency=1),
            group_size=1,
            lines={"@limited": LineSettings(concurrency=2)},
        )
        await bench.created(
            *(bench.job(f"free{n}", group="@free") for n in range(3)),
            *(bench.job(f"limited{n}", group="@limited") for n in range(3)),
        )
        assert len((await bench.claim(10)).jobs) == 5
        assert _told(await bench.claim(10)) == ([], "lines")

    @needs("lines")
    async def test_c9_a_full_line_does_not_fill_the_queue(self, bench: Bench) -> None:
        await bench.set(concurrency=3, groups=LineSettings(concurrency=1))
        await bench.created(*(bench.job(f"{line}{n}", group=line) for line in "abcd" for n in "12"))
        first = await bench.claim(10)
        assert _told(first) == (["a1", "b1", "c1"], None)
        await bench.applied(transition.complete(first.jobs[1], None))
        assert await bench.claimed_ids(10) == ["d1"]

    @needs("lines")
    async def test_c9_many_claim_at_once(self, bench: Bench) -> None:
        await bench.set(concurrency=5, groups=LineSettings(concurrency=2))
        await bench.created(*(bench.job(f"{n}", group=f"g{n % 4}") for n in range(40)))
        others = [await bench.fork() for _ in range(4)]
        claims = [
            bench.claim(3, worker=f"worker-{number}", by=other)
            for number, other in enumerate(others * 3)
        ]
        jobs = [job for claimed in await asyncio.gather(*claims) for job in claimed.jobs]
        jobs += (await bench.claim(5)).jobs  # what reservations of refused claims kept back
        groups = [job.group for job in jobs]
        assert len(jobs) == (await bench.driver.counts(bench.queue))[State.ACTIVE] <= 5
        assert jobs
        assert max(map(groups.count, groups)) <= 2

    @needs("lines")
    async def test_c9_a_new_limit_counts_at_once(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abcdef"))
        await bench.claim(2)
        await bench.set(concurrency=2)
        assert _told(await bench.claim(5)) == ([], "concurrency")
        await bench.set(concurrency=4)
        assert _told(await bench.claim(5)) == (["c", "d"], None)
        await bench.set(concurrency=None)
        assert _told(await bench.claim(5)) == (["e", "f"], None)

    # -- rates ------------------------------------------------------------------------------------

    @needs("lines")
    async def test_c10_a_rate_lets_its_burst_and_one_go(self, bench: Bench) -> None:
        await bench.set(rate=Rate(2, 2 * LONG, burst=2))
        await bench.created(*map(bench.job, "abcde"))
        assert _told(await bench.claim(2)) == (["a", "b"], None)
        first = await bench.claim(2)
        assert _told(first) == (["c"], None)
        kept = await bench.claim(2)
        assert _told(kept) == ([], "rate")
        await _opens_in(bench, kept, LONG - 5_000, LONG)

    @needs("lines")
    async def test_c10_the_next_one_goes_in_time(self, bench: Bench) -> None:
        await bench.set(rate=Rate(1, SHORT))
        await bench.created(*map(bench.job, "abc"))
        for name in "abc":
            claimed = await bench.claim(5)
            assert _told(claimed) == ([name], None)
            await bench.reach(claimed.now + SHORT)

    @needs("lines")
    async def test_c10_no_window_sees_more_than_the_rate_and_its_burst(self, bench: Bench) -> None:
        rate = Rate(10, 200, burst=3)
        await bench.set(rate=rate)
        await bench.created(*(bench.job(f"{n}") for n in range(60)))
        starts: list[int] = []
        until = await bench.now() + 500
        while (claimed := await bench.claim(60)).now < until:
            starts += [claimed.now] * len(claimed.jobs)
            await bench.reach(claimed.now + max(claimed.next_in or 0, 1))
        error = bench.hooks.clock_error_ms
        most = max(
            sum(first <= other < first + rate.per - 2 * error for other in starts)
            for first in starts
        )
        assert most <= rate.count + rate.burst
        assert len(starts) > rate.count

    @needs("lines")
    async def test_c10_of_each_group(self, bench: Bench) -> None:
        await bench.set(
            groups=LineSettings(rate=Rate(1, LONG)),
            lines={"b": LineSettings(rate=Rate(2, 4 * LONG, burst=1))},
        )
        await bench.created(
            *(bench.job(f"{line}{n}", group=line) for line in "ab" for n in range(3)),
            bench.job("common"),
        )
        assert _told(await bench.claim(20)) == (["a0", "b0", "common", "b1"], None)
        kept = await bench.claim(20)
        assert _told(kept) == ([], "lines")
        await _opens_in(bench, kept, LONG - 5_000, LONG)

    @needs("lines")
    async def test_c10_a_group_goes_on_in_time(self, bench: Bench) -> None:
        await bench.set(groups=LineSettings(rate=Rate(1, SHORT)))
        await bench.created(bench.job("a1", group="a"), bench.job("a2", group="a"))
        claimed = await bench.claim(5)
        assert _told(claimed) == (["a1"], None)
        await bench.reach(claimed.now + SHORT)
        assert _told(await bench.claim(5)) == (["a2"], None)

    @needs("lines")
    async def test_c10_a_group_gets_its_turn_again_among_busy_ones(self, bench: Bench) -> None:
        await bench.set(lines={"r": LineSettings(rate=Rate(1, SHORT))})
        names = ("r1", "r2", "a1", "a2", "a3", "a4", "b1", "b2", "b3", "b4")
        await bench.created(*(bench.job(name, group=name[0]) for name in names))
        found = [await bench.claimed_ids() for _ in range(4)]  # the last one passes over `r`
        await bench.reach(await bench.now() + SHORT + 2 * bench.hooks.clock_error_ms)
        found += [await bench.claimed_ids() for _ in range(3)]
        assert ["r2"] in found, found

    @needs("lines")
    async def test_c10_a_faster_rate_counts_at_once(self, bench: Bench) -> None:
        await bench.set(rate=Rate(1, 100 * LONG))
        await bench.created(*map(bench.job, "abc"))
        assert _told(await bench.claim(5)) == (["a"], None)
        assert _told(await bench.claim(5)) == ([], "rate")
        await bench.set(rate=Rate(1, SHORT))
        await bench.reach(await bench.now() + SHORT)
        assert _told(await bench.claim(5)) == (["b"], None)
        await bench.set(rate=None)
        assert _told(await bench.claim(5)) == (["c"], None)

    @needs("lines")
    async def test_c13_a_due_job_may_be_sooner(self, bench: Bench) -> None:
        await bench.set(rate=Rate(1, 4 * LONG))
        later = bench.job("later", state=State.DELAYED)
        await bench.created(bench.job("a"), bench.job("b"))
        await bench.push(NewJob(later, delay=LONG))
        await bench.claim()
        kept = await bench.claim()
        assert kept.blocked_by == "rate"
        await _opens_in(bench, kept, LONG - 5_000, LONG)

    @needs("lines")
    async def test_c10_a_larger_burst_before_does_not_keep_it_shut(self, bench: Bench) -> None:
        await bench.set(rate=Rate(1, LONG, burst=50))
        await bench.created(*(bench.job(f"{n:02}") for n in range(60)))
        assert len((await bench.claim(60)).jobs) == 51
        await bench.set(rate=Rate(1, SHORT))
        await bench.reach(await bench.now() + SHORT)
        assert _told(await bench.claim(60)) == (["51"], None)

    # -- prefetching ------------------------------------------------------------------------------

    @needs("lines")
    @pytest.mark.parametrize(
        ("settings", "limited"),
        [
            (QueueSettings(), False),
            (QueueSettings(lines={"a": LineSettings(paused=True)}, group_size=100), False),
            (QueueSettings(concurrency=100), True),
            (QueueSettings(rate=Rate(1000, 1, burst=1000)), True),
            (QueueSettings(groups=LineSettings(concurrency=100)), True),
            (QueueSettings(lines={"z": LineSettings(rate=Rate(1, 1))}), True),
        ],
    )
    async def test_c12_a_queue_with_limits_gives_none_to_prefetch(
        self, bench: Bench, settings: QueueSettings, *, limited: bool
    ) -> None:
        assert await bench.driver.put_settings(bench.queue, settings)
        await bench.created(*map(bench.job, "abcdef"))
        ask = ClaimAsk(bench.queue, "worker", limit=5, lease=LONG, prefetch=2)
        claimed = await bench.driver.claim(bench.op(), ask)
        assert (len(claimed.jobs), claimed.limited) == (3 if limited else 5, limited)
        ask = replace(ask, limit=2)
        claimed = await bench.driver.claim(bench.op(), ask)
        assert (len(claimed.jobs), claimed.limited) == (0 if limited else 1, limited)
