"""Enqueueing as users do it. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from taskmux import Context, Limits, State, Taskmux
from taskmux.model.errors import (
    DeclarationError,
    InvalidArguments,
    InvalidName,
    NotEncodable,
    PayloadTooLarge,
    ResultNotKept,
    ResultTimeout,
)


@dataclass
class Line:
    product: UUID
    price: Decimal


class Address(TypedDict):
    city: str


class Receipt(msgspec.Struct):
    number: int
    issued: datetime


class Order(pydantic.BaseModel):
    id: int
    lines: list[Line] = []


async def ran_in_order(mux: Taskmux, *names: str) -> list[str]:
    """Run what waits in the queue one by one until these jobs are done; return the order."""
    done: list[str] = []

    @mux.task(name="note")
    async def note(name: str) -> None:
        done.append(name)
        if len(done) == len(names):
            finished.set()

    finished = asyncio.Event()
    async with mux.worker(concurrency=1):
        await asyncio.wait_for(finished.wait(), 20)
    assert sorted(done) == sorted(names)
    return done


async def note(mux: Taskmux, name: str, **options: Any) -> None:
    await mux.enqueue("note", {"name": name}, **options)


class TestResults:
    async def test_enqueue_run_and_read_the_result(self, mux):
        @mux.task()
        async def add(a: int, b: int = 1) -> int:
            return a + b

        async with mux.worker():
            job = await add.enqueue(1, b=2)
            assert await job.result(timeout="20s") == 3
            record = await job.record()
        assert record.state is State.COMPLETED
        assert (record.attempts, record.crashes, record.reason, record.error) == (1, 0, None, None)

    async def test_arguments_and_results_are_of_the_annotated_types(self, mux):
        seen: list[Any] = []

        @mux.task()
        async def buy(ctx: Context, order: Order, to: Address, note: bytes | None) -> Receipt:
            seen.extend([order, to, note])
            return Receipt(order.id, order_time)

        order_time = datetime(2026, 5, 1, 12, tzinfo=UTC)
        order = Order(id=7, lines=[Line(UUID(int=1), Decimal("9.90"))])
        async with mux.worker():
            job = await buy.enqueue(order, {"city": "Bern"}, note=b"\x00\xff")
            assert await job.result(timeout="20s") == Receipt(7, order_time)
        assert seen == [order, {"city": "Bern"}, b"\x00\xff"]

    async def test_a_handler_without_a_result_gives_none(self, mux):
        @mux.task()
        async def nothing() -> None:
            return None

        async with mux.worker():
            assert await (await nothing.enqueue()).result(timeout="20s") is None

    async def test_a_result_that_is_not_kept_is_a_typed_error(self, mux, witness):
        @mux.task(keep_result=False)
        async def secret() -> str:
            return "secret"

        async with mux.worker():
            job = await secret.enqueue()
            record = await witness.settled(job)
        assert (record.state, record.result) == (State.COMPLETED, None)
        with pytest.raises(ResultNotKept, match="keep_result=False"):
            await job.result()

    async def test_waiting_for_a_result_ends_and_the_job_goes_on(self, mux):
        @mux.task()
        async def later() -> int:
            return 1

        job = await later.enqueue()
        with pytest.raises(ResultTimeout, match="waiting") as caught:
            await job.result(timeout="20ms")
        assert isinstance(caught.value, TimeoutError)
        async with mux.worker():
            assert await job.result(timeout="20s") == 1

    async def test_a_handle_of_another_app_reads_the_same_job(self, app):
        mux = app()

        @mux.task()
        async def add(a: int) -> int:
            return a + 1

        job = await add.enqueue(1)
        async with mux.worker():
            assert await app().job("default", job.id).result(timeout="20s") == 2


class TestByName:
    async def test_the_task_need_not_be_known_here(self, app):
        producer, consumer = app(), app()

        @consumer.task(name="billing.charge", queue="billing")
        async def charge(order: int) -> int:
            return order * 100

        job = await producer.enqueue("billing.charge", {"order": 7}, queue="billing")
        async with consumer.worker(["billing"]):
            assert await job.result(timeout="20s") == 700

    async def test_of_a_task_known_here_its_options_hold_and_its_result_is_typed(self, mux):
        @mux.task(name="pay", queue="billing", priority="low", max_attempts=7, tags=["a"])
        async def pay(ctx: Context, order: int, *, at: datetime | None = None) -> Decimal:
            return Decimal(order)

        async with mux.worker(["billing"]):
            job = await mux.enqueue("pay", {"order": 7, "at": datetime.now(UTC)}, tags=["b"])
            assert await job.result(timeout="20s") == Decimal(7)
        record = await job.record()
        assert (record.queue, record.priority, record.tags) == ("billing", 200, ("b",))
        assert record.policy.max_attempts == 7

    @pytest.mark.parametrize(
        "arguments", [{}, {"a": "x"}, {"a": 1, "c": 2}, {"a": 1, "ctx": 2}, [1]]
    )
    async def test_of_a_task_known_here_arguments_are_checked(self, mux, arguments):
        @mux.task(name="add")
        async def add(ctx: Context, a: int, b: int = 1) -> int:
            raise NotImplementedError

        with pytest.raises(InvalidArguments, match="add"):
            await mux.enqueue("add", arguments)
        assert (await mux.queue("default").counts()).total == 0

    async def test_of_a_task_known_here_parameters_by_place_have_names_too(self, mux):
        @mux.task(name="sub")
        async def sub(a: int, b: int = 1, /) -> int:
            return a - b

        async with mux.worker():
            job = await mux.enqueue("sub", {"a": 5, "b": 3})
            assert await job.result(timeout="20s") == 2

    async def test_options_travel(self, mux):
        job = await mux.enqueue("t", {}, queue="q", priority="low", tags=["a"], max_attempts=9)
        record = await job.record()
        assert (record.queue, record.priority, record.tags) == ("q", 200, ("a",))
        assert record.policy.max_attempts == 9


class TestOptions:
    async def test_a_delayed_job_waits_for_its_time(self, mux):
        @mux.task()
        async def work() -> None:
            return None

        job = await work.options(delay="150ms").enqueue()
        record = await job.record()
        assert record.state is State.DELAYED
        assert record.run_at >= record.created_at + 150
        async with mux.worker():
            await job.result(timeout="20s")
        done = await job.record()
        assert done.run_at == record.run_at
        assert done.finished_at >= done.run_at

    async def test_a_job_may_be_due_at_an_instant(self, mux):
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        job = await mux.enqueue("t", run_at=tomorrow)
        record = await job.record()
        assert (record.state, record.run_at) == (State.DELAYED, round(tomorrow.timestamp() * 1000))

    async def test_an_instant_that_has_passed_is_due_at_once(self, mux):
        @mux.task()
        async def work() -> int:
            return 1

        job = await work.options(run_at=datetime(2020, 1, 1, tzinfo=UTC)).enqueue()
        async with mux.worker():
            assert await job.result(timeout="20s") == 1

    async def test_lower_priority_numbers_first_and_first_come_within_one(self, mux):
        for name, priority in [("c", 100), ("a", 1), ("d", 100), ("b", "high"), ("e", 2047)]:
            await note(mux, name, priority=priority)
        assert await ran_in_order(mux, *"abcde") == ["a", "b", "c", "d", "e"]

    async def test_lifo_goes_to_the_front_of_its_priority(self, mux):
        await note(mux, "first")
        await note(mux, "second", lifo=True)
        await note(mux, "third", lifo=True)
        await note(mux, "urgent", priority=1)
        order = await ran_in_order(mux, "first", "second", "third", "urgent")
        assert order == ["urgent", "third", "second", "first"]

    async def test_an_id_is_taken_once(self, mux):
        first = await mux.enqueue("t", {"a": 1}, id="welcome:42")
        again = await mux.enqueue("t", {"a": 2}, id="welcome:42")
        assert (first.id, first.duplicate) == ("welcome:42", False)
        assert (again.id, again.duplicate) == ("welcome:42", True)
        assert (await again.record()).payload == b'{"a":1}'
        elsewhere = await mux.enqueue("t", id="welcome:42", queue="other")
        assert not elsewhere.duplicate

    async def test_an_id_stays_taken_after_its_job_has_finished(self, mux):
        @mux.task()
        async def work() -> int:
            return 1

        job = await work.options(id="once").enqueue()
        async with mux.worker():
            await job.result(timeout="20s")
        again = await work.options(id="once").enqueue()
        assert again.duplicate
        assert await again.result() == 1

    async def test_a_dedup_key_is_owned_by_one_unfinished_job(self, mux):
        @mux.task()
        async def sync() -> int:
            return 1

        first = await sync.options(dedup="user:1").enqueue()
        second = await sync.options(dedup="user:1").enqueue()
        assert (second.duplicate, second.id) == (True, first.id)
        assert not (await sync.options(dedup="user:2").enqueue()).duplicate
        async with mux.worker():
            await first.result(timeout="20s")
            assert not (await sync.options(dedup="user:1").enqueue()).duplicate

    async def test_tags_and_headers_are_kept_and_seen_by_the_handler(self, mux):
        @mux.task()
        async def work(ctx: Context) -> list[str]:
            return [*ctx.job.tags, ctx.job.headers["traceparent"]]

        job = await work.options(tags=["a", "b"], headers={"traceparent": "00-1"}).enqueue()
        async with mux.worker():
            assert await job.result(timeout="20s") == ["a", "b", "00-1"]


class TestMany:
    async def test_handles_and_execution_keep_the_order(self, app):
        mux = app()

        @mux.task(name="note")
        async def bound(name: str) -> None:
            raise NotImplementedError

        names = [str(number) for number in range(620)]  # more than one round trip
        jobs = await mux.enqueue_many([bound.bind(name) for name in names])
        assert [(await job.record()).payload for job in jobs[:3]] == [
            b'{"name":"0"}',
            b'{"name":"1"}',
            b'{"name":"2"}',
        ]
        assert (await mux.queue("default").counts()).waiting == 620
        assert await ran_in_order(app(), *names) == names

    async def test_options_differ_from_call_to_call(self, mux):
        @mux.task()
        async def work(a: int) -> None:
            raise NotImplementedError

        jobs = await mux.enqueue_many(
            [
                work.options(queue="q1").bind(1),
                work.options(id="x").bind(2),
                work.options(id="x").bind(3),
            ]
        )
        assert [job.queue for job in jobs] == ["q1", "default", "default"]
        assert [job.duplicate for job in jobs] == [False, False, True]

    async def test_any_iterable_and_calls_of_different_tasks(self, mux):
        @mux.task()
        async def number(a: int) -> int:
            return a

        @mux.task()
        async def text(a: str) -> str:
            return a

        calls = {"n": number.bind(1), "t": text.bind("x")}
        jobs = await mux.enqueue_many(calls.values())
        jobs += await mux.enqueue_many(number.bind(one) for one in range(3))
        async with mux.worker():
            results = [await job.result(timeout="20s") for job in jobs]
        assert results == [1, "x", 0, 1, 2]

    @pytest.mark.parametrize("wrong", ["task", "arguments"])
    async def test_what_is_no_call_is_refused_before_anything_is_sent(self, mux, wrong):
        @mux.task()
        async def work(a: int) -> None:
            raise NotImplementedError

        item: Any = work if wrong == "task" else (1,)
        with pytest.raises(InvalidArguments, match=r"Item 1 is a .*bind"):
            await mux.enqueue_many([work.bind(1), item])
        assert (await mux.queue("default").counts()).total == 0

    async def test_no_calls_at_all(self, mux):
        assert await mux.enqueue_many([]) == []

    async def test_many_at_once_one_by_one(self, mux):
        @mux.task()
        async def work(a: int) -> int:
            return a

        jobs = await asyncio.gather(*(work.enqueue(number) for number in range(100)))
        assert len({job.id for job in jobs}) == 100
        async with mux.worker():
            results = await asyncio.gather(*(job.result(timeout="20s") for job in jobs))
        assert results == list(range(100))


class TestRefused:
    """Each a typed error before anything is sent."""

    async def nothing_was_sent(self, mux: Taskmux) -> bool:
        return (await mux.queue("default").counts()).total == 0

    async def test_wrong_arguments(self, mux):
        @mux.task()
        async def add(a: int) -> int:
            return a

        for args, named in [((), {}), (("1",), {}), ((1, 2), {}), ((1,), {"b": 1})]:
            with pytest.raises(InvalidArguments):
                await add.enqueue(*args, **named)
        assert await self.nothing_was_sent(mux)

    async def test_arguments_without_a_json_form(self, mux):
        with pytest.raises(NotEncodable):
            await mux.enqueue("t", {"a": object()})
        assert await self.nothing_was_sent(mux)

    async def test_arguments_that_would_lose_something(self, mux):
        @mux.task()
        async def take(ratio: float) -> None:
            raise NotImplementedError

        for send in (
            lambda: take.enqueue(2**60 + 1),
            lambda: mux.enqueue(take.name, {"ratio": 2**60 + 1}),
            lambda: mux.enqueue_many([take.bind(2**60 + 1)]),
        ):
            with pytest.raises(NotEncodable, match="ratio is an int that no float"):
                await send()
        assert await self.nothing_was_sent(mux)

    async def test_a_payload_over_the_limit(self, app):
        mux = app(limits=Limits(payload=100))

        @mux.task()
        async def take(text: str) -> None:
            raise NotImplementedError

        for send in (take.enqueue("x" * 100), mux.enqueue("take", {"text": "x" * 100})):
            with pytest.raises(PayloadTooLarge, match="the limit is 100"):
                await send
        assert await self.nothing_was_sent(mux)

    @pytest.mark.parametrize("name", ["", "a b", "a/b", "{a}", "a" * 129, ".a", "a\n", "a\x00"])
    async def test_an_invalid_queue_name(self, mux, name):
        with pytest.raises(InvalidName):
            await mux.enqueue("t", queue=name)
        for refused in (mux.queue, lambda queue: mux.worker([queue]), lambda q: mux.job(q, "id")):
            with pytest.raises(InvalidName):
                refused(name)

    async def test_an_invalid_option(self, mux):
        for options in ({"priority": 5000}, {"delay": -1}, {"nosuch": 1}, {"id": "a b"}):
            with pytest.raises((DeclarationError, InvalidName)):
                await mux.enqueue("t", **options)
        assert await self.nothing_was_sent(mux)

    async def test_an_invalid_worker(self, mux):
        for options in ({"concurrency": 0}, {"lease": "1ms"}, {"drain": -1}, {"queues": []}):
            with pytest.raises(DeclarationError):
                mux.worker(**options)
