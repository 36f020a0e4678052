"""An open database as an event loop sees it: a thread that owns the connection, and a way to ask.

SQLite's calls block, so one thread makes them all. A forked process has neither that thread nor its
connection: it has to open a session of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from taskmux.driver import StoreUnavailable

from taskmux_sqlite.address import Address
from taskmux_sqlite.failures import store_error
from taskmux_sqlite.store import Store
from taskmux_sqlite.wait import Waiter

__all__ = ["Session"]

Reply = TypeVar("Reply")


class Session:
    """One thread and its connection, used from one event loop."""

    def __init__(self, address: Address, clock: Callable[[], int]) -> None:
        self._address: Final = address
        self._clock: Final = clock
        self._calls: Final[queue.SimpleQueue[Callable[[Store], None] | None]] = queue.SimpleQueue()
        self._pid: Final = os.getpid()
        self._waiting = 0
        self._following = 0
        self._thread: threading.Thread | None = None
        self._closed: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Start the thread and open the connection.

        Raises:
            StoreError: the file cannot be used, and why.
        """
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._thread = threading.Thread(
            target=self._serve, args=(opened,), name=f"taskmux-{self._address.file.name}"
        )
        self._thread.daemon = True  # a driver that nobody closed must not keep the process alive
        _LIVE.add(self)
        self._thread.start()
        try:
            await opened
        except asyncio.CancelledError:
            self._calls.put(None)
            raise
        except Exception:
            self._thread.join()  # it ends by itself
            raise

    async def close(self) -> None:
        """Finish what was asked for, close the connection and end the thread."""
        if self._thread is None or not self.here:
            return  # its thread and its connection are another process's
        self._closed = asyncio.get_running_loop().create_future()
        self._calls.put(None)
        try:
            await self._closed
        finally:
            self._thread.join()

    def abandon(self) -> None:
        """End the thread, which closes the connection, without waiting for it."""
        if self._thread is not None and self.here:
            self._calls.put(None)

    async def ask(self, do: Callable[[Store], Reply]) -> Reply:
        """Return what `do` returns, run on the thread.

        If the caller is cancelled meanwhile, `do` may have been run or not; later replies are not
        affected.

        Raises:
            StoreError: SQLite's error, translated.
        """
        if not self.here:
            raise StoreUnavailable(
                f"The driver of {self._address.url} was opened by another process, from which "
                f"this one was forked. Open it here, too."
            )
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._calls.put(partial(self._answer, reply, do))
        return await reply

    async def wait(self, queues: Sequence[str], timeout: float) -> bool:  # noqa: ASYNC109 - the interface's
        """Return True as soon as work may be there, False after `timeout` seconds."""
        return await self._sleep(queues, None, timeout)

    async def follow(self, ready: Callable[[sqlite3.Connection], bool], timeout: float) -> bool:  # noqa: ASYNC109 - as above
        """Return True as soon as `ready` is, False after `timeout` seconds."""
        self._following += 1
        try:
            return await self._sleep((), ready, timeout)
        finally:
            self._following -= 1

    async def _sleep(
        self,
        queues: Sequence[str],
        ready: Callable[[sqlite3.Connection], bool] | None,
        timeout: float,  # noqa: ASYNC109 - as above
    ) -> bool:
        woken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiter = Waiter(
            queues,
            waits=lambda: not woken.done(),
            wake=lambda: _settle(woken, lambda: woken.set_result(True)),
            ready=ready,
        )
        self._waiting += 1
        try:
            if await self.ask(lambda store: store.add(waiter)):
                return True
            async with asyncio.timeout(timeout):
                return await woken
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
            woken.cancel()

    @property
    def here(self) -> bool:
        """Whether this process opened it, and not one that it was forked from."""
        return self._pid == os.getpid()

    # -- on the thread --------------------------------------------------------------------------

    def _serve(self, opened: asyncio.Future[None]) -> None:
        try:
            store = Store(self._address, self._clock, self._nudge_others)
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            _LIVE.discard(self)
            self._fail(opened, error)
            return
        _settle(opened, partial(opened.set_result, None))
        while (call := self._next(store)) is not None:
            with store.using:
                call(store)
                store.look()
        try:
            store.close()
        finally:
            _LIVE.discard(self)
            if self._closed is not None:
                _settle(self._closed, partial(self._closed.set_result, None))

    def _next(self, store: Store) -> Callable[[Store], None] | None:
        """Return the next call, polling for other processes' commits while somebody waits."""
        while True:
            try:
                return self._calls.get(timeout=store.watch.pause())
            except queue.Empty:
                with store.using:
                    if not store.look():
                        store.watch.slow_down()

    def _answer(
        self, reply: asyncio.Future[Reply], do: Callable[[Store], Reply], store: Store
    ) -> None:
        if reply.cancelled():  # nobody waits for it any more, and it has not begun
            return
        try:
            result = do(store)
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            self._fail(reply, error)
        else:
            _settle(reply, partial(reply.set_result, result))

    def _fail(self, reply: asyncio.Future[Reply], error: Exception) -> None:
        failure = store_error(error, self._address.file)
        if failure is not error:
            failure.__cause__ = error
        _settle(reply, partial(reply.set_exception, failure))

    def _nudge_others(self, work: bool) -> None:  # noqa: FBT001 - a callback's only argument
        """Make sessions of this process that wait on this file look at once, not at a poll.

        Without `work`, those that follow events.
        """
        for one in tuple(_LIVE):
            if one is not self and (work or one._following):  # noqa: SLF001 - of this class
                one._nudge(self._address.file)  # noqa: SLF001 - of this class

    def _nudge(self, file: Path) -> None:
        if self._waiting and self.here and self._address.file == file:
            self._calls.put(_look)


def _look(store: Store) -> None:
    """Do nothing: the thread looks for changes after every call."""


def _settle(reply: asyncio.Future[Reply], how: Callable[[], None]) -> None:
    """Settle a future of another thread's loop, unless its owner has given up."""

    def settle() -> None:
        if not reply.done():
            how()

    with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits there
        reply.get_loop().call_soon_threadsafe(settle)


_LIVE: Final[set[Session]] = set()
"""This process's open sessions, and dead copies of those of the process it was forked from."""
