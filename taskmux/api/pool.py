"""An app's open connections: one for each store, process and event loop."""

from __future__ import annotations

import asyncio
import os

from taskmux.api.connection import Connection
from taskmux.driver import Driver

__all__ = ["Pool"]

Where = tuple[int, asyncio.AbstractEventLoop]
"""A process and an event loop: what one driver instance belongs to."""


class Pool:
    """Opens connections at first use and shares them within their event loop."""

    def __init__(self) -> None:
        self._open: dict[Where, dict[Driver, asyncio.Future[Connection]]] = {}

    @property
    def in_use(self) -> bool:
        """Whether anything was opened."""
        return bool(self._open)

    async def connection(self, store: Driver) -> Connection:
        """Return this loop's connection to a store; concurrent callers share one opening.

        Args:
            store: an unopened driver on it, of which the connection gets a fork.
        """
        here = _here()
        if here not in self._open:
            self._forget_closed_loops()
        mine = self._open.setdefault(here, {})
        opened = mine.get(store)
        if opened is None:
            opened = mine[store] = asyncio.ensure_future(_new_connection(store))
        try:
            return await asyncio.shield(opened)
        except BaseException:
            failed = opened.done() and (opened.cancelled() or opened.exception() is not None)
            if failed and mine.get(store) is opened:  # the next caller tries again
                del mine[store]
            raise

    async def close(self) -> None:
        """Let what is under way finish, then close this event loop's connections."""
        self._forget_closed_loops()
        for opened in self._open.pop(_here(), {}).values():
            try:
                connection = await opened
            except Exception:  # noqa: BLE001, S112 - it never opened; its caller was told
                continue
            await connection.close()

    def _forget_closed_loops(self) -> None:
        for where in [where for where in self._open if _gone(where)]:
            for opened in self._open.pop(where).values():
                mine = where[0] == os.getpid()
                if mine and opened.done() and not opened.cancelled() and not opened.exception():
                    opened.result().driver.abandon()


async def _new_connection(store: Driver) -> Connection:
    connection = Connection(store.fork())
    await connection.open()
    return connection


def _here() -> Where:
    return os.getpid(), asyncio.get_running_loop()


def _gone(where: Where) -> bool:
    return where[0] != os.getpid() or where[1].is_closed()
