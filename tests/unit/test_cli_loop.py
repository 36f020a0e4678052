"""The event loop of a worker process, as a handler may treat it."""

from __future__ import annotations

import asyncio
import logging

import pytest
from taskmux.cli.loop import loop_factory, run

KINDS = [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request):
    loop = asyncio.new_event_loop() if request.param == "asyncio" else loop_factory()()
    yield loop
    loop.close()


async def uses_tasks_and_threads() -> list[int]:
    async def number(value: int) -> int:
        await asyncio.sleep(0)
        return value

    return [*await asyncio.gather(number(1), number(2)), await asyncio.to_thread(lambda: 3)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_factory_that_fails_leaves_plain_tasks(loop, kind, caplog):
    def fails(loop, coroutine, **more):
        raise kind

    async def serve() -> int:
        asyncio.get_running_loop().set_task_factory(fails)
        assert await uses_tasks_and_threads() == [1, 2, 3]
        return 7

    assert run(loop, serve()) == 7
    assert [one.getMessage() for one in caplog.records] == [
        "a task factory that the app has set fails: plain tasks are made"
    ]
    assert loop.get_task_factory() is None


def test_a_task_factory_that_works_is_used(loop):
    made = []

    def makes(loop, coroutine, **more):
        made.append(asyncio.Task(coroutine, loop=loop, **more))
        return made[-1]

    async def serve() -> int:
        asyncio.get_running_loop().set_task_factory(makes)
        await asyncio.create_task(asyncio.sleep(0))
        asyncio.get_running_loop().set_task_factory(None)
        await asyncio.create_task(asyncio.sleep(0))
        return len(made)

    assert run(loop, serve()) == 1


def test_the_default_executor_stays_until_the_end(loop, caplog):
    async def serve() -> int:
        await asyncio.get_running_loop().shutdown_default_executor()
        assert await uses_tasks_and_threads() == [1, 2, 3]
        return 0

    assert run(loop, serve()) == 0
    assert "executor" in caplog.text
    loop.run_until_complete(loop.shutdown_default_executor())
    with pytest.raises(RuntimeError, match="shutdown"):
        loop.run_until_complete(uses_tasks_and_threads())


@pytest.mark.parametrize("kind", KINDS)
def test_logging_that_raises_while_asyncio_tells_of_an_error_ends_nothing(loop, kind):
    class Raises(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise kind

    handler = Raises()
    logging.getLogger("asyncio").addHandler(handler)

    async def serve(*, rests: bool) -> int:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        if rests:
            await asyncio.sleep(0.01)
        return 7

    try:
        assert run(loop, serve(rests=True)) == 7
        assert run(loop, serve(rests=False)) == 7  # it is done in the turn that ends the loop
    finally:
        logging.getLogger("asyncio").removeHandler(handler)


def test_what_the_worker_itself_raises_is_not_held_back(loop):
    async def serve() -> int:
        raise ValueError("the worker's own")

    with pytest.raises(ValueError, match="the worker's own"):
        run(loop, serve())
