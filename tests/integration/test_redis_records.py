"""What the Redis driver stores: sizes, foreign data, scripts and their contracts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis
from msgspec.structs import replace
from taskmux.driver import (
    ApplyStatus,
    BlockedCause,
    ClaimAsk,
    CorruptRecord,
    NewJob,
    Op,
    ReclaimAsk,
    Ref,
    State,
    StoreIncompatible,
    transition,
)
from tests.redis_load import new
from tests.servers import redis_program, running

import taskmux_redis
from taskmux_redis import RedisDriver, scripts

LUA = Path(taskmux_redis.__file__).parent / "lua"
needs_server = pytest.mark.skipif(redis_program() is None, reason="no redis-server")


@pytest.fixture
def store():
    with running() as server, redis.Redis(port=server.port) as client:
        yield client


@pytest.fixture
async def driver(store):
    port = store.connection_pool.connection_kwargs["port"]
    one = RedisDriver(f"redis://127.0.0.1:{port}")
    await one.open()
    yield one
    await one.close()


async def claim(driver, number, limit=10):
    return (await driver.claim(Op("w", number), ClaimAsk("q", "w", limit, 30_000))).jobs


@needs_server
class TestStored:
    async def test_a_job_left_in_no_index_by_a_key_of_another_type_is_held_and_let_go(
        self, driver, store
    ):
        await driver.push(Op("p", 1), [new("q", "job")])
        store.set("{tm:q}:blocked", "of somebody else")
        hold = [transition.hold(Ref("q", "job"))]
        with pytest.raises(CorruptRecord, match="blocked"):
            await driver.apply(Op("p", 2), hold)
        store.delete("{tm:q}:blocked")
        assert await claim(driver, 1) == []
        let_go = [transition.unblock(Ref("q", "job"), BlockedCause.HOLD)]
        for number, step in enumerate([hold, let_go], 3):
            (answer,) = await driver.apply(Op("p", number), step)
            assert answer.status is ApplyStatus.APPLIED
        assert [job.id for job in await claim(driver, 2)] == ["job"]

    async def test_large_results_together_may_be_larger_than_an_argument_may_be(self):
        with running("--proto-max-bulk-len", "1mb") as server:
            driver = RedisDriver(server.url)
            await driver.open()
            await driver.push(Op("p", 1), [new("q", f"{at}") for at in range(20)])
            jobs = await claim(driver, 1, limit=20)
            results = [b'"%b"' % (b"%d" % at * 100_000) for at in range(20)]
            ends = [transition.complete(*one) for one in zip(jobs, results, strict=True)]
            await driver.apply(Op("w", 2), ends)
            found = await driver.get([job.ref for job in jobs])
            assert [job.result for job in found if job] == results
            await driver.close()

    async def test_a_waiting_job_is_small(self, driver, store):
        await driver.push(Op("p", 0), [new("q", "first")])
        before = store.info("memory")["used_memory"]
        for number in range(1, 11):
            ids = [f"{number:04}{at:04}0123456789abcd" for at in range(1000)]
            await driver.push(Op("p", number), [new("q", one, b"x" * 100) for one in ids])
        grown = store.info("memory")["used_memory"] - before
        assert grown / 10_000 <= 450

    async def test_no_client_library_is_needed_to_look(self, driver, store):
        await driver.push(Op("p", 1), [new("q", "a")])
        await claim(driver, 1)
        live = store.hget("{tm:q}:live", "a")
        assert live.startswith(b"a000")
        assert store.hkeys("{tm:q}:live") == [b"a"]

    async def test_unreadable_jobs_are_set_aside_and_the_queue_goes_on(self, driver, store):
        await driver.push(Op("p", 1), [new("q", one) for one in "abcdef"])
        store.hset("{tm:q}:work", "a", b"garbage")
        store.hset("{tm:q}:work", "b", b"1" * 23 + b"\xff\xff")
        store.hset("{tm:q}:live", "c", b"nonsense")
        store.hdel("{tm:q}:work", "d")
        store.zadd("{tm:q}:ready", {"foreign": 1})
        jobs = await claim(driver, 1)
        assert [job.id for job in jobs] == ["e", "f"]
        await driver.apply(Op("w", 2), [transition.complete(job, None) for job in jobs])
        counts = await driver.counts("q")
        assert counts == dict.fromkeys(State, 0) | {State.COMPLETED: 2}
        for one in "abc":
            with pytest.raises(CorruptRecord, match=f"q/{one}"):
                await driver.get([Ref("q", one)])
        assert set(store.hkeys("{tm:q}:corrupt")) == {b"a", b"b", b"c", b"d", b"foreign"}

    async def test_an_unreadable_delayed_job_is_set_aside(self, driver, store):
        delayed = [NewJob(replace(new("q", one).job, state=State.DELAYED), 1) for one in "ab"]
        await driver.push(Op("p", 1), delayed)
        store.hset("{tm:q}:live", "a", b"nonsense")
        number = 0
        while not (jobs := await claim(driver, number)):
            number += 1
        assert [job.id for job in jobs] == ["b"]
        assert store.hkeys("{tm:q}:corrupt") == [b"a"]
        assert store.zcard("{tm:q}:delayed") == 0

    @pytest.mark.parametrize("damage", [b"nonsense", b"a010" + b"x" * 40, b"w", b""])
    async def test_an_unreadable_lease_is_not_reclaimed(self, driver, store, damage):
        await driver.push(Op("p", 1), [new("q", "a"), new("q", "b")])
        await driver.claim(Op("w", 1), ClaimAsk("q", "w", 2, 1))
        store.hset("{tm:q}:live", "a", damage)
        number, jobs = 0, []
        while not jobs:
            number += 1
            jobs = await driver.reclaim(Op("r", number), ReclaimAsk("q", "r", 10, 60_000))
        assert [job.id for job in jobs] == ["b"]
        assert (await driver.counts("q"))[State.ACTIVE] == 1
        gone = transition.cancel(Ref("q", "a"), jobs[0].policy.cancelled)
        await driver.apply(Op("w", 1), [gone])

    async def test_a_key_of_another_type_is_named_as_foreign(self, driver, store):
        store.set("{tm:q}:ready", "foreign")
        with pytest.raises(CorruptRecord, match="prefix"):
            await driver.push(Op("p", 1), [new("q", "a")])

    async def test_an_older_operation_that_arrives_late_changes_nothing(self, driver):
        await driver.push(Op("p", 2), [new("q", "a")])
        with pytest.raises(StoreIncompatible, match="older"):
            await driver.push(Op("p", 1), [new("q", "b")])
        assert (await driver.counts("q"))[State.WAITING] == 1

    async def test_the_marker_and_the_memory_stay_small(self, driver, store):
        for number in range(1, 50):
            await driver.push(Op("p", number), [new("q", f"{number}-{at}") for at in range(50)])
        assert store.zcard("{tm:q}:marker") <= 16
        assert store.hlen("{tm:q}:ops") == 1


class TestScripts:
    @pytest.mark.parametrize("path", sorted(LUA.glob("*.lua")), ids=lambda path: path.stem)
    def test_every_script_has_a_contract(self, path):
        script = scripts.script(path.stem)
        assert re.match(r"-- [A-Z].*\.\n--\n-- KEYS: ", path.read_text())
        assert script.keys
        for name in script.keys:
            assert re.search(rf"\b{name}\b", script.source.split("\n", 1)[1]) or name == "base"

    @pytest.mark.parametrize("path", sorted(LUA.rglob("*.lua")), ids=lambda path: path.stem)
    def test_no_payload_is_decoded_and_no_number_is_joined(self, path):
        text = path.read_text()
        assert "cmsgpack" not in text
        assert "tostring" not in re.sub(r"--.*", "", text)

    def test_headers_give_names(self):
        script = scripts.script("extend")
        assert script.keys == ("live", "leases")
        assert script.arguments == ("lease",)
        assert script.source.startswith(
            "local live, leases = KEYS[1], KEYS[2]\nlocal lease, items = ARGV[1], 1\n"
        )

    def test_a_header_may_go_on_for_lines(self):
        assert scripts.script("apply").keys[-1] == "numbers"
        assert "counted" in scripts.script("apply").keys
