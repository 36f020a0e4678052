"""Groups, limits and pauses as users set them. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest
from taskmux import Context, RateLimited, Taskmux
from taskmux.conformance.faults import FaultyDriver, slow
from taskmux.model.errors import DeclarationError, GroupFull, InvalidName
from taskmux.policy.explain import Cause

PATIENCE = 20.0


class Gate:
    """Holds handlers up until it is opened, and knows who is inside."""

    def __init__(self) -> None:
        self.inside: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.log: list[str] = []
        self._news = asyncio.Condition()
        self._passes = 0

    async def enter(self, who: str) -> None:
        async with self._news:
            self.log.append(who)
            self.inside[who] += 1
            self.inside["all"] += 1
            self.most |= self.inside
            self._news.notify_all()
            await self._news.wait_for(lambda: self._passes > 0)
            self._passes -= 1
            self.inside[who] -= 1
            self.inside["all"] -= 1

    async def let(self, passes: int) -> None:
        async with self._news:
            self._passes += passes
            self._news.notify_all()

    async def until(self, count: int) -> None:
        """Wait until so many handlers have entered."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: len(self.log) >= count)


def gated(mux: Taskmux, gate: Gate, **options):
    @mux.task(name="gated", **options)
    async def task(who: str) -> None:
        await gate.enter(who)

    return task


class TestGroups:
    async def test_a_small_tenant_does_not_wait_for_a_big_one(self, mux):
        order: list[str] = []

        @mux.task()
        async def work(tenant: str) -> None:
            order.append(tenant)

        big = [work.options(group="big").bind("big") for _ in range(100)]
        small = [work.options(group="small").bind("small") for _ in range(5)]
        jobs = await mux.enqueue_many([*big, *small])
        async with mux.worker(concurrency=1):
            await asyncio.gather(*(job.result(timeout=PATIENCE) for job in jobs))
        assert len(order) == 105
        assert order[:10].count("small") == 5

    async def test_a_group_runs_so_many_at_once(self, mux):
        gate = Gate()
        task = gated(mux, gate)
        await mux.queue("default").limit(group="*", concurrency=1)
        await mux.queue("default").limit(group="b", concurrency=2)
        for group in "aaabbb":
            await task.options(group=group).enqueue(group)
        async with mux.worker(concurrency=10):
            await gate.until(3)
            assert Counter(gate.log) == {"a": 1, "b": 2}
            await gate.let(6)
            await gate.until(6)
        assert gate.most["a"] == 1
        assert gate.most["b"] == 2

    async def test_a_group_is_paused_alone(self, mux):
        gate = Gate()
        task = gated(mux, gate)
        queue = mux.queue("default")
        await queue.pause(group="a")
        paused = await task.options(group="a").enqueue("a")
        await gate.let(10)
        async with mux.worker():
            await (await task.options(group="b").enqueue("b")).result(timeout=PATIENCE)
            assert (await paused.explain()).causes[0] is Cause.LINE_PAUSED
            assert (await queue.counts()).waiting == 1
            await queue.resume(group="a")
            await paused.result(timeout=PATIENCE)
        assert gate.log == ["b", "a"]

    async def test_what_is_said_of_a_group_stays_when_every_group_changes(self, mux):
        queue = mux.queue("default")

        async def limits(name: str) -> tuple[bool, int | None]:
            own = (await queue.settings()).line(name)
            return own.paused, own.concurrency

        await queue.limit(group="*", concurrency=5)
        await queue.limit(group="pinned", concurrency=5)
        await queue.pause(group="rested")
        await queue.limit(group="*", concurrency=2)
        await queue.resume(group="rested")
        assert [await limits(name) for name in ("pinned", "rested", "other")] == [
            (False, 5),
            (False, 2),
            (False, 2),
        ]
        await queue.pause(group="*")
        assert [await limits(name) for name in ("pinned", "rested")] == [(True, 5), (True, 2)]
        await queue.reset(group="pinned")
        assert await limits("pinned") == (True, 2)
        assert set((await queue.settings()).lines) == set()

    async def test_a_full_group_refuses_more(self, mux):
        task = gated(mux, Gate())
        await mux.queue("default").limit(group="*", max_waiting=2)
        for _ in range(2):
            await task.options(group="a").enqueue("a")
        with pytest.raises(GroupFull, match="max_waiting"):
            await task.options(group="a").enqueue("a")
        with pytest.raises(GroupFull):
            await mux.enqueue_many([task.options(group=name).bind("x") for name in "ab"])
        await task.enqueue("no group")
        assert (await mux.queue("default").counts()).waiting == 4


class TestTasksWithLines:
    async def test_a_task_runs_so_many_at_once(self, mux):
        gate = Gate()
        task = gated(mux, gate, concurrency=2)

        @mux.task()
        async def other() -> str:
            return "not held up"

        for _ in range(5):
            await task.enqueue("limited")
        async with mux.worker(concurrency=10):
            await gate.until(2)
            assert await (await other.enqueue()).result(timeout=PATIENCE) == "not held up"
            for count in (3, 4, 5):
                await gate.let(1)
                await gate.until(count)
            await gate.let(2)
        assert gate.most["limited"] == 2

    async def test_a_task_is_paused_alone_even_when_enqueued_by_name(self, app):
        mux, gate = app(), Gate()
        gated(mux, gate, own_line=True)
        await gate.let(10)
        async with mux.worker():
            await mux.queue("default").pause(task="gated")
            job = await app().enqueue("gated", {"who": "by name"})  # an app without the task
            assert (await job.record()).group == "@gated"
            assert Cause.LINE_PAUSED in (await job.explain()).causes
            await mux.queue("default").resume(task="gated")
            await job.result(timeout=PATIENCE)

    async def test_what_an_operator_said_stays_until_the_declaration_changes(self, app):
        async def limits(concurrency: int) -> int | None:
            mux = app()
            gated(mux, Gate(), concurrency=concurrency)
            async with mux.worker():
                return (await mux.queue("default").settings()).lines["@gated"].concurrency

        assert await limits(2) == 2
        await app().queue("default").limit(task="gated", concurrency=7)
        assert await limits(2) == 7
        assert await limits(3) == 3

    async def test_a_limit_that_is_declared_no_more_is_gone(self, app):
        for options, known in ({"concurrency": 1}, True), ({}, False):
            mux = app()
            gated(mux, Gate(), **options)
            async with mux.worker():
                assert ("@gated" in (await mux.queue("default").settings()).lines) is known

    async def test_a_task_goes_by_its_declaration_again(self, mux):
        gated(mux, Gate(), concurrency=2)
        queue = mux.queue("default")
        async with mux.worker():
            await queue.limit(task="gated", concurrency=7, rate="5/s")
            await queue.reset(task="gated")
            own = (await queue.settings()).lines["@gated"]
        assert (own.concurrency, own.rate) == (2, None)

    async def test_a_producer_without_the_task_gives_it_no_group(self, app):
        mux = app()
        gated(mux, Gate(), own_line=True)
        async with mux.worker():
            with pytest.raises(DeclarationError, match="one line"):
                await app().enqueue("gated", {"who": "x"}, group="a")

    async def test_a_task_in_the_common_line_cannot_be_paused(self, mux):
        gated(mux, Gate())
        with pytest.raises(DeclarationError, match="own_line=True"):
            await mux.queue("default").pause(task="gated")

    async def test_a_job_stands_in_one_line(self, mux):
        with pytest.raises(DeclarationError, match="one line"):
            gated(mux, Gate(), concurrency=2, group="a")
        task = gated(mux, Gate(), rate="5/s")
        with pytest.raises(DeclarationError, match="one line"):
            task.options(group="a")
        with pytest.raises(DeclarationError, match="one line"):
            await mux.enqueue("gated", {"who": "x"}, group="a")


class TestLimits:
    async def test_so_many_at_once_on_all_workers_together(self, app):
        gate = Gate()
        mux, other = app(), app()
        tasks = [gated(one, gate) for one in (mux, other)]
        await mux.queue("default").limit(concurrency=3)
        for _ in range(9):
            await tasks[0].enqueue("x")
        async with mux.worker(concurrency=5), other.worker(concurrency=5):
            await gate.until(3)
            for count in range(4, 10):
                await gate.let(1)
                await gate.until(count)
            await gate.let(3)
        assert gate.most["all"] == 3

    async def test_a_limit_is_changed_while_workers_run(self, mux):
        gate = Gate()
        task = gated(mux, gate)
        await mux.queue("default").limit(concurrency=1)
        for _ in range(4):
            await task.enqueue("x")
        async with mux.worker(concurrency=5):
            await gate.until(1)
            await mux.queue("default").limit(concurrency=None)
            await gate.until(4)
            await gate.let(4)
        assert gate.most["all"] == 4

    async def test_a_rate_spreads_starts(self, mux):
        starts: list[float] = []

        @mux.task()
        async def work() -> None:
            starts.append(time.monotonic())

        await mux.queue("default").limit(rate="20/s+1")
        jobs = [await work.enqueue() for _ in range(8)]
        async with mux.worker():
            await asyncio.gather(*(job.result(timeout=PATIENCE) for job in jobs))
        # two at once, then one each 50 ms
        assert max(starts) - min(starts) >= 6 * 0.05 - 0.02

    async def test_a_handler_holds_its_queue(self, mux):
        calls: list[tuple[str, float]] = []

        @mux.task(max_attempts=1)
        async def call(ctx: Context, name: str) -> str:
            calls.append((name, time.monotonic()))
            if len(calls) == 1:
                raise RateLimited(after="400ms", message="429 Too Many Requests")
            return "ok"

        first, second = await call.enqueue("first"), await call.enqueue("second")
        async with mux.worker(concurrency=1):
            assert await first.result(timeout=PATIENCE) == "ok"
            assert await second.result(timeout=PATIENCE) == "ok"
        assert [name for name, _ in calls] == ["first", "first", "second"]
        assert calls[1][1] - calls[0][1] >= 0.38
        assert (await first.record()).attempts == 1

    async def test_what_was_fetched_ahead_rests_too(self, mux, witness):
        calls: list[int] = []

        @mux.task()
        async def call(number: int) -> None:
            calls.append(number)
            if calls.count(30) == 1 and number == 30:
                raise RateLimited(after="1h")

        jobs = [await call.enqueue(number) for number in range(50)]
        async with mux.worker(concurrency=1):
            await witness.settled(jobs[30])
            while (await mux.queue("default").counts()).active:
                await asyncio.sleep(0.01)
            assert calls[:31] == list(range(31))
            assert len(calls) <= 33, "more ran than a claim that was on its way"
            await mux.queue("default").pause()
            await mux.queue("default").resume()  # that ends the rest
            await jobs[49].result(timeout=PATIENCE)
        assert calls.count(30) == 2

    async def test_a_limited_queue_comes_first_all_the_same(self, app_on, driver):
        order: list[str] = []
        lagging = FaultyDriver(driver.fork(), lambda verb: slow(0.002) if verb == "claim" else None)
        mux = app_on(lagging)

        @mux.task()
        async def work(queue: str) -> None:
            order.append(queue)
            await asyncio.sleep(0.002)

        await mux.queue("first").limit(concurrency=50)
        calls = [
            work.options(queue=name).bind(name) for name in ("first", "then") for _ in range(60)
        ]
        jobs = await mux.enqueue_many(calls)
        async with mux.worker(["first", "then"], concurrency=2):
            await asyncio.gather(*(job.result(timeout=PATIENCE) for job in jobs))
        assert order[:60].count("first") >= 55, order

    async def test_a_handler_holds_its_group_alone(self, mux):
        met = asyncio.Event()

        @mux.task()
        async def call() -> None:
            met.set()
            raise RateLimited(after="1h", group=True)

        @mux.task()
        async def work() -> str:
            return "goes on"

        held = await call.options(group="slow").enqueue()
        async with mux.worker():
            await asyncio.wait_for(met.wait(), PATIENCE)
            assert await (await work.enqueue()).result(timeout=PATIENCE) == "goes on"
            found = await held.explain()
        assert Cause.LINE_RATE in found.causes

    @pytest.mark.parametrize(
        "wrong",
        [
            {"rate": "0/m"},
            {"rate": "100"},
            {"rate": "5/fortnight"},
            {"rate": 5},
            {"rate": "-1/s"},
            {"rate": "1/s+-1"},
            {"concurrency": 0},
            {"concurrency": True},
            {"concurrency": "many"},
            {"max_waiting": 5},
            {"group": "*", "max_waiting": 0},
            {"group": "a", "task": "b", "rate": "1/s"},
            {"group": "*", "task": "b", "rate": "1/s", "max_waiting": 5},
            {},
        ],
    )
    async def test_wrong_limits_are_refused(self, mux, wrong):
        with pytest.raises(DeclarationError):
            await mux.queue("default").limit(**wrong)
        assert (await mux.queue("default").settings()).rev == 0

    @pytest.mark.parametrize("wrong", [{"rate": "0/m"}, {"concurrency": 0}, {"concurrency": "2"}])
    def test_wrong_limits_are_refused_at_the_declaration(self, wrong):
        with pytest.raises(DeclarationError):
            gated(Taskmux("memory://"), Gate(), **wrong)

    @pytest.mark.parametrize("wrong", ["", "@task", "a b", "*"])
    def test_wrong_groups_are_refused_at_the_call(self, wrong):
        task = gated(Taskmux("memory://"), Gate())
        with pytest.raises(InvalidName):
            task.options(group=wrong)


class TestQuietness:
    """A worker that may not claim does not ask all the time."""

    @pytest.mark.parametrize("why", ["idle", "paused", "full", "limited", "delayed", "line"])
    async def test_nothing_to_do_costs_few_calls(self, app_on, driver, why):
        calls: Counter[str] = Counter()

        def count(verb: str) -> None:
            calls[verb] += 1

        mux = app_on(FaultyDriver(driver.fork(), count))
        gate = Gate()
        task = gated(mux, gate)
        queue = mux.queue("default")
        if why == "full":
            await queue.limit(concurrency=1)
        elif why == "limited":
            await queue.limit(rate="1/h+0")
        elif why == "line":
            await queue.limit(group="*", concurrency=1)
        elif why == "paused":
            await queue.pause()
        async with mux.worker(concurrency=5):
            options = {"delayed": {"delay": "1h"}, "line": {"group": "g"}}.get(why, {})
            if why != "idle":
                for _ in range(3):
                    await task.options(**options).enqueue("x")
            if why in ("full", "limited", "line"):
                await gate.until(1)
            await asyncio.sleep(0.3)  # what the enqueues woke has come to rest
            calls.clear()
            await asyncio.sleep(0.7)
            busy = calls["claim"] + calls["wait"]
            await gate.let(3)
        assert busy <= 4, calls


class TestQueueDefaults:
    async def test_they_are_between_the_task_and_the_app(self, app):
        mux = app(defaults={"max_attempts": 2, "max_crashes": 2, "priority": 7})
        mux.queue("email", defaults={"max_attempts": 5, "max_crashes": 5, "timeout": "9s"})

        @mux.task(queue="email", max_crashes=6)
        async def send() -> None: ...

        job = (await (await send.options(timeout="8s").enqueue()).record()).policy
        assert (job.max_attempts, job.max_crashes, job.timeout_ms) == (5, 6, 8000)
        plain = await (await mux.enqueue("t", queue="email")).record()
        assert (plain.policy.max_crashes, plain.policy.timeout_ms, plain.priority) == (5, 9000, 7)
        elsewhere = await (await mux.enqueue("t", queue="other")).record()
        assert elsewhere.policy.max_attempts == 2

    async def test_other_producers_learn_of_them(self, app):
        mux = app()
        mux.queue("email", defaults={"backoff": "3s", "retention": {"dead": "1h"}, "tags": ["x"]})
        await mux.enqueue("t", queue="email")
        record = await (await app().enqueue("t", queue="email")).record()
        assert record.policy.backoff is not None
        assert record.policy.dead.age_ms == 3_600_000
        assert record.tags == ("x",)

    async def test_a_tasks_own_backoff_wins(self, app):
        mux = app()
        await mux.queue("email").set_defaults(backoff="1h")

        @mux.task(queue="email", backoff="1s")
        async def own() -> None: ...

        @mux.task(queue="email")
        async def none() -> None: ...

        assert (await (await own.enqueue()).record()).policy.backoff is None
        assert (await (await none.enqueue()).record()).policy.backoff is not None

    async def test_what_was_said_since_stays_until_another_declaration(self, app):
        async def attempts(declared: int) -> int:
            mux = app()
            mux.queue("email", defaults={"max_attempts": declared})
            job = await mux.enqueue("t", queue="email")
            return (await job.record()).policy.max_attempts

        assert await attempts(5) == 5
        await app().queue("email").set_defaults(max_attempts=9)
        assert await attempts(5) == 9
        assert await attempts(6) == 6

    async def test_they_are_changed_and_taken_back(self, app):
        await app().queue("email").set_defaults(max_attempts=9)
        record = await (await app().enqueue("t", queue="email")).record()
        assert record.policy.max_attempts == 9
        await app().queue("email").set_defaults()
        record = await (await app().enqueue("t", queue="email")).record()
        assert record.policy.max_attempts == 3

    @pytest.mark.parametrize("wrong", [{"id": "x"}, {"queue": "q"}, {"group": "g"}, {"colour": 1}])
    async def test_what_a_queue_cannot_say_is_refused(self, mux, wrong):
        with pytest.raises(DeclarationError, match="no option of a queue"):
            mux.queue("email", defaults=wrong)
        with pytest.raises(DeclarationError, match="no option of a queue"):
            await mux.queue("email").set_defaults(**wrong)
