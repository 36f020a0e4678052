"""A store that was emptied, and keys that somebody else wrote: a queue's trouble is its own."""

from __future__ import annotations

import asyncio
import logging

import pytest
import redis
from msgspec.structs import replace
from taskmux import Taskmux
from taskmux.driver import (
    Beat,
    ClaimAsk,
    Command,
    CorruptRecord,
    Dedup,
    FindAsk,
    HeldLease,
    LeaseStatus,
    NewJob,
    Note,
    Op,
    PruneAsk,
    PushStatus,
    QueueSettings,
    ReclaimAsk,
    Ref,
    State,
    WorkerInfo,
    transition,
)
from tests.redis_load import new
from tests.servers import redis_program, running

from taskmux_redis import RedisDriver
from taskmux_redis.keys import TYPES

pytestmark = pytest.mark.skipif(redis_program() is None, reason="no redis-server")
NOTE = Note(ref=Ref("q", "a"), fence=1, progress=b"1")
ABOUT = WorkerInfo(id="w", host="h", pid=1, queues=(), tasks=(), concurrency=1)


@pytest.fixture(scope="module")
def server():
    with running() as one:
        yield one


@pytest.fixture
def admin(server):
    with redis.Redis(port=server.port) as client:
        client.flushall()
        yield client


@pytest.fixture
async def driver(server, admin):
    one = RedisDriver(server.url)
    await one.open()
    yield one
    await one.close()


def warnings(caplog) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


class TestEmptied:
    async def test_the_queue_is_listed_again_and_the_log_says_so_once(self, driver, admin, caplog):
        for number, queue in enumerate(("a", "b")):
            await driver.push(Op("p", number), [new(queue, "job")])
        fork = driver.fork()
        await fork.open()
        admin.flushall()
        for number, queue in enumerate(("a", "b"), 2):
            await fork.push(Op("p", number), [new(queue, "job")])
        await driver.push(Op("p", 4), [new("a", "job2")])
        assert await driver.queues() == ["a", "b"]
        (told,) = warnings(caplog)
        assert "was emptied" in told
        await fork.close()

    async def test_so_it_is_of_a_queue_that_others_began(self, server, driver, admin):
        other = RedisDriver(server.url)
        await other.open()
        await other.push(Op("o", 1), [new("q", "job")])
        await other.close()
        await driver.push(Op("p", 1), [new("q", "job2")])
        admin.flushall()
        await driver.push(Op("p", 2), [new("q", "job")])
        assert await driver.queues() == ["q"]

    async def test_a_late_settlement_does_not_hide_it(self, driver, admin):
        await driver.push(Op("p", 1), [new("q", "job")])
        (job,) = (await driver.claim(Op("w", 1), ClaimAsk("q", "w", 1, 60_000))).jobs
        admin.flushall()
        await driver.apply(Op("w", 2), [transition.complete(job, b"1")])
        await driver.push(Op("p", 2), [new("q", "job")])
        assert await driver.queues() == ["q"]

    async def test_settings_list_the_queue_again(self, driver, admin):
        await driver.push(Op("p", 1), [new("q", "job")])
        admin.flushall()
        assert await driver.put_settings("q", QueueSettings(paused=True))
        assert await driver.queues() == ["q"]

    async def test_a_worker_lists_the_queues_it_prunes(self, driver, admin):
        await driver.push(Op("p", 1), [new("q", "job")])
        admin.srem("{tm}:queues", "q")  # as a producer leaves it that died between the two writes
        await driver.prune(PruneAsk("q"))
        assert await driver.queues() == ["q"]

    async def test_a_key_has_one_owner_again(self, driver, admin):
        one = NewJob(replace(new("q", "one").job, dedup=Dedup("k")))
        await driver.push(Op("p", 1), [one])
        admin.flushall()
        statuses = []
        for number in range(2, 6):
            job = NewJob(replace(one.job, id=f"{number}"))
            statuses += [answer.status for answer in await driver.push(Op("p", number), [job])]
        assert statuses == [PushStatus.CREATED, *[PushStatus.DEDUPLICATED] * 3]

    async def test_a_heartbeat_notices_it(self, driver, admin, caplog):
        await driver.push(Op("p", 1), [new("q", "job")])
        for _ in range(3):
            await driver.beat(Beat(ABOUT, (), 60_000))
        assert warnings(caplog) == []
        admin.flushall()
        for _ in range(3):
            await driver.beat(Beat(ABOUT, (), 60_000))
        assert len(warnings(caplog)) == 1
        await driver.push(Op("p", 2), [new("q", "job")])
        assert len(warnings(caplog)) == 1
        assert await driver.queues() == ["q"]
        assert [worker.id for worker in await driver.workers()] == ["w"]

    async def test_nothing_is_told_where_nothing_was_lost(self, driver, admin, caplog):
        op = Op("p", 1)
        for _ in range(2):  # the second is a repeat
            await driver.push(op, [new("q", "job")])
        await driver.apply(Op("a", 1), [transition.remove(Ref("q", "job"))])
        await driver.push(Op("p", 2), [new("q", "job")])
        await driver.put_settings("r", QueueSettings(paused=True))
        await driver.apply(Op("a", 2), [transition.remove(Ref("r", "job"))])
        await driver.push(Op("p", 3), [new("r", "job")])
        await driver.beat(Beat(ABOUT, (), 1))
        await driver.beat(Beat(ABOUT, (), 60_000, last=True))
        await driver.beat(Beat(ABOUT, (), 60_000))
        assert warnings(caplog) == []

    async def test_a_running_worker_goes_on_and_new_ones_open(self, server, admin, caplog):
        async with Taskmux(server.url) as mux:
            ran = asyncio.Event()

            @mux.task()
            async def work(n: int) -> int:
                ran.set()
                return n

            async with mux.worker():
                assert await (await work.enqueue(1)).result(timeout="20s") == 1
                admin.flushall()
                assert await (await work.enqueue(2)).result(timeout="20s") == 2
                async with mux.worker():
                    assert await (await work.enqueue(3)).result(timeout="20s") == 3
        told = [text for text in warnings(caplog) if "was emptied" in text]
        assert len(told) == 1
        assert admin.smembers("{tm}:queues") == {b"default"}


VERBS = {
    "push": lambda driver, n: driver.push(Op("p", n), [new("q", "c", dedup=Dedup("k"))]),
    "claim": lambda driver, n: driver.claim(Op("w", n), ClaimAsk("q", "w", 1, 60_000)),
    "apply": lambda driver, n: driver.apply(Op("w", n), [transition.promote(Ref("q", "a"))]),
    "annotate": lambda driver, n: driver.annotate([NOTE]),
    "extend": lambda driver, n: driver.extend([HeldLease(Ref("q", "a"), 1)], 1000),
    "reclaim": lambda driver, n: driver.reclaim(Op("w", n), ReclaimAsk("q", "w", 1, 1000)),
    "get": lambda driver, n: driver.get([Ref("q", "a")]),
    "find": lambda driver, n: driver.find(FindAsk(queue="q", state=State.WAITING)),
    "counts": lambda driver, n: driver.counts("q"),
    "settings": lambda driver, n: driver.settings("q"),
    "put_settings": lambda driver, n: driver.put_settings("q", QueueSettings(paused=True)),
    "prune": lambda driver, n: driver.prune(PruneAsk("q")),
    "standing": lambda driver, n: driver.standing(Ref("q", "a")),
    "wait": lambda driver, n: driver.wait(["q"], 0.01),
    "beat": lambda driver, n: driver.beat(Beat(ABOUT, (HeldLease(Ref("q", "a"), 1),), 60_000)),
}
OF_A_QUEUE = ("work", "live", "ready", "grouped", "ring", "parked", "delayed", "blocked", "leases")
OF_A_QUEUE += ("completed", "dedup", "ops", "settings", "marker", "sequence", "counted", "ages")


class TestDamaged:
    @pytest.mark.parametrize("name", OF_A_QUEUE)
    async def test_a_key_of_another_type_stops_its_queue_only(self, driver, admin, name):
        await driver.push(Op("p", 1), [new("q", "a"), new("other", "b")])
        key = f"{{tm:q}}:{name}"
        admin.delete(key)
        damage = admin.set if TYPES[name] != "string" else admin.rpush
        damage(key, "foreign")
        refusals = []
        for number, verb in enumerate(VERBS.values(), 10):
            try:
                await verb(driver, number)
            except CorruptRecord as error:
                refusals.append(str(error))
        assert refusals
        assert all("'q'" in text and repr(key) in text for text in refusals)
        assert await driver.queues() == ["other", "q"]
        assert "w" in {worker.id for worker in await driver.workers()}
        await driver.push(Op("p", 2), [new("other", "c")])
        assert await driver.wait(["q", "other"], 10)
        assert len((await driver.claim(Op("w", 2), ClaimAsk("other", "w", 5, 60_000))).jobs) == 2

    async def test_a_wait_over_several_queues_is_woken_by_the_sound_ones(self, driver, admin):
        admin.set("{tm:q}:marker", "foreign")
        waiting = asyncio.create_task(driver.wait(["q", "other"], 20))
        while not any(client["cmd"] == "bzpopmin" for client in admin.client_list()):
            await asyncio.sleep(0.01)
        await driver.push(Op("p", 1), [new("other", "c")])
        assert await waiting
        with pytest.raises(CorruptRecord, match="marker"):
            await driver.wait(["q"], 1)

    async def test_other_queues_leases_are_renewed_and_their_jobs_cancelled(self, driver, admin):
        for number, queue in enumerate(("q", "other")):
            await driver.push(Op("p", number), [new(queue, "a")])
        asks = [ClaimAsk(queue, "w", 1, 60_000) for queue in ("q", "other")]
        jobs = [(await driver.claim(Op("w", n), ask)).jobs[0] for n, ask in enumerate(asks)]
        held = [HeldLease(job.ref, job.fence) for job in jobs]
        await driver.apply(Op("w", 3), [transition.cancel(jobs[1].ref, jobs[1].policy.cancelled)])
        admin.delete("{tm:q}:live")
        admin.set("{tm:q}:live", "foreign")
        with pytest.raises(CorruptRecord, match="live"):
            await driver.extend(held, 120_000)
        (renewed,) = await driver.get([jobs[1].ref])
        assert renewed.lease_until > jobs[1].lease_until + 30_000
        assert [one.status for one in await driver.extend(held[1:], 60_000)] == [LeaseStatus.CANCEL]
        assert (await driver.beat(Beat(ABOUT, held, 60_000))).cancel == [held[1]]
        with pytest.raises(CorruptRecord, match="live"):
            await driver.extend(held[:1], 60_000)

    async def test_unreadable_settings_name_queue_and_key(self, driver, admin):
        await driver.put_settings("q", QueueSettings(paused=True))
        admin.hset("{tm:q}:settings", "data", "{nonsense")
        with pytest.raises(CorruptRecord, match=r"'q'.*'\{tm:q\}:settings'"):
            await driver.settings("q")
        assert await driver.settings("other") == QueueSettings()

    async def test_a_list_of_queues_of_another_type_is_named(self, driver, admin):
        admin.set("{tm}:queues", "foreign")
        for verb in (driver.queues(), driver.push(Op("p", 1), [new("q", "a")])):
            with pytest.raises(CorruptRecord, match=r"'\{tm\}:queues'"):
                await verb

    async def test_an_unreadable_worker_leaves_the_others(self, driver, admin):
        await driver.beat(Beat(ABOUT, (), 60_000))
        await driver.beat(Beat(replace(ABOUT, id="v"), (), 60_000))
        admin.hset("{tm}:about", "v", "nonsense")
        admin.zadd("{tm}:workers", {"foreign": 4 * 10**12})
        assert [worker.id for worker in await driver.workers()] == ["w"]

    async def test_an_unreadable_command_leaves_the_others(self, driver, admin):
        await driver.beat(Beat(ABOUT, (), 60_000))
        admin.rpush("{tm}:told:w", "x" * 16 + "nonsense")
        stop = Command("pause")
        assert await driver.tell("w", stop)
        assert (await driver.beat(Beat(ABOUT, (), 60_000))).commands == [stop]
