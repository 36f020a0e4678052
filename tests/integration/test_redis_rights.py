"""Rights on a Redis: what the page gives suffices, and what is missing is said."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from taskmux import RateLimited, StoreDenied, Taskmux
from taskmux.driver import ClaimAsk, Op
from tests.redis_load import new
from tests.servers import redis_of_wheel, redis_program, running, valkey_program

from taskmux_redis import RedisDriver
from taskmux_redis.keys import OF_A_QUEUE

PROGRAMS = {"7": redis_program, "6.2": redis_of_wheel, "valkey": valkey_program}


@pytest.fixture(scope="module", params=PROGRAMS)
def server(request):
    program = PROGRAMS[request.param]()
    if program is None:
        pytest.skip(f"no server of {request.param}")
    with running(program=program) as one:
        yield one


@pytest.fixture
def admin(server):
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
async def denied(server, admin):
    """A driver whose user may do all, and a function that takes commands from it and gives them."""
    admin.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "&*", "+@all")
    driver = RedisDriver(f"redis://app:pw@127.0.0.1:{server.port}")
    await driver.open()
    yield driver, lambda *rights: admin.execute_command("ACL", "SETUSER", "app", *rights)
    await driver.close()


class TestThePublishedOnes:
    async def test_a_worker_with_limits_groups_and_events(self, server, admin):
        mux, ran, heard = Taskmux(server.least_url), [], asyncio.Event()

        @mux.task(name="work", queue="q", backoff="10ms", group="customer")
        async def work(number: int, customer: str = "a") -> int:
            ran.append(number)
            if number == 2 and ran.count(2) == 1:
                raise RateLimited(after="50ms")
            if number == 3 and ran.count(3) == 1:
                raise ValueError(number)
            return number

        async def listen() -> None:
            async for _ in mux.events("q"):
                heard.set()

        async with mux:
            await mux.queue("q").limit(concurrency=3, rate="1000/s")
            await mux.queue("q").limit(group="*", concurrency=2)
            listener = asyncio.create_task(listen())
            async with mux.worker(["q"], concurrency=4):
                jobs = [await work.enqueue(at, customer="ab"[at % 2]) for at in range(8)]
                jobs.append(await work.options(delay="30ms").enqueue(8))
                assert [await job.result(timeout="20s") for job in jobs] == list(range(9))
                await mux.queue("q").pause()
                await mux.queue("q").resume()
            listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listener
            assert (await mux.queue("q").counts()).completed == 9
        assert sorted(ran) == sorted([*range(9), 2, 3])
        assert heard.is_set()
        log = [one["object"] for one in admin.acl_log() if one["username"] == "taskmux"]
        assert {one.partition("|")[0] for one in log} <= {"client"}  # redis-py asks; it need not be


class TestMissingOnes:
    @pytest.mark.parametrize("command", ["zadd", "hset", "incrby", "hmget"])
    async def test_a_refusal_inside_a_script_says_which_is_missing(self, denied, command):
        driver, change = denied
        change(f"-{command}")
        with pytest.raises(StoreDenied, match=rf"lacks the right to .*\+{command}\b") as caught:
            await driver.push(Op("p", 1), [new("q", "a")])
        assert "may be stored all the same" in str(caught.value)
        assert "docs/redis.md" in str(caught.value)

    async def test_of_keys(self, denied):
        driver, change = denied
        await driver.push(Op("p", 1), [new("q", "a", group="g")])
        change("resetkeys", "~{tm}:*", "~{tm:q}:", *(f"~{{tm:q}}:{name}" for name in OF_A_QUEUE))
        with pytest.raises(StoreDenied, match="key patterns"):
            await driver.claim(Op("w", 1), ClaimAsk("q", "w", 1, 1000))

    async def test_a_worker_waits_until_they_are_back(self, server, denied, caplog):
        _, change = denied
        mux = Taskmux(f"redis://app:pw@127.0.0.1:{server.port}")

        @mux.task(name="work", queue="q")
        async def work(number: int) -> int:
            return number

        async with mux, mux.worker(["q"]):
            assert await (await work.enqueue(1)).result(timeout="20s") == 1
            job = await work.options(delay="100ms").enqueue(2)
            change("-zadd")
            async with asyncio.timeout(20):
                while not any("refuses this worker" in one for one in caplog.messages):
                    await asyncio.sleep(0.02)
            change("+zadd")
            assert await job.result(timeout="30s") == 2
        assert not any("damaged" in one for one in caplog.messages)
