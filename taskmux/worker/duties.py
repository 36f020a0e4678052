"""What a worker's tasks have in common: they go on, whatever happens, until they are ended."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from taskmux.api.begin import begin
from taskmux.model.errors import StoreError
from taskmux.model.log import Log
from taskmux.worker.invocation import Lane
from taskmux.worker.outage import WAITED_OUT, Outage

__all__ = ["Crew", "end", "repeat"]

logger = Log("taskmux.worker")

LONGEST_PAUSE = 5.0
"""Seconds between two tries of a duty while the store is in trouble, at most."""

Make = Callable[[], Coroutine[Any, Any, None]]
Begin = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Crew:
    """Tasks that a worker lives by: one that is cancelled or fails is begun again.

    A handler can get hold of any task of its event loop and cancel it; only `end` ends these.

    Args:
        begin: begins a task.
    """

    def __init__(self, begin: Begin = begin) -> None:
        self._begin = begin
        self.tasks: set[asyncio.Task[None]] = set()
        self._over = False

    def keep(self, make: Make) -> None:
        """Begin a task, and begin it again until it returns."""
        task = self._begin(make())
        self.tasks.add(task)
        task.add_done_callback(partial(self._ended, make))

    def _ended(self, make: Make, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if not self._over and (task.cancelled() or error is not None):
            self.keep(make)
        if error is not None:  # last, since a log may be what fails
            logger.error("a task of the worker failed and is begun again", exc_info=error)

    async def end(self) -> None:
        """Cancel what is left; what ignores it is left behind after a second."""
        self._over = True
        await end(*self.tasks)


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and let them go; one that ignores it is left behind after a second."""
    for task in tasks:
        if isinstance(task, Lane):
            task.stop()
        else:
            task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1)


async def repeat(
    name: str, duty: Callable[[], Awaitable[object]], every: float, outage: Outage
) -> None:
    """Run a duty about every so many seconds until cancelled.

    A duty that returns a number of seconds comes again that soon. The pause is spread by +-20 %, so
    that workers started together do not act together. A failure is logged and does not end the
    duty.
    """
    while True:
        pause = every
        try:
            sooner = await duty()
            if isinstance(sooner, float):
                pause = min(sooner, every)
            outage.over(name)
        except WAITED_OUT as error:
            outage.met(error, name)
            pause = min(every, LONGEST_PAUSE)
        except StoreError as error:
            logger.warning("%s failed, trying again: %s", name, error)
        except Exception:
            logger.exception("%s failed, trying again", name)
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
