"""The event loop of an application's own client, and the way into it from other threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["Home"]

Reply = TypeVar("Reply")


class Home:
    """Where a client's work is done: in the loop that used it first, for as long as that runs.

    So `task.blocking.enqueue()` in a thread of a web app uses the client of the app's loop.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, work: Callable[[], Awaitable[Reply]]) -> Reply:
        """Do it there, whichever loop this is called in."""
        here = asyncio.get_running_loop()
        if self._loop is None or not self._loop.is_running():
            self._loop = here
        if self._loop is here:
            return await work()
        there = asyncio.run_coroutine_threadsafe(_coroutine(work), self._loop)
        return await asyncio.wrap_future(there)


async def _coroutine(work: Callable[[], Awaitable[Reply]]) -> Reply:
    return await work()
