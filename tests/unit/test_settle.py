from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from msgspec import UNSET
from taskmux.config import Limits
from taskmux.driver import Applied, ApplyStatus, Driver, Op
from taskmux.model import transition
from taskmux.model.errors import (
    PayloadTooLarge,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
)
from taskmux.model.job import JobRecord, State
from taskmux.model.transition import Transition
from taskmux.worker.held import Held
from taskmux.worker.outage import Outage
from taskmux.worker.refusal import Substitutes
from taskmux.worker.settle import Settler

APPLIED = Applied(ApplyStatus.APPLIED, State.ACTIVE)


class Store:
    """A driver's `apply` that is answered when the test says so."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[tuple[Op, list[Transition]]] = asyncio.Queue()
        self.answers: asyncio.Queue[Any] = asyncio.Queue()

    async def apply(self, op: Op, transitions: Sequence[Transition]) -> Sequence[Applied]:
        self.arrived.put_nowait((op, list(transitions)))
        answer = await self.answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return [answer] * len(transitions)

    async def targets(self) -> list[tuple[str, State | None]]:
        """Return the next batch that arrives, as (job, target)."""
        return [(one.ref.id, one.to) for one in (await self.arrived.get())[1]]


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def stored():
    return []


@pytest.fixture
def settler(store, stored):
    def tell(held: Held, what: Transition, applied: Applied) -> None:
        stored.append((held.job.id, what.to, applied.status))

    return Settler(cast("Driver", store), tell, Outage("test://"), Substitutes("w", Limits()))


def held(name: str) -> Held:
    return Held(
        JobRecord(queue="q", id=name, task="t", state=State.ACTIVE, fence=1), cast("Any", None), 0.0
    )


def complete(one: Held) -> Transition:
    return transition.complete(one.job, None)


class TestOutcomes:
    async def test_it_is_stored_and_told(self, settler, store, stored):
        one = held("a")
        settler.settle(one, complete(one))
        assert one.outcome is not None
        assert await store.targets() == [("a", State.COMPLETED)]
        store.answers.put_nowait(APPLIED)
        assert await settler.flush(5)
        assert stored == [("a", State.COMPLETED, ApplyStatus.APPLIED)]
        assert len(settler) == 0

    async def test_a_refusal_is_told(self, settler, store, stored):
        one = held("a")
        settler.settle(one, complete(one))
        store.answers.put_nowait(Applied(ApplyStatus.STALE, State.WAITING))
        assert await settler.flush(5)
        assert stored == [("a", State.COMPLETED, ApplyStatus.STALE)]

    async def test_while_the_store_is_away_it_goes_on_trying_under_the_same_op(
        self, settler, store, stored
    ):
        one = held("a")
        settler.settle(one, complete(one))
        first = await store.arrived.get()
        store.answers.put_nowait(StoreUnavailable("away"))
        assert await store.arrived.get() == first
        store.answers.put_nowait(APPLIED)
        assert await settler.flush(5)
        assert stored == [("a", State.COMPLETED, ApplyStatus.APPLIED)]

    async def test_an_error_that_repeating_does_not_mend_counts_as_lost(
        self, settler, store, stored
    ):
        one = held("a")
        settler.settle(one, complete(one))
        for _ in range(3):
            store.answers.put_nowait(ValueError("a driver's bug"))
        assert await settler.flush(5)
        assert [state for _, state in [(await store.targets())[0] for _ in range(3)]] == [
            State.COMPLETED,
            State.DEAD,
            State.DEAD,
        ]
        assert stored == [("a", State.DEAD, ApplyStatus.STALE)]

    @pytest.mark.parametrize("trouble", [StoreUnavailable, StoreFull, StoreDenied])
    async def test_trouble_of_the_store_is_waited_out_and_told_of_once(
        self, settler, store, stored, trouble, caplog
    ):
        one = held("a")
        settler.settle(one, complete(one))
        for answer in (trouble("once"), trouble("twice"), APPLIED):
            store.answers.put_nowait(answer)
        assert await settler.flush(5)
        assert stored == [("a", State.COMPLETED, ApplyStatus.APPLIED)]
        first, last = [record.getMessage() for record in caplog.records]
        assert "storing outcomes: once" in first
        assert "is back" in last

    async def test_what_the_store_refuses_is_dead_with_the_refusal_as_its_error(
        self, settler, store, stored
    ):
        one = held("a")
        settler.settle(one, complete(one))
        store.answers.put_nowait(PayloadTooLarge("over 16 MB"))
        store.answers.put_nowait(APPLIED)
        assert await settler.flush(5)
        assert stored == [("a", State.DEAD, ApplyStatus.APPLIED)]
        assert one.outcome.changes.error.message == "over 16 MB"
        (entry,) = one.outcome.changes.history
        assert (entry.outcome, entry.worker) == ("unstorable", "w")

    async def test_if_that_is_refused_too_it_is_dead_without(self, settler, store, stored):
        one = held("a")
        settler.settle(one, complete(one))
        for answer in (PayloadTooLarge("1"), PayloadTooLarge("2"), APPLIED):
            store.answers.put_nowait(answer)
        assert await settler.flush(5)
        assert stored == [("a", State.DEAD, ApplyStatus.APPLIED)]
        assert one.outcome.changes.history is UNSET

    async def test_a_flush_that_cannot_end_gives_up_and_says_so(self, settler, stored):
        one = held("a")
        settler.settle(one, complete(one))
        assert not await settler.flush(0.01)
        assert stored == [("a", State.COMPLETED, ApplyStatus.STALE)]


class TestStartMarks:
    async def test_one_on_the_way_is_skipped_when_its_outcome_has_overtaken_it(
        self, settler, store, stored
    ):
        first, one = held("first"), held("a")
        settler.settle(first, complete(first))
        await store.targets()  # what comes now waits for the next batch
        settler.mark_started(one)
        await asyncio.sleep(0)  # the mark is on its way
        settler.settle(one, complete(one))
        store.answers.put_nowait(APPLIED)
        assert await store.targets() == [("a", State.COMPLETED)]
        store.answers.put_nowait(APPLIED)
        assert await settler.flush(5)
        assert [told[:2] for told in stored] == [
            ("first", State.COMPLETED),
            ("a", State.COMPLETED),
        ]

    async def test_one_that_is_done_within_the_same_turn_is_never_sent(self, settler, store):
        one = held("a")
        settler.mark_started(one)
        assert len(settler) == 1
        settler.settle(one, complete(one))
        assert await store.targets() == [("a", State.COMPLETED)]
        store.answers.put_nowait(APPLIED)
        assert await settler.flush(5)
        assert len(settler) == 0

    async def test_each_reply_finds_its_own_among_skipped_ones(self, settler, store, stored):
        first, one, two = held("first"), held("a"), held("b")
        settler.settle(first, complete(first))
        await store.targets()
        settler.mark_started(one)
        settler.mark_started(two)
        await asyncio.sleep(0)  # their marks are on their way
        settler.settle(one, complete(one))
        store.answers.put_nowait(APPLIED)
        assert await store.targets() == [("b", State.ACTIVE), ("a", State.COMPLETED)]
        store.answers.put_nowait(APPLIED)
        assert await settler.flush(5)
        assert ("a", State.COMPLETED, ApplyStatus.APPLIED) in stored

    async def test_a_repeat_carries_the_same_batch(self, settler, store):
        one = held("a")
        settler.mark_started(one)
        first = await store.arrived.get()
        settler.settle(one, complete(one))  # the mark is needless from now on, but it was sent
        store.answers.put_nowait(StoreUnavailable("the reply was lost"))
        assert await store.arrived.get() == first
        store.answers.put_nowait(APPLIED)
        assert await store.targets() == [("a", State.COMPLETED)]
        store.answers.put_nowait(APPLIED)
        assert await settler.flush(5)

    async def test_one_that_was_applied_is_told_to_nobody(self, settler, store, stored):
        one = held("a")
        settler.mark_started(one)
        assert one.started
        store.answers.put_nowait(APPLIED)
        assert await settler.flush(5)
        assert stored == []

    @pytest.mark.parametrize(
        ("status", "may_start"),
        [
            (ApplyStatus.APPLIED, True),
            (ApplyStatus.REPEATED, True),
            (ApplyStatus.STALE, False),
            (ApplyStatus.GONE, False),
        ],
    )
    async def test_a_confirmed_one_says_whether_the_lease_still_holds(
        self, settler, store, status, may_start
    ):
        store.answers.put_nowait(Applied(status))
        assert await settler.confirm_started(held("a")) is may_start

    @pytest.mark.parametrize("error", [PayloadTooLarge("no"), ValueError("a bug")])
    async def test_a_confirmed_one_that_met_an_error_may_not_start(self, settler, store, error):
        store.answers.put_nowait(error)
        assert not await settler.confirm_started(held("a"))

    async def test_a_confirmed_one_is_never_skipped(self, settler, store):
        first, one = held("first"), held("a")
        settler.settle(first, complete(first))
        await store.targets()
        confirming = asyncio.ensure_future(settler.confirm_started(one))
        await asyncio.sleep(0)
        settler.settle(one, transition.release(one.job))  # given back meanwhile
        store.answers.put_nowait(APPLIED)
        assert await store.targets() == [("a", State.ACTIVE), ("a", State.WAITING)]
        store.answers.put_nowait(APPLIED)
        assert await confirming
        assert await settler.flush(5)
