"""The event loop of an application's own client, and the way into it from other threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from taskmux.driver import StoreIncompatible

__all__ = ["Home"]

Reply = TypeVar("Reply")


class Home:
    """The loop in which a client works: the one that used it first, for as long as that runs.

    A client's connections belong to one loop. So `task.blocking.enqueue()` in a thread of a web
    application sends its commands in the application's loop.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._moved = False
        """Whether an earlier loop ended, in which the client may have left connections."""

    async def run(self, work: Callable[[], Awaitable[Reply]]) -> Reply:
        """Do the work there, whichever loop this is called in.

        Raises:
            StoreIncompatible: the client has connections of a loop that has ended.
        """
        here = asyncio.get_running_loop()
        if self._loop is None or not self._loop.is_running():
            self._moved = self._moved or self._loop not in (None, here)
            self._loop = here
        if self._loop is here:
            return await (self._in_another(work) if self._moved else work())

        async def at_home() -> Reply:
            return await work()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(at_home(), self._loop))

    async def _in_another(self, work: Callable[[], Awaitable[Reply]]) -> Reply:
        try:
            return await work()
        except RuntimeError as error:
            if "loop" not in str(error):
                raise
        raise StoreIncompatible(
            "The Redis client has connections of an event loop that has ended. Close them before "
            "it ends (await client.aclose()), or give Taskmux a URL: then each loop has its own."
        )
