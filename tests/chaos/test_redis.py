from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.kill import Plan
from harness.suites import KillSuite, PoisonSuite, SignalSuite
from tests.servers import redis_program, running

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(redis_program() is None, reason="no redis-server"),
]


class OnRedis:
    @pytest.fixture
    def url(self) -> Iterator[str]:
        with running() as server:
            yield server.url


class TestKills(OnRedis, KillSuite):
    plan = Plan(jobs=20_000, workers=4, kills=50, stops=20)


class TestSignals(OnRedis, SignalSuite):
    pass


class TestPoison(OnRedis, PoisonSuite):
    pass
