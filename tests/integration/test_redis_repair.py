"""A script that fails half-way loses nothing: jobs in no index go back where their records say."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from msgspec.structs import replace
from taskmux import Taskmux
from taskmux.driver import (
    TERMINAL,
    BlockedCause,
    Changes,
    ClaimAsk,
    CorruptRecord,
    Dedup,
    NewJob,
    Op,
    PruneAsk,
    ReclaimAsk,
    Ref,
    State,
    StoreError,
    transition,
)
from tests.conformance.test_redis import leaks
from tests.redis_load import new
from tests.servers import redis_of_wheel, redis_program, running, valkey_program

from taskmux_redis import RedisDriver
from taskmux_redis.keys import OF_A_QUEUE

PROGRAMS = {"7": redis_program, "6.2": redis_of_wheel, "valkey": valkey_program}
WRITES = ("zadd", "zrem", "hset", "hdel", "incrby", "rpush", "zpopmin", "del", "set", "incr")
READS = ("zscore", "exists", "hget", "hmget", "zrange", "zcard")


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
        client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "&*", "+@all")
        yield client


@contextlib.asynccontextmanager
async def driver_of(server):
    """A driver that knows nothing of what others met."""
    one = RedisDriver(f"redis://app:pw@127.0.0.1:{server.port}")
    await one.open()
    yield one
    await one.close()


class Trouble:
    """Jobs in every state, verbs that all write, and a count of what was acknowledged."""

    def __init__(self, driver: RedisDriver) -> None:
        self.driver, self.number, self.acked = driver, 0, set()

    def op(self) -> Op:
        self.number += 1
        return Op("t", self.number)

    async def push(self, *jobs: NewJob) -> None:
        answers = await self.driver.push(self.op(), jobs)
        self.acked |= {one.id for one in answers}

    async def claim(self, limit: int, lease: int = 60_000):
        return (await self.driver.claim(self.op(), ClaimAsk("q", "w", limit, lease))).jobs

    async def prepare(self) -> None:
        """Store jobs in every state, some of them in groups, with keys, and followed by others."""
        latest = Dedup("k", latest=True)
        await self.push(*(new("q", f"run{at}", group="g" if at % 2 else None) for at in range(6)))
        await self.push(new("q", "owner", dedup=latest))
        self.running = await self.claim(7)
        await self.push(new("q", "follower", dedup=latest), new("q", "keyed", dedup=Dedup("l")))
        await self.push(*(new("q", f"wait{at}", group="g" if at % 2 else None) for at in range(4)))
        delayed = [replace(new("q", f"late{at}").job, state=State.DELAYED) for at in range(4)]
        await self.push(*(NewJob(job, 1 if at % 2 else 10**7) for at, job in enumerate(delayed)))
        held = replace(new("q", "held").job, state=State.BLOCKED, cause=BlockedCause.HOLD)
        await self.push(NewJob(held))

    def verbs(self):
        """Return what workers and producers do, each of which may be refused half-way."""
        by_id = {job.id: job for job in self.running}
        keep = by_id["run0"].policy.completed
        changes = [
            [transition.complete(by_id["run0"], b"1"), transition.release(by_id["run1"])],
            [transition.complete(by_id["owner"], b"1")],
            [transition.again(by_id["run2"], Changes(), 1)],
            [transition.hold(Ref("q", "wait0")), transition.promote(Ref("q", "late0"))],
            [transition.cancel(Ref("q", "wait1"), keep), transition.remove(Ref("q", "wait2"))],
            [transition.unblock(Ref("q", "held"), BlockedCause.HOLD)],
        ]
        late = replace(new("q", "new-late").job, state=State.DELAYED)
        pushes = [
            [new("q", "new", group="h"), NewJob(late, 1)],
            [new("q", "new-k", dedup=Dedup("m"))],
        ]
        yield from (lambda one=one: self.push(*one) for one in pushes)
        yield from (lambda one=one: self.driver.apply(self.op(), one) for one in changes)
        yield lambda: self.claim(3, lease=1)
        yield lambda: self.driver.reclaim(self.op(), ReclaimAsk("q", "w", 10, 1))
        yield lambda: self.driver.prune(PruneAsk("q"))

    async def meet(self) -> int:
        """Try all verbs; return how many were refused."""
        refused = 0
        for verb in self.verbs():
            try:
                await verb()
            except StoreError:
                refused += 1
        return refused


async def all_run(driver: RedisDriver, admin, acked: set[str]) -> None:
    """Run what there is, and check that each acknowledged job comes to its end."""
    refs, number = [Ref("q", one) for one in sorted(acked)], 0
    while await unfinished(driver):
        number += 1
        assert number < 10, "some job never runs"
        await hurry(admin)
        let_go = [transition.unblock(ref, BlockedCause.HOLD) for ref in refs]
        await driver.apply(Op("p", number), let_go)
        await driver.apply(Op("o", number), [transition.promote(ref) for ref in refs])
        asked = await driver.claim(Op("v", number), ClaimAsk("q", "v", 50, 60_000))
        taken = await driver.reclaim(Op("v", number), ReclaimAsk("q", "v", 50, 60_000))
        ends = [transition.complete(job, b"1") for job in (*asked.jobs, *taken)]
        await driver.apply(Op("v", number), ends)
    assert leaks(admin) == []


async def unfinished(driver: RedisDriver) -> int:
    counts = await driver.counts("q")
    return sum(counts[state] for state in State if state not in TERMINAL)


async def hurry(admin) -> None:
    """Let every lease end now."""
    for one in admin.zrange("{tm:q}:leases", 0, -1):
        admin.zadd("{tm:q}:leases", {one: 1})


class TestWhateverFails:
    @pytest.mark.parametrize("command", [*WRITES, *READS])
    async def test_a_command_that_is_refused_for_a_while(self, server, admin, command):
        async with driver_of(server) as driver:
            trouble = Trouble(driver)
            await trouble.prepare()
            admin.execute_command("ACL", "SETUSER", "app", f"-{command}")
            assert await trouble.meet() or command in {"incr", "set"}
            admin.execute_command("ACL", "SETUSER", "app", f"+{command}")
        async with driver_of(server) as other:  # the one that saw it is gone
            await other.prune(PruneAsk("q"))
            await hurry(admin)
            await all_run(other, admin, trouble.acked)

    @pytest.mark.parametrize("name", OF_A_QUEUE)
    async def test_a_key_that_is_another_for_a_while(self, server, admin, name):
        key = f"{{tm:q}}:{name}"
        async with driver_of(server) as driver:
            trouble = Trouble(driver)
            await trouble.prepare()
            existed = admin.exists(key) and admin.rename(key, "aside")
            admin.xadd(key, {"foreign": "1"}) if name != "events" else admin.set(key, "foreign")
            await trouble.meet()
            admin.rename("aside", key) if existed else admin.delete(key)
        async with driver_of(server) as other:
            await other.prune(PruneAsk("q"))
            await hurry(admin)
            await all_run(other, admin, trouble.acked)


def repaired(caplog) -> list[str]:
    return [one for one in caplog.messages if "was repaired" in one]


class TestWalks:
    async def test_a_large_queue_is_whole_again_after_one_turn(self, server, admin, caplog):
        async with driver_of(server) as driver:
            names = [f"j{at:04}" for at in range(3000)]
            await driver.push(Op("p", 1), [new("q", one) for one in names])
            await driver.push(Op("p", 2), [new("q", f"g{at}", group="g") for at in range(3)])
            admin.zpopmin("{tm:q}:ready", 700)
            admin.zadd("{tm:q}:completed", dict.fromkeys(["j0001", "nobody", "j2999"], 1))
            admin.delete("{tm:q}:ring")
            standing = await driver.standing(Ref("q", "g0"))
            assert standing is not None
            assert standing.lines == 1  # its own, at least
            await driver.prune(PruneAsk("q"))
            assert leaks(admin) == []
            claimed = await driver.claim(Op("w", 1), ClaimAsk("q", "w", 3003, 60_000))
            common = [job.id for job in claimed.jobs if job.group is None]
            assert (common, len(claimed.jobs)) == (names, 3003)
        (told,) = repaired(caplog)
        assert "700 jobs" in told
        assert "3 entries" in told
        assert "1 lines" in told

    async def test_a_call_looks_at_few_of_a_large_queue(self, server, admin):
        async with driver_of(server) as driver:
            await driver.push(Op("p", 1), [new("q", f"{at}") for at in range(3000)])
            calls = await script_calls(admin, driver.prune(PruneAsk("q")))
            assert calls == 2  # one prunes, one looks at the next few
            admin.zpopmin("{tm:q}:ready", 1)
            assert await script_calls(admin, driver.prune(PruneAsk("q"))) > 10

    async def test_what_is_set_aside_is_left_there(self, server, admin, caplog):
        async with driver_of(server) as driver:
            await driver.push(Op("p", 1), [new("q", f"{at}") for at in range(1000)])
            for at, garbage in enumerate([b"garbage", b"1" * 23 + b"\xff\xff"]):
                admin.hset("{tm:q}:work", str(at), garbage)
            admin.hset("{tm:q}:live", "2", b"nonsense")
            claimed = await driver.claim(Op("w", 1), ClaimAsk("q", "w", 5, 60_000))
            assert {job.id for job in claimed.jobs}.isdisjoint({"0", "1", "2"})
            await driver.prune(PruneAsk("q"))
            assert await script_calls(admin, driver.prune(PruneAsk("q"))) == 2
            for _ in range(10):
                await driver.prune(PruneAsk("q"))
            assert set(admin.hkeys("{tm:q}:corrupt")) == {b"0", b"1", b"2"}
        assert repaired(caplog) == []

    async def test_who_met_the_failure_repairs_before_the_next_answer(self, server, admin, caplog):
        async with driver_of(server) as driver:
            await driver.push(Op("p", 1), [new("q", "first")])
            admin.execute_command("ACL", "SETUSER", "app", "-zadd")
            with pytest.raises(StoreError, match="stored all the same"):
                await driver.push(Op("p", 2), [new("q", "ghost", group="g")])
            admin.execute_command("ACL", "SETUSER", "app", "+zadd")
            (answer,) = await driver.push(Op("p", 3), [new("q", "ghost", group="g")])
            assert answer.id == "ghost"
            assert leaks(admin) == []
        assert len(repaired(caplog)) == 1

    async def test_word_is_left_for_others(self, server, admin):
        """A line without a turn changes no size, and 3,000 records are not looked at each turn."""
        async with driver_of(server) as driver:
            await driver.push(Op("p", 1), [new("q", f"{at}") for at in range(3000)])
            admin.rename("{tm:q}:ring", "aside")
            admin.set("{tm:q}:ring", "foreign")
            with pytest.raises(CorruptRecord, match="ring"):
                await driver.push(Op("p", 2), [new("q", "ghost", group="g")])
            admin.rename("aside", "{tm:q}:ring")
        assert leaks(admin)
        async with driver_of(server) as other:
            await other.prune(PruneAsk("q"))
        assert leaks(admin) == []

    async def test_large_jobs_are_looked_at_a_few_at_a_time(self, server, admin):
        async with driver_of(server) as driver:
            large = [new("q", f"{at}", b'"' + b"x" * 300_000 + b'"') for at in range(40)]
            await driver.push(Op("p", 1), large)
            admin.zpopmin("{tm:q}:ready", 40)
            assert await script_calls(admin, driver.prune(PruneAsk("q"))) > 8
        assert leaks(admin) == []


async def script_calls(admin, awaited) -> int:
    """Return how many scripts the server runs for it, beyond those it did not know yet."""

    def calls() -> int:
        stats = admin.info("commandstats")
        sent = stats.get("cmdstat_evalsha", {"calls": 0})
        return sent["calls"]

    before = calls()
    await awaited
    return calls() - before


async def test_a_delayed_job_comes_due_while_the_sequence_is_another_key(server, admin, caplog):
    mux = Taskmux(f"redis://app:pw@127.0.0.1:{server.port}")

    @mux.task(name="work", queue="q")
    async def work(number: int) -> int:
        return number

    async with mux:
        jobs = [await work.options(delay="200ms").enqueue(at) for at in range(5)]
        async with mux.worker(["q"]):
            admin.rename("{tm:q}:sequence", "aside")
            admin.rpush("{tm:q}:sequence", "foreign")
            async with asyncio.timeout(20):
                while not any("is damaged" in one for one in caplog.messages):
                    await asyncio.sleep(0.02)
            admin.rename("aside", "{tm:q}:sequence")
            assert [await job.result(timeout="30s") for job in jobs] == list(range(5))
