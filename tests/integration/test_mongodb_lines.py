"""Lines and limits on MongoDB: bounded work, several clients at once, and what is left undone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from taskmux.driver import (
    ClaimAsk,
    FindAsk,
    LineSettings,
    NewJob,
    Op,
    PruneAsk,
    PushStatus,
    Rate,
    State,
    transition,
)
from tests import mongo_jobs
from tests.integration.test_mongodb_plans import Profile
from tests.mongo_jobs import LONG, created, job, limit, needs_mongod

from taskmux_mongodb import MongoDriver, schema

pytestmark = needs_mongod
server = mongo_jobs.server
driver = mongo_jobs.driver

GROUPS = 10_000
LINE_LIMIT = 100
SPARE = 30
"""Keys that a claim may examine beside those of lines and jobs."""


@pytest.fixture
async def others(driver: MongoDriver) -> AsyncIterator[list[MongoDriver]]:
    others = [driver.fork() for _ in range(4)]
    for other in others:
        await other.open()
    yield others
    for other in others:
        await other.close()


class Worker:
    """A worker of queue `q`, on one driver."""

    def __init__(self, driver: MongoDriver, name: str = "worker") -> None:
        self.driver = driver
        self.name = name
        self.number = 0

    async def claim(self, limit: int = 1):
        self.number += 1
        ask = ClaimAsk("q", self.name, limit, LONG)
        return await self.driver.claim(Op(self.name, self.number), ask)

    async def ids(self, limit: int = 1) -> list[str]:
        return [job.id for job in (await self.claim(limit)).jobs]

    async def finish(self, jobs) -> None:
        self.number += 1
        done = [transition.complete(job, None) for job in jobs]
        await self.driver.apply(Op(self.name, self.number), done)


# -- bounded work ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kept_by",
    [
        LineSettings(paused=True),
        LineSettings(concurrency=1),
        LineSettings(rate=Rate(1, 3_600_000)),
    ],
    ids=["paused", "full", "out of its rate"],
)
async def test_lines_that_may_not_give_are_not_looked_at_again(server, driver, kept_by) -> None:
    worker = Worker(driver)
    await created(driver, *(job(f"{n}-{place}", f"g{n}") for n in range(GROUPS) for place in "ab"))
    await limit(driver, groups=kept_by, lines={"free": LineSettings()})
    while (claimed := await worker.claim(1_000)).jobs or claimed.next_in == 0:
        continue  # until all of them are parked
    assert claimed.blocked_by == "lines"
    await created(driver, *(job(f"free-{n}", "free") for n in range(20)))
    with Profile(server, "jobs", "ring", "gates") as profile:
        assert await worker.ids(10) == [f"free-{n}" for n in range(10)]
    assert profile.keys <= 6 * 10 + SPARE, profile.commands
    assert not any("COLLSCAN" in plan for plan in profile.plans), profile.plans


async def test_a_claim_touches_as_many_lines_as_it_takes_jobs(server, driver) -> None:
    await created(driver, *(job(f"{n}", f"g{n % GROUPS}") for n in range(2 * GROUPS)))
    worker = Worker(driver)
    await worker.claim(100)
    with Profile(server, "jobs", "ring", "gates") as profile:
        assert await worker.ids(100) == [f"{n}" for n in range(100, 200)]
    assert profile.keys <= 16 * 100 + SPARE, profile.commands
    assert not any("COLLSCAN" in plan for plan in profile.plans), profile.plans
    with Profile(server, "jobs", "ring", "gates") as profile:
        assert await worker.ids(500) == [f"{n}" for n in range(200, 700)]
    assert profile.keys <= 16 * 500 + SPARE
    assert not any(one.get("hasSortStage") for one in profile.commands)


async def test_waiting_jobs_of_all_lines_are_listed_without_a_sort(server, driver) -> None:
    await created(driver, *(job(f"{n}", f"g{n}" if n % 2 else None) for n in range(2_000)))
    with Profile(server, "jobs") as profile:
        page = await driver.find(FindAsk(queue="q", state=State.WAITING, limit=10))
    assert [one.id for one in page.jobs] == [f"{n}" for n in range(10)]
    assert profile.keys <= 10 + SPARE
    assert not any(one.get("hasSortStage") for one in profile.commands)


# -- several at once ------------------------------------------------------------------------------


async def drain(worker: Worker, count: Counter[str], most: Counter[str], ran: list[str]) -> None:
    """Work until nothing waits, and count how many jobs run at once."""
    while True:
        claimed = await worker.claim(3)
        names = ["all", *(one.group or "" for one in claimed.jobs)]
        count.update({"all": len(claimed.jobs)} | Counter(names[1:]))
        most |= count
        for name in names:
            most[name] = max(most[name], count[name])
        if not claimed.jobs and not any(
            number for state, number in (await worker.driver.counts("q")).items()
            if state in (State.WAITING, State.ACTIVE)
        ):  # fmt: skip
            return
        await asyncio.sleep(0)
        ran += [one.id for one in claimed.jobs]
        count.subtract({"all": len(claimed.jobs)} | Counter(names[1:]))
        await worker.finish(claimed.jobs)


async def test_many_clients_keep_concurrency(driver, others) -> None:
    await limit(driver, concurrency=5, groups=LineSettings(concurrency=2))
    await created(driver, *(job(f"{n}", f"g{n % 4}") for n in range(100)))
    workers = [Worker(other, f"w{n}") for n, other in enumerate(others)]
    count, most, ran = Counter[str](), Counter[str](), list[str]()
    await asyncio.gather(*(drain(worker, count, most, ran) for worker in workers))
    assert most["all"] <= 5
    assert all(number <= 2 for name, number in most.items() if name != "all"), most
    assert Counter(ran) == Counter(f"{n}" for n in range(100))


async def test_many_clients_spend_one_rate(driver, others) -> None:
    await limit(driver, rate=Rate(1, 3_600_000, burst=9), groups=LineSettings(rate=Rate(3, LONG)))
    await created(driver, *(job(f"{n}", f"g{n}" if n % 2 else None) for n in range(100)))
    # an origin has one claim of a queue in flight
    workers = [Worker(other, f"w{n}-{k}") for n, other in enumerate(others) for k in range(3)]
    claimed = await asyncio.gather(*(worker.claim(4) for worker in workers))
    assert sum(len(one.jobs) for one in claimed) == 10


async def test_many_clients_drain_lines_once_each(driver, others) -> None:
    await created(driver, *(job(f"{n}", f"g{n % 7}" if n % 3 else None) for n in range(300)))
    workers = [Worker(other, f"w{n}") for n, other in enumerate(others)]
    count, most, ran = Counter[str](), Counter[str](), list[str]()
    await asyncio.gather(*(drain(worker, count, most, ran) for worker in workers))
    assert Counter(ran) == Counter(f"{n}" for n in range(300))


# -- what others did or left undone ---------------------------------------------------------------


@pytest.mark.parametrize("of", ["queue", "line"])
async def test_a_lease_deleted_by_hand_frees_its_place(server, driver, of) -> None:
    one = LineSettings(concurrency=1)
    await limit(driver, **({"concurrency": 1} if of == "queue" else {"groups": one}))
    await created(driver, job("a", "g"), job("b", "g"))
    worker = Worker(driver)
    assert await worker.ids() == ["a"]
    assert (await worker.claim()).blocked_by == ("concurrency" if of == "queue" else "lines")
    with server.client() as client:
        client["taskmux"]["jobs"].delete_one({"_id": "q/a"})
    assert await worker.ids() == ["b"]


@pytest.mark.parametrize("by", ["claim", "prune"])
async def test_a_line_that_a_dead_producer_left_out_is_found(server, driver, by) -> None:
    await created(driver, job("a", "g"), job("b", "h"))
    with server.client() as client:
        client["taskmux"]["ring"].delete_one({"line": "g"})
    worker = Worker(driver)
    if by == "prune":
        await driver.prune(PruneAsk("q"))
        assert sorted(await worker.ids(2)) == ["a", "b"]
    else:
        assert [await worker.ids(), await worker.ids()] == [["b"], ["a"]]


async def test_who_found_a_line_empty_removes_no_newer_one(server, driver) -> None:
    """The same line, empty and filled again meanwhile, has another number: it stays."""
    numbers = []
    with server.client() as client:
        ring = client["taskmux"]["ring"]
        for name in "abc":
            await created(driver, job(name, "g"))
            numbers.append(ring.find_one({"line": "g"})["v"])
            assert await Worker(driver, name).ids() == [name]
    assert len(set(numbers)) == 3


@pytest.mark.parametrize("parked", ["paused", "full"])
async def test_a_line_that_somebody_left_parked_comes_back(server, driver, parked) -> None:
    """Whoever resumed the line, or made room, died before the line was back in the ring."""
    await created(driver, job("a", "g"), *(job(f"b{number}", "h") for number in range(150)))
    await limit(driver, lines={"h": LineSettings(paused=True)})
    with server.client() as client:
        client["taskmux"]["ring"].update_one({"line": "g"}, {"$set": {"parked": parked}})
        client["taskmux"]["ring"].update_one({"line": "h"}, {"$set": {"parked": "paused"}})
    await driver.prune(PruneAsk("q"))
    assert await Worker(driver).ids(2) == ["a"]


async def test_a_line_left_out_behind_many_jobs_is_found(server, driver) -> None:
    await limit(driver, lines={"h": LineSettings(paused=True)})
    await created(driver, *(job(f"b{number}", "h") for number in range(150)), job("a", "g"))
    with server.client() as client:
        client["taskmux"]["ring"].delete_one({"line": "g"})
    await driver.prune(PruneAsk("q"))
    assert await Worker(driver).ids(2) == ["a"]


async def test_a_claimer_that_died_keeps_its_queue_for_seconds(server, driver) -> None:
    await limit(driver, concurrency=1)
    await created(driver, job("a"))
    with server.client() as client:
        gates = client["taskmux"]["gates"]
        held = {"by": "claim of the dead", "until": await now(driver) + 300}
        gates.update_one({"_id": "q"}, {"$set": held}, upsert=True)
    assert await Worker(driver).ids() == ["a"]


async def now(driver: MongoDriver) -> int:
    return (await driver.claim(Op("clock", 1), ClaimAsk("clock", "w", 1, LONG))).now


async def test_gates_say_when_nobody_needs_them(server, driver) -> None:
    await limit(driver, rate=Rate(1_000, 1_000, burst=100), groups=LineSettings(rate=Rate(1, 5)))
    await created(driver, job("a", "g"), job("b"))
    worker = Worker(driver)
    jobs = (await worker.claim(2)).jobs
    await driver.apply(Op("w", 1), [transition.limited(jobs[0], transition.NO_CHANGES, 10)])
    with server.client() as client:
        gates = list(client["taskmux"]["gates"].find())
    assert {one["_id"] for one in gates} >= {"q", "q/=g"}
    assert all("expire_at" in one for one in gates), gates


async def test_a_slower_rate_begins_anew_after_a_prune(driver) -> None:
    await limit(driver, groups=LineSettings(rate=Rate(1, 2)))
    await created(driver, *(job(name, "g") for name in "abc"))
    worker = Worker(driver)
    assert await worker.ids() == ["a"]
    clock = driver._store.clock
    full_at = clock.latest() + 3
    while clock.earliest() < full_at:
        await asyncio.sleep(0.001)
    await driver.prune(PruneAsk("q"))
    await limit(driver, groups=LineSettings(rate=Rate(1, LONG)))
    assert await worker.ids() == ["b"]
    await driver.prune(PruneAsk("q"))
    assert (await worker.claim()).blocked_by == "lines", "a gate that is not full again stays"


async def test_a_repeat_gives_jobs_of_several_lines_in_the_order_of_their_turns(driver) -> None:
    await created(driver, job("b", "g"), job("c", priority=1), job("a", "h", priority=0))
    op, ask = Op("w", 1), ClaimAsk("q", "w", 9, LONG)
    for _ in range(2):
        assert [one.id for one in (await driver.claim(op, ask)).jobs] == ["b", "c", "a"]


async def test_a_committed_job_of_a_group_is_in_the_ring(driver) -> None:
    await created(driver, job("other", "o"))
    client = driver._store.client
    async with client.start_session() as session:
        await session.start_transaction()
        await driver.push_within(session, [NewJob(job("a", "g"))])
        assert await Worker(driver).ids(2) == ["other"]
        await session.commit_transaction()
    worker = Worker(driver, "after")
    while not (ids := await worker.ids()):
        assert await driver.wait(["q"], 10)
    assert ids == ["a"]


async def test_a_full_group_is_full_within_a_transaction(driver) -> None:
    await limit(driver, group_size=1)
    async with driver._store.client.start_session() as session:
        await session.start_transaction()
        answers = await driver.push_within(session, [NewJob(job(name, "g")) for name in "abb"])
        await session.abort_transaction()
    full = PushStatus.FULL
    assert [answer.status for answer in answers] == [PushStatus.CREATED, full, full]


async def test_documents_of_version_1_are_taken_over(server) -> None:
    url = server.url.replace("/taskmux", "/old")
    with server.client() as client:
        client["old"]["meta"].insert_one({"_id": "schema", "version": 1, "store": "x"})
    driver = MongoDriver(url)
    await driver.open()
    await created(driver, job("plain"), job("a", "g"))
    with server.client() as client:  # as the driver before stored a job with a group
        change = {"$set": {"state": "waiting"}, "$unset": {"line": ""}}
        client["old"]["jobs"].update_one({"_id": "q/a"}, change)
        client["old"]["ring"].delete_many({})
        assert client["old"]["meta"].find_one({"_id": "schema"})["version"] == schema.SCHEMA
    assert await Worker(driver).ids(5) == ["plain", "a"]
    await driver.close()
