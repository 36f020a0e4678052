"""What a coroutine-returning function is: timeout, cancel and drain hold for what it returns."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from taskmux import Context, State, Taskmux
from taskmux.model.errors import DeclarationError, JobCancelled, JobFailed


@pytest.fixture
async def mux():
    async with Taskmux("memory://") as mux:
        yield mux


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """An ordinary decorator, which knows nothing of coroutines."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Waiting:
    """A handler that waits, in every form that user code has."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ended: list[str] = []

    async def wait(self, ctx: Context, seconds: float = 60) -> str:
        self.began.set()
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        assert threading.current_thread() is threading.main_thread()
        return ctx.id

    def forms(self) -> dict[str, Callable[..., Any]]:
        async def plain(ctx: Context, seconds: float = 60) -> str:
            return await self.wait(ctx, seconds)

        def returns(ctx: Context, seconds: float = 60) -> Any:
            return plain(ctx, seconds)

        return {
            "plain": plain,
            "decorated": traced(plain),
            "partial": functools.partial(plain),
            "partial of a decorated": functools.partial(traced(plain)),
            "static": staticmethod(plain),
            "bound method": self.wait,
            "returns a coroutine": returns,
        }


FORMS = list(Waiting().forms())


@pytest.fixture(params=FORMS)
def waiting(request, mux):
    handler = Waiting()
    return handler, lambda **options: mux.task(name="w", **options)(handler.forms()[request.param])


async def test_it_runs_in_the_loop_and_its_result_is_awaited(mux, waiting):
    _, task = waiting
    job = await task().enqueue(0.0)
    async with mux.worker():
        assert await job.result(timeout="20s") == job.id


async def test_its_timeout_holds(mux, waiting):
    handler, task = waiting
    job = await task(timeout="30ms", max_attempts=1).enqueue()
    async with mux.worker():
        with pytest.raises(JobFailed, match="ran longer than its timeout"):
            await job.result(timeout="20s")
    assert handler.ended == ["cancelled"]


async def test_it_is_cancelled(mux, waiting):
    handler, task = waiting
    job = await task().enqueue()
    async with mux.worker():
        await handler.began.wait()
        await job.cancel()
        with pytest.raises(JobCancelled):
            await job.result(timeout="20s")
    assert handler.ended == ["cancelled"]


async def test_a_drain_gives_it_back(mux, waiting):
    handler, task = waiting
    job = await task(max_attempts=1).enqueue()
    async with mux.worker(drain=0):
        await handler.began.wait()
    record = await job.record()
    assert (record.state, record.attempts) == (State.WAITING, 0)
    assert handler.ended == ["cancelled"]


async def test_what_it_raises_is_a_failure(mux):
    @traced
    async def fails() -> None:
        raise KeyboardInterrupt("late")

    task = mux.task(max_attempts=1)(fails)
    async with mux.worker(concurrency=1):
        for _ in range(2):
            job = await task.enqueue()
            with pytest.raises(JobFailed, match="late"):
                await job.result(timeout="20s")


class TestRefused:
    def test_a_method(self):
        mux = Taskmux("memory://")
        with pytest.raises(DeclarationError, match="is a method"):

            class Jobs:
                @mux.task()
                async def send(self, to: str) -> None: ...

    @pytest.mark.parametrize("above", [False, True])
    def test_a_classmethod(self, above):
        mux = Taskmux("memory://")
        with pytest.raises(DeclarationError, match="is a method"):
            if above:

                class Above:
                    @mux.task()
                    @classmethod
                    async def send(cls, to: str) -> None: ...

            else:

                class Below:
                    @classmethod
                    @mux.task()
                    async def send(cls, to: str) -> None: ...

    def test_a_staticmethod_on_either_side_is_none(self):
        mux = Taskmux("memory://")

        class Jobs:
            @mux.task()
            @staticmethod
            async def inner(to: str) -> None: ...

            @staticmethod
            @mux.task()
            async def outer(to: str) -> None: ...

        assert Jobs.inner.is_async
        assert Jobs.outer.is_async

    def test_a_function_whose_first_parameter_happens_to_be_called_self(self):
        mux = Taskmux("memory://")

        @mux.task()
        async def send(self: str) -> None: ...

        assert send.is_async
