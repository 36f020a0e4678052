from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.kill import Plan
from harness.suites import KillSuite, PoisonSuite, SignalSuite
from tests.mongo_servers import mongod_program, running

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(mongod_program() is None, reason="no mongod"),
]


class OnMongoDB:
    @pytest.fixture
    def url(self) -> Iterator[str]:
        with running() as server:
            yield server.url


class TestKills(OnMongoDB, KillSuite):
    plan = Plan(jobs=10_000, workers=4, kills=40, stops=10)


class TestSignals(OnMongoDB, SignalSuite):
    pass


class TestPoison(OnMongoDB, PoisonSuite):
    pass
