"""The kit on mongomock-motor: the MongoDB driver without a server."""

from __future__ import annotations

from typing import ClassVar

import pytest
from taskmux.conformance import DriverSuite
from taskmux.driver import Driver, Ref
from tests.mongomock_adapter import MockClient

from taskmux_mongodb import MongoDriver


class TestMongomock(DriverSuite):
    clock_error_ms: ClassVar[int] = 40

    @pytest.fixture
    def unopened_driver(self):
        return MongoDriver.from_client(MockClient())

    async def damage(self, driver: Driver, ref: Ref) -> bool:
        jobs = driver._store.jobs
        await jobs.update_one({"_id": f"{ref.queue}/{ref.id}"}, {"$set": {"body": b"\xff"}})
        return True
