"""An app's open connections: one for each store, process and event loop."""

from __future__ import annotations

import asyncio
import os

from taskmux.api.begin import begin
from taskmux.api.connection import Connection
from taskmux.driver import Driver

__all__ = ["Pool"]

Where = tuple[int, asyncio.AbstractEventLoop]
"""A process and an event loop: what one driver instance belongs to."""


class Pool:
    """Opens connections at first use and shares them within their event loop.

    Threads that each run a loop share it, too. It takes no lock, which a fork could leave locked
    for ever: each step on the dictionary of loops is one that no other thread can come between,
    and what is kept for a loop is touched by its own thread alone.
    """

    def __init__(self) -> None:
        self._open: dict[Where, dict[Driver, asyncio.Future[Connection]]] = {}

    @property
    def in_use(self) -> bool:
        """Whether anything was opened."""
        return bool(self._open)

    def opened(self, store: Driver) -> Connection | None:
        """Return this loop's connection to a store if it is open already, as it mostly is."""
        mine = self._open.get(_here())
        opening = None if mine is None else mine.get(store)
        if opening is None or not opening.done() or _failed(opening):
            return None
        return opening.result()

    async def connection(self, store: Driver) -> Connection:
        """Return this loop's connection to a store; concurrent callers share one opening.

        Args:
            store: an unopened driver on it, of which the connection gets a fork.
        """
        here = _here()
        if here not in self._open:
            self._forget_closed_loops()
        mine = self._open.setdefault(here, {})
        opening = mine.get(store)
        if opening is None or _failed(opening):  # all who waited for it were told
            opening = mine[store] = begin(_new_connection(store))
        return await asyncio.shield(opening)

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
        for where in list(self._open):  # other threads add and forget loops meanwhile
            if not _gone(where):
                continue
            for opened in self._open.pop(where, {}).values():
                mine = where[0] == os.getpid()
                if mine and opened.done() and not _failed(opened):
                    opened.result().driver.abandon()


async def _new_connection(store: Driver) -> Connection:
    connection = Connection(store.fork())
    await connection.open()
    return connection


def _failed(opening: asyncio.Future[Connection]) -> bool:
    return opening.done() and (opening.cancelled() or opening.exception() is not None)


def _here() -> Where:
    return os.getpid(), asyncio.get_running_loop()


def _gone(where: Where) -> bool:
    return where[0] != os.getpid() or where[1].is_closed()
