"""The event loop of a worker process: every job and the worker itself live in it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from taskmux.model.log import Log

__all__ = ["loop_factory", "run"]

logger = Log("taskmux.worker")

Factory = Callable[..., Any]


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where uvloop is installed: it is about a third faster."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def run(loop: asyncio.AbstractEventLoop, serve: Coroutine[Any, Any, int]) -> int:
    """Run until the worker has stopped, whatever a handler's tasks do to the event loop.

    A task that raises SystemExit or KeyboardInterrupt, `loop.stop()`, and logging that raises when
    asyncio tells of an error, end a run of the loop. Nothing is lost by that, so it goes on.
    """
    with _shared(loop):
        serving = loop.create_task(serve)
        while True:
            try:
                return loop.run_until_complete(serving)
            except BaseException:
                if serving.done():  # in the same turn as what ended the loop, or by that itself
                    return serving.result()
                if loop.is_closed():
                    raise
                logger.exception("a handler's task ended the event loop, which goes on")


@contextmanager
def _shared(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Keep a handler from taking away from the others what they need of the loop.

    A task factory may be set, but where it fails there is a plain task; and the default executor,
    which drivers look up addresses in, is there until the worker has ended.
    """
    set_task_factory = loop.set_task_factory

    def set_tolerant(factory: Factory | None) -> None:
        set_task_factory(None if factory is None else _tolerant(factory))

    async def shut_down_later(*_: object, **__: object) -> None:
        logger.warning("a handler shut down the event loop's executor, which others use: it stays")

    own: Any = loop
    own.set_task_factory, own.shutdown_default_executor = set_tolerant, shut_down_later
    try:
        yield
    finally:
        del own.set_task_factory, own.shutdown_default_executor
        loop.set_task_factory(None)


def _tolerant(factory: Factory) -> Factory:
    """Return a task factory that makes a plain task where this one fails, and says so once."""
    told = False

    def make(
        loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **more: Any
    ) -> Any:
        nonlocal told
        try:
            return factory(loop, coroutine, **more)
        except BaseException:
            if not told:
                logger.exception("a task factory that the app has set fails: plain tasks are made")
            told = True
            return asyncio.Task(coroutine, loop=loop, **more)

    return make
