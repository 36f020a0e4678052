"""What a handler is given and leaves behind. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from taskmux import Context, Fixed, Limits, Retry, State, Taskmux
from taskmux.model.errors import JobFailed

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@dataclasses.dataclass
class Point:
    x: int


class Marked(Point):
    """Would come back as a point."""


class TestSteps:
    async def test_a_step_is_not_run_again_after_a_retry(self, mux):
        rendered = []

        async def render(template: str) -> datetime:
            rendered.append(template)
            return NOON

        def count(number: int) -> int:
            rendered.append(number)
            return number + 1

        @mux.task(max_attempts=3)
        async def send(ctx: Context) -> list[Any]:
            when = await ctx.step("render", render, "welcome")
            number = await ctx.step("count", count, number=1)
            if ctx.attempt < 3:
                raise Retry(after=0)
            return [when == NOON, type(when).__name__, number]

        async with mux.worker():
            job = await send.enqueue()
            assert await job.result(timeout="20s") == [True, "datetime", 2]
        assert rendered == ["welcome", 1]
        assert set((await job.record()).steps) == {"render", "count"}

    async def test_a_step_that_failed_is_run_again(self, mux):
        runs = []

        def flaky() -> int:
            runs.append(1)
            if len(runs) == 1:
                raise ValueError("once")
            return len(runs)

        @mux.task(max_attempts=2, backoff=Fixed(0))
        async def work(ctx: Context) -> int:
            return await ctx.step("flaky", flaky)

        async with mux.worker():
            assert await (await work.enqueue()).result(timeout="20s") == 2

    async def test_a_sync_handler_has_steps_too(self, mux):
        runs = []

        def render() -> str:
            runs.append(1)
            return "html"

        @mux.task(max_attempts=2)
        def send(ctx: Context) -> str:
            html = ctx.blocking.step("render", render)
            ctx.blocking.progress(50)
            ctx.blocking.log("rendered")
            if ctx.attempt == 1:
                raise Retry(after=0)
            return html

        async with mux.worker():
            job = await send.enqueue()
            assert await job.result(timeout="20s") == "html"
        record = await job.record()
        assert (runs, record.progress, record.logs) == ([1], b"50", ("rendered", "rendered"))

    async def test_a_step_result_that_cannot_be_stored_is_a_failure(self, app):
        mux = app(limits=Limits(result=100))

        @mux.task(max_attempts=1)
        async def big(ctx: Context) -> None:
            await ctx.step("one", lambda: "x" * 60)
            await ctx.step("two", lambda: "x" * 60)

        async with mux.worker():
            job = await big.enqueue()
            with pytest.raises(JobFailed, match="step results take"):
                await job.result(timeout="20s")
        assert set((await job.record()).steps) == {"one"}

    async def test_a_step_result_that_a_retry_would_get_as_another_type_is_a_failure(self, mux):
        def place() -> Point:
            return Marked(1)

        @mux.task(max_attempts=1)
        async def work(ctx: Context) -> None:
            await ctx.step("place", place)

        @mux.task(max_attempts=1)
        def sync_work(ctx: Context) -> None:
            ctx.blocking.step("place", place)

        async with mux.worker():
            for task in (work, sync_work):
                job = await task.enqueue()
                with pytest.raises(JobFailed, match=r"'place' .* result is a Marked"):
                    await job.result(timeout="20s")
                assert not (await job.record()).steps

    async def test_a_step_name_that_comes_twice_in_one_run_is_an_error(self, mux):
        sent = []

        @mux.task(max_attempts=1)
        async def send(ctx: Context) -> list[int]:
            return [await ctx.step("send", sent.append, number) for number in range(3)]

        @mux.task(max_attempts=1)
        async def together(ctx: Context) -> None:
            await asyncio.gather(*(ctx.step("both", asyncio.sleep, 0, n) for n in range(2)))

        @mux.task(max_attempts=1)
        def sync_send(ctx: Context) -> list[int]:
            return [ctx.blocking.step("sync", sent.append, number) for number in range(3)]

        async with mux.worker():
            for task, name in ((send, "send"), (together, "both"), (sync_send, "sync")):
                with pytest.raises(JobFailed, match=f"DeclarationError: Step '{name}' has begun"):
                    await (await task.enqueue()).result(timeout="20s")
        assert sent == [0, 0]

    async def test_a_step_that_failed_may_be_tried_again_in_the_same_run(self, mux):
        runs = []

        def flaky() -> int:
            runs.append(1)
            if len(runs) == 1:
                raise ValueError("once")
            return len(runs)

        @mux.task(max_attempts=1)
        async def work(ctx: Context) -> int:
            with contextlib.suppress(ValueError):
                return await ctx.step("flaky", flaky)
            return await ctx.step("flaky", flaky)

        async with mux.worker():
            assert await (await work.enqueue()).result(timeout="20s") == 2

    async def test_a_step_gives_on_the_first_run_what_it_gives_on_later_ones(self, mux):
        got: dict[str, list[Any]] = {}

        def point() -> Any:
            return Point(1)

        def days() -> dict[str, Any]:
            return {"at": NOON}

        async def pairs() -> list[str]:
            return ("a", "b")

        steps = {
            "instant": lambda: NOON,
            "set": lambda: {1},
            "tuple": lambda: (1, (2,)),
            "keys": lambda: {1: "one"},
            "point": point,
            "days": days,
            "pairs": pairs,
        }

        @mux.task(max_attempts=2)
        async def work(ctx: Context) -> None:
            for name, function in steps.items():
                got.setdefault(name, []).append(await ctx.step(name, function))
            if ctx.attempt == 1:
                raise Retry(after=0)

        @mux.task(max_attempts=2)
        def sync_work(ctx: Context) -> None:
            got.setdefault("sync", []).append(ctx.blocking.step("sync", point))
            if ctx.attempt == 1:
                raise Retry(after=0)

        async with mux.worker():
            for task in (work, sync_work):
                await (await task.enqueue()).result(timeout="20s")
        assert {name: first for name, (first, _) in got.items()} == {
            "instant": "2026-01-02T12:00:00Z",
            "set": [1],
            "tuple": [1, [2]],
            "keys": {"1": "one"},
            "point": {"x": 1},
            "days": {"at": "2026-01-02T12:00:00Z"},
            "pairs": ["a", "b"],
            "sync": {"x": 1},
        }
        assert {name: first for name, (first, _) in got.items()} == {
            name: second for name, (_, second) in got.items()
        }

    async def test_a_step_that_its_annotation_cannot_read_fails_at_once_and_is_stored(self, mux):
        charged = []

        def charge() -> str:
            return charged.append(1)

        @mux.task(max_attempts=2, backoff=Fixed(0))
        async def work(ctx: Context) -> None:
            await ctx.step("charge", charge)

        async with mux.worker():
            job = await work.enqueue()
            with pytest.raises(JobFailed, match=r"step 'charge' does not fit str.*return type"):
                await job.result(timeout="20s")
        record = await job.record()
        assert charged == [1]
        types = [one.error.type for one in record.history]
        assert types == ["taskmux.model.errors.NotDecodable"] * 2


class TestResults:
    async def test_what_would_come_back_as_another_type_is_a_failure(self, mux):
        @mux.task(max_attempts=5)
        async def place(marked: bool) -> list[Point]:
            return [Marked(1) if marked else Point(1)]

        async with mux.worker():
            good, bad = await place.enqueue(False), await place.enqueue(True)
            assert await good.result(timeout="20s") == [Point(1)]
            with pytest.raises(JobFailed, match=r"result\[0\] is a Marked"):
                await bad.result(timeout="20s")
        record = await bad.record()
        assert (record.state, record.attempts) == (State.DEAD, 1)


class TestNotes:
    async def test_progress_and_log_are_seen_while_it_runs(self, mux):
        noted, let_go = asyncio.Event(), asyncio.Event()

        @mux.task()
        async def work(ctx: Context) -> None:
            await ctx.progress({"done": 1, "of": 3})
            await ctx.log("began")
            await ctx.progress({"done": 2, "of": 3})
            await ctx.log("went on")
            noted.set()
            await let_go.wait()

        async with mux.worker():
            job = await work.enqueue()
            await noted.wait()
            record = await job.record()
            assert record.state is State.ACTIVE
            assert record.progress == b'{"done":2,"of":3}'
            assert record.logs == ("began", "went on")
            let_go.set()
            await job.result(timeout="20s")
        assert (await job.record()).logs == ("began", "went on")

    async def test_the_log_has_its_limits_and_takes_any_text(self, app):
        mux = app(limits=Limits(log_lines=3, log_line=10))

        @mux.task()
        async def chatty(ctx: Context) -> None:
            await ctx.log("x" * 1000)
            await ctx.log("\udcff\x00")
            for number in range(10):
                await ctx.log(str(number))

        async with mux.worker():
            job = await chatty.enqueue()
            await job.result(timeout="20s")
        assert (await job.record()).logs == ("x" * 9 + "…", "\\udcff␀", "0")

    async def test_what_a_handler_knows_of_its_job(self, mux):
        @mux.task()
        async def who(ctx: Context) -> list[Any]:
            return [ctx.id, ctx.queue, ctx.attempt, ctx.fence, ctx.worker, ctx.job.tags]

        async with mux.worker(["q"]) as worker:
            job = await who.options(queue="q", tags=["a"]).enqueue()
            result = await job.result(timeout="20s")
            assert result == [job.id, "q", 1, (await job.record()).fence, worker.name, ["a"]]

    async def test_a_detached_context_stores_nothing(self):
        mux = Taskmux("memory://")

        @mux.task()
        async def work(ctx: Context, number: int) -> int:
            await ctx.progress(50)
            await ctx.log("x")
            return await ctx.step("double", lambda: 2 * number)

        assert await work(Context.detached(), 21) == 42


class TestLifespan:
    async def test_what_it_yields_is_the_state_and_it_ends_with_the_worker(self, app):
        told: list[str] = []

        @contextlib.asynccontextmanager
        async def resources(mux: Taskmux) -> AsyncIterator[dict[str, str]]:
            told.append("opened")
            yield {"smtp": f"connection of {type(mux).__name__}"}
            told.append("closed")

        mux = app(lifespan=resources)

        @mux.task()
        async def send(ctx: Context) -> str:
            told.append("ran")
            return ctx.state["smtp"]

        async with mux.worker():
            job = await send.enqueue()
            assert await job.result(timeout="20s") == "connection of Taskmux"
        assert told == ["opened", "ran", "closed"]

    async def test_one_that_fails_keeps_the_worker_from_starting(self, app):
        @contextlib.asynccontextmanager
        async def broken(mux: Taskmux) -> AsyncIterator[None]:
            raise RuntimeError("no database")
            yield

        mux = app(lifespan=broken)
        await mux.enqueue("t")
        with pytest.raises(RuntimeError, match="no database"):
            async with mux.worker():
                raise AssertionError
        assert (await mux.queue("default").counts()).waiting == 1
