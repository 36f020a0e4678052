from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.rates import RateSuite, busiest
from tests import mongo_servers, servers

pytestmark = pytest.mark.chaos


class TestSQLite(RateSuite):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/rate.db"


@pytest.mark.skipif(servers.redis_program() is None, reason="no redis-server")
class TestRedis(RateSuite):
    @pytest.fixture
    def url(self) -> Iterator[str]:
        with servers.running() as server:
            yield server.url


@pytest.mark.skipif(mongo_servers.mongod_program() is None, reason="no mongod")
class TestMongoDB(RateSuite):
    @pytest.fixture
    def url(self) -> Iterator[str]:
        with mongo_servers.running() as server:
            yield server.url


def test_the_busiest_window_is_found() -> None:
    assert busiest([0, 10, 999, 1000, 1009], 1000) == 4
