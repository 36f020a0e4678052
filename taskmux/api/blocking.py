"""The one blocking facade: a background thread with an event loop, for code without one."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from taskmux.model.errors import ConfigError

__all__ = ["BackgroundLoop"]

R = TypeVar("R")


class BackgroundLoop:
    """Runs coroutines on a daemon thread's event loop, started at first use.

    A forked process gets a thread of its own: threads do not survive a fork.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    def run(self, make: Callable[[], Awaitable[R]]) -> R:
        """Run `make()` on the background loop and wait for its result.

        Raises:
            ConfigError: called from a coroutine, which it would block.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise ConfigError(
                "A blocking call inside a running event loop would stop it. Use the async verb: "
                "await task.enqueue(...)."
            )

        async def call() -> R:
            return await make()

        return asyncio.run_coroutine_threadsafe(call(), self._started()).result()

    def stop(self) -> None:
        """Stop the loop and its thread; a later call starts them again."""
        with self._lock:
            loop, thread, pid = self._loop, self._thread, self._pid
            self._loop = self._thread = None
        if loop is None or thread is None or pid != os.getpid():
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="taskmux-blocking", daemon=True
                )
                self._thread.start()
            return self._loop
