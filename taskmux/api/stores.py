"""An app's stores: which queue lives where, and the connections to them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from msgspec.structs import replace

from taskmux.api.connection import Connection
from taskmux.api.pool import Pool
from taskmux.config import load_settings
from taskmux.driver import Driver, Presence, require
from taskmux.model.errors import ConfigError, DeclarationError
from taskmux.model.workers import Command, WorkerInfo
from taskmux.plugins.loading import driver_for, driver_for_client, plugin_manager

__all__ = ["Stores"]


class Stores:
    """The default store, those of the routes, and this process's connections to them.

    Args:
        url: the default store; None takes the one of the settings.
        client: the application's own client, or a driver, instead of a URL.
        routes: queue-name patterns and the URLs of their stores; the first that matches wins.
        plugins: objects or modules that implement hooks.

    Raises:
        InvalidURL, UnknownScheme, MissingExtra: before any connection is made.
        DeclarationError: both a URL and a client are given, or a plug-in is wrong.
    """

    def __init__(
        self,
        url: str | None,
        client: object,
        routes: Mapping[str, str] | None,
        plugins: Sequence[object],
    ) -> None:
        self.plugins = plugin_manager(plugins)
        self._routes = dict(routes or {})
        self._roots: dict[str, Driver] = {}
        if client is not None:
            if url is not None:
                raise DeclarationError("Give a url or a client: each says where the store is.")
            given = driver_for_client(client, self.plugins)
            url = given.url
            self._roots[url] = given
        self._url = load_settings().url if url is None else url
        for one in (self._url, *self._routes.values()):
            if one not in self._roots:
                self._roots[one] = driver_for(one, self.plugins)
        self._pool = Pool()

    @property
    def url(self) -> str:
        """The default store's URL, credentials hidden."""
        return self._roots[self._url].url

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of all stores, the default one first, credentials hidden."""
        others = (driver.url for url, driver in self._roots.items() if url != self._url)
        return tuple(dict.fromkeys((self.url, *others)))

    def use(self, url: str) -> None:
        """Take another default store; see `Taskmux.use`."""
        if self._pool.in_use:
            raise ConfigError(
                "This app has open stores; choose another URL before first use, or close them "
                "before: await mux.close(), and mux.close_blocking() if a .blocking verb was used."
            )
        self._roots[url] = driver_for(url, self.plugins)
        if self._url != url and self._url not in self._routes.values():
            del self._roots[self._url]
        self._url = url

    def by_store(self, queues: Sequence[str]) -> Iterator[tuple[Driver, tuple[str, ...]]]:
        """Return a new driver for each store that these queues live in, with its queues."""
        names: dict[str, list[str]] = {}
        for queue in queues:
            names.setdefault(self._url_of(queue), []).append(queue)
        return ((self._roots[url].fork(), tuple(mine)) for url, mine in names.items())

    async def connect(self, queue: str) -> Connection:
        """Return this event loop's connection to the store of a queue."""
        return await self._connection(self._url_of(queue))

    def opened(self, queue: str) -> Connection | None:
        """Return that connection if there is one already."""
        return self._pool.opened(self._roots[self._url_of(queue)])

    async def open(self) -> None:
        """Open the default store on this event loop."""
        await self._connection(self._url)

    async def close(self) -> None:
        """Let what is under way finish, then close this event loop's connections."""
        await self._pool.close()

    async def queues(self) -> list[str]:
        """Return the names of all queues; see `Taskmux.queues`."""
        names: set[str] = set()
        for url in self._roots:
            names.update(await (await self._connection(url)).driver.queues())
        return sorted(names)

    async def workers(self) -> list[WorkerInfo]:
        """Return the live workers; see `Taskmux.workers`."""
        found: dict[str, WorkerInfo] = {}
        for url in self._roots:
            for one in await (await self._presence(url, "Listing workers")).workers():
                known = found.get(one.id)
                found[one.id] = one if known is None else _together(known, one)
        return sorted(found.values(), key=lambda worker: worker.id)

    async def tell(self, worker: str, command: Command) -> bool:
        """Tell a live worker something; see `Taskmux.tell`."""
        for url in self._roots:
            if await (await self._presence(url, "Telling workers")).tell(worker, command):
                return True
        return False

    async def _presence(self, url: str, feature: str) -> Presence:
        driver = (await self._connection(url)).driver
        require(driver, "presence", feature=feature)
        return cast("Presence", driver)

    def _url_of(self, queue: str) -> str:
        for pattern, url in self._routes.items():
            if fnmatch.fnmatchcase(queue, pattern):
                return url
        return self._url

    async def _connection(self, url: str) -> Connection:
        return await self._pool.connection(self._roots[url])


def _together(one: WorkerInfo, other: WorkerInfo) -> WorkerInfo:
    """Return what two stores know of one worker: the later heartbeat, and the queues of both."""
    latest = max(one, other, key=lambda known: known.seen_at)
    return replace(latest, queues=tuple(dict.fromkeys((*one.queues, *other.queues))))
