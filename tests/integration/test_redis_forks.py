"""Children of a process that has a driver open: their end leaves the parent's connections whole."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from tests.servers import redis_program, running

pytestmark = [
    pytest.mark.skipif(redis_program() is None, reason="no redis-server"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
]

PARENT = """
    import asyncio, gc, multiprocessing, os, sys, time
    from redis.asyncio import Redis
    from taskmux.driver import Op, State
    from tests.redis_load import new
    from taskmux_redis import RedisDriver

    url, port, kind, how = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]

    drivers = []

    def end_of_a_child():
        # what the child's own end of the driver leads to: streams of copied sockets are closed
        drivers.pop()._connection._client.connection_pool.reset()
        gc.collect()

    def by_fork():
        child = os.fork()
        if child == 0:
            end_of_a_child()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    def by_multiprocessing():
        child = multiprocessing.get_context("fork").Process(target=end_of_a_child)
        child.start()
        child.join()
        assert child.exitcode == 0

    async def main():
        given = Redis(port=port) if kind == "client" else None
        driver = RedisDriver(url) if given is None else RedisDriver.from_client(given)
        await driver.open()
        drivers.append(driver)
        waiting = asyncio.create_task(driver.wait(["w"], 20))
        await driver.push(Op("p", 1), [new("q", "a")])
        for turn in range(3):
            globals()[how]()
        calls = []
        send, client = driver._connection._client.execute_command, driver._connection._client
        async def counted(*args, **options):
            calls.append(args[0])
            return await send(*args, **options)
        client.execute_command = counted
        assert (await driver.counts("q"))[State.WAITING] == 1
        await driver.push(Op("p", 2), [new("w", "b")])
        assert await waiting
        assert calls.count("EVALSHA") == 2, calls  # each was answered at once, not sent again
        assert client.connection_pool._available_connections
        await driver.close()
        if given is not None:
            await given.aclose()

    asyncio.run(main())
    print("whole")
"""


@pytest.fixture
def server():
    with running() as one:
        yield one


@pytest.mark.parametrize("kind", ["url", "client"])
@pytest.mark.parametrize("how", ["by_fork", "by_multiprocessing"])
def test_a_child_that_ends_leaves_the_parents_connections_whole(server, kind, how):
    command = [
        sys.executable,
        "-X",
        "dev",
        "-W",
        "error::ResourceWarning",
        "-c",
        textwrap.dedent(PARENT),
    ]
    done = subprocess.run(
        [*command, server.url, str(server.port), kind, how],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["whole"]), done.stderr
