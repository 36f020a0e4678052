"""Order: which job comes first, after whatever happened to it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from taskmux.conformance.bench import LONG, Bench
from taskmux.driver import BlockedCause, Changes, NewJob, Place, Ref, State, Transition, transition

COSTS = Changes(attempts=1)


class OrderCases:
    """C1, A5, and P6 and P7 at size."""

    async def test_c1_lowest_priority_number_first(self, bench: Bench) -> None:
        await bench.created(*(bench.job(f"p{n}", priority=n) for n in (100, 0, 2047, 5)))
        assert await bench.claimed_ids(10) == ["p0", "p5", "p100", "p2047"]

    async def test_c1_first_in_first_out_within_a_priority(self, bench: Bench) -> None:
        await bench.created(
            *(bench.job(f"{name}{n}", priority=n) for name in "bca" for n in (2, 1))
        )
        assert await bench.claimed_ids(10) == ["b1", "c1", "a1", "b2", "c2", "a2"]

    async def test_c1_order_holds_over_many_claims(self, bench: Bench) -> None:
        jobs = [bench.job(f"job-{n * 7919 % 250:03}", priority=n % 3) for n in range(250)]
        await bench.created(*jobs[:100])
        await bench.created(*jobs[100:])
        expected = [job.id for priority in range(3) for job in jobs if job.priority == priority]
        found: list[str] = []
        while ids := await bench.claimed_ids(40):
            found += ids
        assert found == expected

    async def test_c1_order_holds_when_higher_priority_arrives_later(self, bench: Bench) -> None:
        await bench.created(*(bench.job(f"n{n}") for n in range(3)))
        assert await bench.claimed_ids() == ["n0"]
        await bench.created(bench.job("urgent", priority=0))
        assert await bench.claimed_ids(10) == ["urgent", "n1", "n2"]

    async def test_p6_a_batch_of_a_thousand_keeps_its_order(self, bench: Bench) -> None:
        names = [f"job-{n * 7919 % 1000:03}" for n in range(1000)]
        await bench.push(*map(bench.job, names))
        assert [job.id for job in await bench.walk(State.WAITING)] == names
        claimed = (await bench.claim(1000)).jobs
        assert [job.id for job in claimed] == names
        await bench.applied(*(transition.complete(job, None) for job in claimed))
        assert (await bench.driver.counts(bench.queue))[State.COMPLETED] == 1000

    async def test_p7_a_due_lifo_job_goes_to_the_front(self, bench: Bench) -> None:
        await bench.created(bench.job("waiting"), bench.job("urgent", priority=1))
        await bench.created(bench.job("due", state=State.DELAYED, run_at=1_000, lifo=True))
        assert await bench.claimed_ids(10) == ["urgent", "due", "waiting"]

    async def test_a3_a_new_priority_keeps_the_sequence(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abc"), bench.job("high", priority=1))
        await bench.applied(transition.reprioritise(Ref(bench.queue, "b"), 1))
        await bench.applied(transition.reprioritise(Ref(bench.queue, "high"), 100))
        await bench.applied(transition.reprioritise(Ref(bench.queue, "b"), 100))
        assert await bench.claimed_ids(10) == ["a", "b", "c", "high"]

    async def test_a3_a_new_priority_counts_once_it_waits(self, bench: Bench) -> None:
        await bench.created(
            bench.job("a"),
            NewJob(bench.job("delayed", state=State.DELAYED), delay=LONG),
            bench.job("blocked", state=State.BLOCKED, cause=BlockedCause.HOLD),
        )
        delayed, blocked = (Ref(bench.queue, name) for name in ("delayed", "blocked"))
        await bench.applied(
            transition.reprioritise(delayed, 2), transition.reprioritise(blocked, 1)
        )
        await bench.applied(
            transition.promote(delayed), transition.unblock(blocked, BlockedCause.HOLD)
        )
        assert await bench.claimed_ids(10) == ["blocked", "delayed", "a"]

    async def test_a5_back_is_behind_all_others(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abc"))
        first = await bench.claim_one()
        await bench.applied(transition.again(first, COSTS, 0))
        assert await bench.claimed_ids(10) == ["b", "c", "a"]

    async def test_a5_back_is_meant_even_for_lifo_jobs(self, bench: Bench) -> None:
        await bench.created(bench.job("b"), bench.job("a", lifo=True))
        first = await bench.claim_one()
        assert first.id == "a"
        await bench.applied(transition.again(first, COSTS, 0))
        assert await bench.claimed_ids(10) == ["b", "a"]

    async def test_a5_keep_is_the_own_place(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abcd"))
        a, b, c = (await bench.claim(3)).jobs
        await bench.applied(transition.release(c), transition.release(a), transition.release(b))
        assert await bench.claimed_ids(10) == ["a", "b", "c", "d"]

    async def test_a5_keep_is_the_last_place_it_had(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abc"))
        first = await bench.claim_one()
        await bench.applied(transition.again(first, COSTS, 0))
        held = (await bench.claim(3)).jobs
        await bench.applied(*map(transition.release, held))
        assert await bench.claimed_ids(10) == ["b", "c", "a"]

    @pytest.mark.parametrize("state", ["blocked", "delayed"])
    async def test_a5_keep_is_the_own_place_after_another_state(
        self, bench: Bench, state: str
    ) -> None:
        await bench.created(*map(bench.job, "cab"))
        first = Ref(bench.queue, "c")
        if state == "blocked":
            there, back = transition.hold(first), transition.unblock(first, BlockedCause.HOLD)
        else:
            there, back = transition.postpone(first, LONG), transition.promote(first)
        await bench.applied(there, replace(back, place=Place.KEEP))
        assert await bench.claimed_ids(10) == ["c", "a", "b"]

    @pytest.mark.parametrize("state", [State.BLOCKED, State.DELAYED])
    async def test_a5_keep_is_the_back_for_a_job_that_never_waited(
        self, bench: Bench, state: State
    ) -> None:
        cause = BlockedCause.HOLD if state is State.BLOCKED else None
        new = bench.job("a", state=state, cause=cause)
        await bench.created(NewJob(new, delay=LONG), bench.job("b"))
        leave = replace(transition.promote(new.ref), place=Place.KEEP)
        await bench.applied(replace(leave, guard=transition.Guard(states=frozenset({state}))))
        assert await bench.claimed_ids(10) == ["b", "a"]

    async def test_a5_front_is_before_all_others(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abc"), bench.job("urgent", priority=1))
        await bench.applied(*(transition.hold(Ref(bench.queue, name)) for name in "bc"))
        await bench.applied(_to_front(bench, "b"), _to_front(bench, "c"))
        assert await bench.claimed_ids(10) == ["urgent", "c", "b", "a"]

    async def test_a5_a_redriven_job_goes_to_the_back(self, bench: Bench) -> None:
        job = await bench.arrange("dead")
        await bench.created(bench.job("other"))
        await bench.applied(transition.redrive(job.ref))
        assert await bench.claimed_ids(10) == ["other", "job"]


def _to_front(bench: Bench, name: str) -> Transition:
    return replace(transition.unblock(Ref(bench.queue, name), BlockedCause.HOLD), place=Place.FRONT)
