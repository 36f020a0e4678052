from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from taskmux.api import batch as batching
from taskmux.api.batch import GroupCommit, Ops, Replies, resend
from taskmux.driver import Op
from taskmux.model.errors import (
    NotEncodable,
    StoreBusy,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)


class Wire:
    """A store's end: each batch is seen when it arrives, and answered when the test says so."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[tuple[Op, list[Any]]] = asyncio.Queue()
        self.answers: asyncio.Queue[Any] = asyncio.Queue()

    async def send(self, op: Op, items: Sequence[Any]) -> Sequence[Any]:
        self.batches.put_nowait((op, list(items)))
        answer = await self.answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return [f"{item}!" for item in items] if answer is None else answer

    async def arrived(self) -> list[Any]:
        return (await self.batches.get())[1]

    def answer(self, answer: Any = None) -> None:
        """Answer the oldest batch: as usual, with these replies, or with an error."""
        self.answers.put_nowait(answer)


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def delivered():
    return []


@pytest.fixture
def group(wire, delivered):
    def deliver(item: Any, reply: Any) -> None:
        delivered.append((item, reply))

    return GroupCommit(wire.send, deliver, limit=3)


async def caught(future: asyncio.Future[Any]) -> BaseException:
    with pytest.raises(BaseException) as error:
        await future
    return error.value


class TestGroupCommit:
    async def test_an_idle_one_sends_at_once(self, group, wire, delivered):
        group.put("a")
        assert await wire.arrived() == ["a"]
        wire.answer()
        await group.flush()
        assert delivered == [("a", "a!")]

    async def test_what_comes_while_a_batch_is_on_the_wire_goes_together(self, group, wire):
        group.put("a")
        await wire.arrived()
        for item in "bc":
            group.put(item)
        assert wire.batches.empty()  # one batch in flight
        assert len(group) == 3
        wire.answer()
        assert await wire.arrived() == ["b", "c"]
        wire.answer()
        await group.flush()
        assert len(group) == 0

    async def test_a_batch_has_its_limit_and_order_is_kept(self, group, wire, delivered):
        for item in "abcdefg":
            group.put(item)
        for batch in (["a", "b", "c"], ["d", "e", "f"], ["g"]):
            assert await wire.arrived() == batch
            wire.answer()
        await group.flush()
        assert delivered == [(item, f"{item}!") for item in "abcdefg"]

    async def test_it_starts_again_after_it_was_idle(self, group, wire, delivered):
        for item in "ab":
            group.put(item)
            wire.answer()
            await group.flush()
        assert [item for item, _ in delivered] == ["a", "b"]

    async def test_each_batch_has_an_op_of_its_own_and_numbers_rise(self, group, wire):
        ops = []
        for item in "ab":
            group.put(item)
            ops.append((await wire.batches.get())[0])
            wire.answer()
            await group.flush()
        assert ops[0].origin == ops[1].origin
        assert ops[1].number == ops[0].number + 1

    async def test_an_error_of_one_item_is_delivered_to_it_alone(self, group, wire, delivered):
        error = ValueError()
        for item in "ab":
            group.put(item)
        wire.answer([error, "b!"])
        await group.flush()
        assert delivered == [("a", error), ("b", "b!")]

    async def test_an_error_of_the_batch_is_delivered_to_each_and_the_next_goes_on(
        self, group, wire, delivered
    ):
        error = StoreFull("no room")
        for item in "abcd":
            group.put(item)
        wire.answer(error)
        wire.answer()
        await group.flush()
        assert delivered == [("a", error), ("b", error), ("c", error), ("d", "d!")]

    async def test_while_the_store_is_away_the_same_batch_is_sent_under_the_same_op(
        self, group, wire, delivered
    ):
        group.put("a")
        first = await wire.batches.get()
        group.put("b")
        wire.answer(StoreUnavailable("away"))
        assert await wire.batches.get() == first
        wire.answer()
        wire.answer()
        await group.flush()
        assert delivered == [("a", "a!"), ("b", "b!")]

    async def test_after_its_tries_the_items_are_told(self, group, wire, delivered):
        group.put("a")
        for _ in range(3):
            wire.answer(StoreUnavailable("away"))
        await group.flush()
        ((item, reply),) = delivered
        assert item == "a"
        assert isinstance(reply, StoreUnavailable)

    async def test_abandoned_items_are_told(self, group, wire, delivered):
        for item in "abcd":
            group.put(item)
        await wire.arrived()
        await group.abandon()
        assert [item for item, _ in delivered] == ["a", "b", "c", "d"]
        assert {type(reply) for _, reply in delivered} == {asyncio.CancelledError}
        assert len(group) == 0
        await group.flush()

    async def test_items_are_told_even_if_nothing_was_sent_yet(self, group, delivered):
        group.put("a")
        await group.abandon()
        assert [item for item, _ in delivered] == ["a"]
        await group.flush()

    async def test_it_may_be_used_again_after_it_was_abandoned(self, group, wire, delivered):
        group.put("a")
        await group.abandon()
        group.put("b")
        wire.answer()
        await group.flush()
        assert delivered[1:] == [("b", "b!")]

    async def test_flushing_or_abandoning_nothing_ends_at_once(self, group):
        await group.flush()
        await group.abandon()

    async def test_an_item_put_while_replies_are_delivered_is_sent(self, wire):
        told = []

        def deliver(item: Any, reply: Any) -> None:
            told.append(item)
            if item == "a":
                group.put("b")

        group = GroupCommit(wire.send, deliver)
        group.put("a")
        wire.answer()
        wire.answer()
        await group.flush()
        assert told == ["a", "b"]


class Picky:
    """A store that refuses a batch as a whole if one of its items is bad."""

    def __init__(self, *bad: Any) -> None:
        self.bad = set(bad)
        self.sent: list[tuple[Op, list[Any]]] = []
        self.error: Exception | None = None

    async def send(self, op: Op, items: Sequence[Any]) -> Sequence[Any]:
        self.sent.append((op, list(items)))
        if self.error is not None:
            raise self.error
        if found := self.bad & set(items):
            raise NotEncodable(f"{sorted(found)} cannot be stored")
        return [f"{item}!" for item in items]


class TestARefusedBatch:
    def grouped(self, store: Picky, delivered: list[Any], **options: Any) -> GroupCommit[Any, Any]:
        def deliver(item: Any, reply: Any) -> None:
            delivered.append((item, reply))

        return GroupCommit(store.send, deliver, **options)

    async def committed(self, store: Picky, items: Sequence[Any], **options: Any) -> list[Any]:
        delivered: list[Any] = []
        group = self.grouped(store, delivered, **options)
        for item in items:
            group.put(item)
        await group.flush()
        assert len(group) == 0
        return delivered

    @pytest.mark.parametrize("bad", [[0], [29], [13], [0, 29], [13, 14], [5, 6, 7, 20]])
    async def test_only_the_owner_of_what_was_refused_is_told(self, bad):
        store = Picky(*bad)
        delivered = await self.committed(store, range(30))
        assert [item for item, _ in delivered] == list(range(30))
        for item, reply in delivered:
            if item in bad:
                assert isinstance(reply, NotEncodable)
                assert str([item]) in str(reply)
            else:
                assert reply == f"{item}!"

    async def test_each_part_has_an_op_of_its_own_and_comes_in_order(self):
        store = Picky(2)
        await self.committed(store, range(4))
        assert [items for _, items in store.sent] == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]
        assert len({op for op, _ in store.sent}) == 5

    async def test_one_bad_item_among_many_is_found_in_few_steps(self):
        store = Picky(321)
        await self.committed(store, range(500))
        assert len(store.sent) <= 2 * 9 + 1

    async def test_a_store_that_refuses_everything_is_asked_a_bounded_number_of_times(self):
        store = Picky(*range(500))
        delivered = await self.committed(store, range(500))
        assert len(delivered) == 500
        assert all(isinstance(reply, NotEncodable) for _, reply in delivered)
        assert len(store.sent) <= batching.MOST_REFUSALS + 1

    @pytest.mark.parametrize("error", [StoreFull("full"), StoreDenied("no"), StoreBusy("locked")])
    async def test_what_every_batch_would_meet_is_told_to_all_at_once(self, error):
        store = Picky()
        store.error = error
        delivered = await self.committed(store, range(4))
        assert delivered == [(item, error) for item in range(4)]
        assert len(store.sent) == 1

    async def test_an_outage_on_the_way_is_told_to_those_who_have_no_answer_yet(self, wire):
        delivered: list[Any] = []
        group = GroupCommit(wire.send, lambda item, reply: delivered.append((item, reply)), tries=1)
        for item in "abcd":
            group.put(item)
        away = StoreUnavailable("away")
        for answer in (StoreError("refused"), None, away):
            wire.answer(answer)
        await group.flush()
        assert delivered == [("a", "a!"), ("b", "b!"), ("c", away), ("d", away)]

    async def test_a_part_is_sent_again_under_its_op_while_the_store_is_away(self, wire):
        delivered: list[Any] = []
        group = GroupCommit(wire.send, lambda *pair: delivered.append(pair))
        for item in "ab":
            group.put(item)
        for answer in (StoreError("refused"), StoreUnavailable("away"), None, None):
            wire.answer(answer)
        await group.flush()
        sent = [wire.batches.get_nowait() for _ in range(4)]
        assert [items for _, items in sent] == [["a", "b"], ["a"], ["a"], ["b"]]
        assert sent[1][0] == sent[2][0]
        assert delivered == [("a", "a!"), ("b", "b!")]

    async def test_what_the_refused_try_stored_is_told_as_it_was_meant(self):
        store = Picky(2)

        async def reconcile(items: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
            return [f"{reply} ({item})" for item, reply in zip(items, replies, strict=True)]

        delivered = await self.committed(store, range(3), reconcile=reconcile)
        assert delivered[:2] == [(0, "0! (0)"), (1, "1! (1)")]
        delivered = await self.committed(store, range(2), reconcile=reconcile)
        assert delivered == [(0, "0!"), (1, "1!")]  # nothing was refused before

    async def test_abandoned_between_two_parts_each_is_told_once(self, wire):
        delivered: list[Any] = []
        group = GroupCommit(wire.send, lambda *pair: delivered.append(pair))
        for item in "abc":
            group.put(item)
        for answer in (StoreError("refused"), None):
            wire.answer(answer)
        for batch in (["a", "b", "c"], ["a"], ["b", "c"]):
            assert await wire.arrived() == batch
        group.put("d")
        assert list(group) == ["b", "c", "d"]
        await group.abandon()
        assert [item for item, _ in delivered] == ["a", "b", "c", "d"]

    async def test_more_errors_can_be_waited_out(self, wire):
        delivered: list[Any] = []
        group = GroupCommit(
            wire.send,
            lambda *pair: delivered.append(pair),
            again=(StoreUnavailable, StoreFull),
        )
        group.put("a")
        wire.answer(StoreFull("full"))
        wire.answer()
        await group.flush()
        assert delivered == [("a", "a!")]


class TestBytesOfABatch:
    async def test_a_batch_ends_before_it_is_too_large(self, wire, delivered):
        part = batching.BATCH_BYTES // 2
        group = GroupCommit(wire.send, lambda *pair: delivered.append(pair), size=lambda item: item)
        for size in (part, part, 1, 3 * part, 5, 6):
            group.put(size)
        for batch in ([part, part], [1], [3 * part], [5, 6]):
            assert await wire.arrived() == batch
            wire.answer()
        await group.flush()
        assert len(delivered) == 6


class TestLateReplies:
    async def test_the_caller_is_told_at_his_deadline_and_what_he_asked_for_goes_on(self, wire):
        replies = Replies(wire.send)
        now = asyncio.get_running_loop().time()
        patient, late = replies.ask("a", now + 60), replies.ask("b", now)
        endless = replies.ask("c")
        assert isinstance(await caught(late), TimeoutError)
        assert not patient.done()
        wire.answer()
        assert await patient == "a!"
        assert await endless == "c!"
        assert await wire.arrived() == ["a", "b", "c"]
        await replies.close()

    async def test_an_earlier_deadline_is_kept_and_so_are_those_after_it(self, wire):
        replies = Replies(wire.send)
        now = asyncio.get_running_loop().time()
        patient = replies.ask("a", now + 60)
        futures = [replies.ask("b", now + part / 100) for part in (3, 1, 2)]
        for future in futures:
            assert isinstance(await caught(future), TimeoutError)
        assert not patient.done()
        wire.answer()
        await replies.close()

    async def test_a_caller_who_was_cancelled_is_not_told(self, wire):
        replies = Replies(wire.send)
        now = asyncio.get_running_loop().time()
        gone, late = replies.ask("a", now + 0.01), replies.ask("b", now + 0.02)
        gone.cancel()
        assert isinstance(await caught(late), TimeoutError)
        assert gone.cancelled()
        wire.answer()
        await replies.close()


class TestReplies:
    async def test_each_caller_gets_its_own(self, wire):
        replies = Replies(wire.send)
        futures = [replies.ask(item) for item in "ab"]
        wire.answer()
        assert await asyncio.gather(*futures) == ["a!", "b!"]

    async def test_each_caller_gets_the_error(self, wire):
        replies = Replies(wire.send)
        futures = [replies.ask(item) for item in "ab"]
        wire.answer(StoreFull("no room"))
        assert [type(await caught(one)) for one in futures] == [StoreFull, StoreFull]

    async def test_a_cancelled_caller_takes_nothing_back_and_harms_nobody(self, wire):
        replies = Replies(wire.send)
        lost, kept = replies.ask("a"), replies.ask("b")
        assert await wire.arrived() == ["a", "b"]
        lost.cancel()
        wire.answer()
        assert await kept == "b!"
        assert lost.cancelled()

    async def test_one_cancelled_before_its_batch_left_is_sent_all_the_same(self, wire):
        replies = Replies(wire.send)
        replies.ask("a").cancel()
        assert await wire.arrived() == ["a"]
        wire.answer()
        await replies.close()

    async def test_closing_waits_for_what_is_under_way(self, wire):
        replies = Replies(wire.send)
        future = replies.ask("a")
        await wire.arrived()
        closing = asyncio.ensure_future(replies.close())
        wire.answer()
        await closing
        assert future.result() == "a!"


class TestResending:
    def failing(self, *errors: BaseException):
        left = list(errors)

        async def send() -> int:
            if left:
                raise left.pop(0)
            return len(errors) + 1

        return send

    async def test_until_the_store_answers(self):
        away = [StoreUnavailable("away")] * 5
        assert await resend(self.failing(*away), None, pause=0) == 6

    async def test_a_limited_number_of_times(self):
        away = [StoreUnavailable(str(number)) for number in range(3)]
        with pytest.raises(StoreUnavailable, match="2"):
            await resend(self.failing(*away), 3, pause=0)

    async def test_an_error_that_repeating_does_not_mend_is_raised_at_once(self):
        with pytest.raises(StoreFull):
            await resend(self.failing(StoreFull("no room")), None, pause=0)

    async def test_a_producer_is_told_of_a_lock_at_once_a_worker_waits(self):
        # The driver has waited for the lock already.
        with pytest.raises(StoreBusy):
            await resend(self.failing(StoreBusy("locked")), 3, pause=0)
        assert await resend(self.failing(StoreBusy("locked")), None, pause=0) == 2


class TestOps:
    def test_no_two_origins_are_alike(self):
        assert len({Ops().next().origin for _ in range(1000)}) == 1000
