"""Lines and limits on Redis: what a claim touches, and what is true when others interfere."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest
import redis
from msgspec.structs import replace
from taskmux.driver import (
    Beat,
    BeatReply,
    ClaimAsk,
    Claimed,
    Command,
    FindAsk,
    LineSettings,
    Op,
    PruneAsk,
    QueueSettings,
    Rate,
    ReclaimAsk,
    State,
    WorkerInfo,
    transition,
)
from tests.redis_load import new
from tests.servers import redis_program, running

from taskmux_redis import RedisDriver

pytestmark = pytest.mark.skipif(redis_program() is None, reason="no redis-server")

GROUPS = 10_000
LONG = 3_600_000


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


class Client:
    """One worker that claims, with operations of its own."""

    def __init__(self, driver, name="w"):
        self.driver, self.name, self.number = driver, name, 0

    async def claim(self, limit=1, lease=LONG) -> Claimed:
        self.number += 1
        ask = ClaimAsk("q", self.name, limit, lease)
        return await self.driver.claim(Op(self.name, self.number), ask)

    async def ids(self, limit=1, lease=LONG):
        return [job.id for job in (await self.claim(limit, lease)).jobs]

    async def apply(self, *transitions):
        self.number += 1
        return await self.driver.apply(Op(self.name, self.number), transitions)


async def fill(driver, jobs):
    for number, first in enumerate(range(0, len(jobs), 500)):
        await driver.push(Op(f"p{time.monotonic_ns()}", number), jobs[first : first + 500])


def calls(store) -> Counter[str]:
    """Return how often each command was called, also by scripts."""
    stats = store.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()})


async def touched(store, claims) -> int:
    """Return how many commands the server ran for what is awaited."""
    before = calls(store)
    await claims
    return (calls(store) - before).total() - 1  # INFO counts itself


KEPT = {
    "paused": (QueueSettings(groups=LineSettings(paused=True)), 0),
    "full": (QueueSettings(groups=LineSettings(concurrency=1)), 1),
    "out of their rate": (QueueSettings(groups=LineSettings(rate=Rate(1, LONG))), 1),
}


class TestBounded:
    @pytest.mark.parametrize("why", KEPT)
    async def test_no_claim_looks_at_parked_lines_again(self, driver, store, why):
        settings, each = KEPT[why]
        settings = replace(settings, lines={"free": LineSettings()})
        assert await driver.put_settings("q", settings)
        await fill(
            driver,
            [new("q", f"{at}-{n}", group=f"g{n}") for at in range(2) for n in range(GROUPS)],
        )
        worker = Client(driver)
        given = 0
        while (claimed := await worker.claim(500)).jobs or claimed.next_in == 0:
            given += len(claimed.jobs)
        assert given == each * GROUPS
        assert claimed.blocked_by == "lines"
        assert store.zcard("{tm:q}:parked") == GROUPS
        await fill(driver, [new("q", f"free-{n}", group="free") for n in range(20)])
        assert await touched(store, worker.claim()) <= 40
        assert await worker.ids(5) == [f"free-{n}" for n in range(1, 6)]

    async def test_one_claim_parks_no_more_than_its_share(self, driver, store):
        assert await driver.put_settings("q", QueueSettings(groups=LineSettings(paused=True)))
        await fill(driver, [new("q", f"{n}", group=f"g{n}") for n in range(1000)])
        claimed = await Client(driver).claim(10)
        assert (list(claimed.jobs), claimed.next_in, claimed.blocked_by) == ([], 0, None)
        assert store.zcard("{tm:q}:parked") == 100

    async def test_a_claim_costs_no_more_with_more_lines(self, driver, store):
        worker = Client(driver)
        found = []
        for groups in (100, GROUPS):
            await fill(driver, [new("q", f"{groups}-{n}", group=f"g{n}") for n in range(groups)])
            found.append(await touched(store, worker.claim(10)))
        assert found[1] <= found[0]

    async def test_new_settings_let_all_come_back(self, driver, store):
        assert await driver.put_settings("q", QueueSettings(groups=LineSettings(paused=True)))
        await fill(driver, [new("q", f"{n}", group=f"g{n:05}") for n in range(GROUPS)])
        worker = Client(driver)
        while (await worker.claim(500)).next_in == 0:
            continue
        assert await driver.put_settings("q", QueueSettings(rev=1))
        assert store.exists("{tm:q}:parked") == 0
        assert await worker.ids(500) == [f"{n}" for n in range(500)]


class TestLeasesAreTheTruth:
    async def test_a_lease_deleted_by_hand_frees_its_place_in_the_queue(self, driver, store):
        assert await driver.put_settings("q", QueueSettings(concurrency=1))
        await fill(driver, [new("q", one) for one in "ab"])
        worker = Client(driver)
        assert await worker.ids(2) == ["a"]
        assert (await worker.claim()).blocked_by == "concurrency"
        store.zrem("{tm:q}:leases", "a")
        assert await worker.ids(2) == ["b"]

    async def test_an_unreadable_job_whose_lease_lapsed_makes_room_and_wakes(self, driver, store):
        assert await driver.put_settings("q", QueueSettings(concurrency=1))
        await fill(driver, [new("q", one) for one in "ab"])
        worker = Client(driver)
        assert await worker.ids(lease=1) == ["a"]
        store.hset("{tm:q}:live", "a", "garbage")
        while await driver.wait(["q"], 0.05):
            continue  # what the jobs brought with them
        assert (await worker.claim()).blocked_by == "concurrency"
        waiting = asyncio.create_task(driver.wait(["q"], 30))
        number = 0
        while store.zcard("{tm:q}:leases"):
            number += 1
            ask = ReclaimAsk("q", "rescuer", 10, LONG)
            assert await driver.reclaim(Op("rescue", number), ask) == []
        assert await asyncio.wait_for(waiting, 20)
        assert await worker.ids() == ["b"]

    async def test_a_lease_deleted_by_hand_frees_its_place_in_its_line(self, driver, store):
        settings = QueueSettings(groups=LineSettings(concurrency=1))
        assert await driver.put_settings("q", settings)
        await fill(driver, [new("q", one, group="g") for one in "abc"])
        worker = Client(driver)
        assert await worker.ids() == ["a"]
        store.zrem("{tm:q}:leases", "a")
        assert await worker.ids() == ["b"]

    async def test_so_it_does_once_the_line_is_parked(self, driver, store):
        settings = QueueSettings(groups=LineSettings(concurrency=1))
        assert await driver.put_settings("q", settings)
        await fill(driver, [new("q", one, group="g") for one in "ab"])
        worker = Client(driver)
        assert await worker.ids(2, lease=1) == ["a"]
        assert (await worker.claim()).blocked_by == "lines"
        store.zrem("{tm:q}:leases", "a")
        found = []
        while not found:  # it is counted again when the lease would have ended, in a second or so
            found = await worker.ids(2)
        assert found == ["b"]

    async def test_of_a_long_line_some_are_counted_at_a_time(self, driver, store):
        settings = QueueSettings(groups=LineSettings(concurrency=100))
        assert await driver.put_settings("q", settings)
        await fill(driver, [new("q", f"{n:03}", group="g") for n in range(150)])
        worker = Client(driver)
        assert len(await worker.ids(100)) == 100
        store.zrem("{tm:q}:leases", *(f"{n:03}" for n in range(90, 100)))
        while store.zcard("{tm:q}:leases") < 100:  # every look checks some, and the next others
            store.zadd("{tm:q}:parked", {"g": -1}, xx=True)
            await worker.claim(10)
        assert store.zcard("{tm:q}:running:g") == 100


class TestAtOnce:
    async def test_clients_together_keep_concurrency_and_rate(self, driver):
        rate = Rate(20, 200, 5)
        settings = QueueSettings(concurrency=4, rate=rate, groups=LineSettings(concurrency=2))
        assert await driver.put_settings("q", settings)
        await fill(driver, [new("q", f"{n}", group=f"g{n % 3}") for n in range(60)])
        active: Counter[str] = Counter()
        starts: list[int] = []

        async def work(name):
            one = driver.fork()
            await one.open()
            worker = Client(one, name)
            while len(starts) < 60:
                claimed = await worker.claim(3)
                starts.extend([claimed.now] * len(claimed.jobs))
                active.update(job.group for job in claimed.jobs)
                assert active.total() <= 4
                assert not active or max(active.values()) <= 2
                for job in claimed.jobs:
                    active[job.group] -= 1  # before the store knows, so never too late
                    await worker.apply(transition.complete(job, None))
            await one.close()

        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(work(f"w{number}"))
        assert (await driver.counts("q"))[State.COMPLETED] == 60
        most = max(sum(at <= other < at + rate.per for other in starts) for at in starts)
        assert most <= rate.count + rate.burst


class TestStored:
    async def test_meters_go_by_themselves(self, driver, store):
        settings = QueueSettings(rate=Rate(1, 1, 99), groups=LineSettings(rate=Rate(10, 1)))
        assert await driver.put_settings("q", settings)
        await fill(driver, [new("q", f"{n}", group=f"g{n}") for n in range(50)])
        await Client(driver).claim(50)
        gates = list(store.scan_iter("{tm:q}:gate*", count=1000))
        assert len(gates) == 51
        assert all(0 < store.ttl(gate) <= 120 for gate in gates)

    async def test_nothing_of_a_group_stays(self, driver, store):
        await fill(driver, [new("q", f"{n}", group=f"g{n}") for n in range(50)])
        worker = Client(driver)
        jobs = (await worker.claim(50)).jobs
        await worker.apply(*(transition.complete(job, None) for job in jobs))
        left = {name.split(b"}:")[1] for name in store.scan_iter("{tm:q}:*", count=1000)}
        assert left == {b"work", b"live", b"completed", b"ages", b"age:86400000", b"ops"} | {
            *(b"sequence", b"events", b"numbers")
        }

    async def test_waiting_jobs_are_found_in_order_over_all_lines(self, driver):
        names = [None, "a", "b", None, "a"]
        jobs = [new("q", f"{n:02}", group=names[n % 5], priority=100 + n % 7) for n in range(40)]
        await fill(driver, jobs)
        for newest in (False, True):
            found: list[str] = []
            cursor = None
            while True:
                ask = FindAsk(queue="q", state=State.WAITING, limit=3, cursor=cursor, newest=newest)
                page = await driver.find(ask)
                found += [job.id for job in page.jobs]
                cursor = page.cursor
                if cursor is None:
                    break
            expected = sorted((new.job.priority, new.job.id) for new in jobs)
            assert found == [one for _, one in (reversed(expected) if newest else expected)]

    async def test_jobs_stored_before_there_were_lines_are_served(self, driver, store):
        await fill(driver, [new("q", one) for one in "ab"])
        store.delete("{tm:q}:ring")  # as an older version left it
        worker = Client(driver)
        await driver.prune(PruneAsk("q"))
        assert await worker.ids(2) == ["a", "b"]

    async def test_an_unreadable_job_of_a_group_leaves_room_for_others(self, driver, store):
        settings = QueueSettings(groups=LineSettings(concurrency=1))
        assert await driver.put_settings("q", settings)
        await fill(driver, [new("q", one, group="g") for one in "abc"])
        store.hset("{tm:q}:work", "a", b"garbage")
        store.hset("{tm:q}:work", "b", b"1" * 23 + b"001g\xff\xff")
        worker = Client(driver)
        found = []
        while not found:
            found = await worker.ids(2)
        assert found == ["c"]
        assert set(store.hkeys("{tm:q}:corrupt")) == {b"a", b"b"}
        assert store.exists("{tm:q}:grouped", "{tm:q}:line:g", "{tm:q}:ring") == 0

    async def test_an_unreadable_job_lets_no_line_exceed_its_limit(self, driver, store):
        settings = QueueSettings(groups=LineSettings(concurrency=1))
        assert await driver.put_settings("q", settings)
        jobs = [new("q", name, group=name[0]) for name in ("a1", "a2", "a3", "b1", "c1")]
        await fill(driver, jobs)
        store.hdel("{tm:q}:work", "b1")
        assert await Client(driver).ids(3) == ["a1", "c1"]
        assert await Client(driver, "other").ids(3) == []

    async def test_many_lines_have_settings(self, driver, store):
        lines = {f"g{number}": LineSettings(paused=True) for number in range(5000)}
        assert await driver.put_settings("q", QueueSettings(lines=lines))
        assert len((await driver.settings("q")).lines) == 5000


class TestTold:
    async def test_a_repeated_beat_is_told_the_same(self, driver, store, monkeypatch):
        about = WorkerInfo(id="w", host="h", pid=1, queues=(), tasks=(), concurrency=1)
        beat = Beat(about, (), LONG)
        monkeypatch.setattr("taskmux_redis.presence._token", lambda: "0" * 16)
        await driver.beat(beat)
        for _ in range(2):
            assert await driver.tell("w", Command("pause"))
        for _ in range(2):
            assert await driver.beat(beat) == BeatReply([], [Command("pause")])
        assert 0 < store.ttl("{tm}:given:w") <= LONG / 1000
