"""What the server does for a claim, a reclaim and a prune at a backlog, as its profiler tells."""

from __future__ import annotations

from typing import Self

import pytest
from taskmux.driver import ClaimAsk, JobRecord, NewJob, Op, PruneAsk, ReclaimAsk, transition
from tests import mongo_jobs
from tests.mongo_jobs import needs_mongod
from tests.mongo_servers import MongoServer

from taskmux_mongodb import MongoDriver

pytestmark = needs_mongod
server = mongo_jobs.server

BACKLOG = 100_000
BATCH = 100
SPARE = 10
"""Keys that a claim may examine beside those of its jobs: to see that nothing is due or held."""


@pytest.fixture
async def driver(server: MongoServer):
    driver = MongoDriver(server.url)
    await driver.open()
    yield driver
    await driver.close()


async def fill(driver: MongoDriver, queue: str, count: int) -> None:
    for start in range(0, count, 2_000):
        jobs = [JobRecord(queue=queue, id=f"job-{start + n}", task="t") for n in range(2_000)]
        await driver.push(Op(f"fill {queue}", start), [NewJob(job) for job in jobs])


class Profile:
    """The commands that the server ran on some collections within a block."""

    def __init__(self, server: MongoServer, *collections: str) -> None:
        self.collections = [f"taskmux.{name}" for name in collections or ("jobs",)]
        self.client = server.client()
        self.database = self.client["taskmux"]
        self.commands: list[dict] = []

    def __enter__(self) -> Self:
        self.database.command("profile", 0)
        self.database["system.profile"].drop()
        self.database.command("profile", 2)
        return self

    def __exit__(self, *_: object) -> None:
        self.database.command("profile", 0)
        ours = {"ns": {"$in": self.collections}}
        self.commands = list(self.database["system.profile"].find(ours))
        self.client.close()

    @property
    def keys(self) -> int:
        return sum(one.get("keysExamined", 0) for one in self.commands)

    @property
    def plans(self) -> set[str]:
        return {one["planSummary"] for one in self.commands if "planSummary" in one}


async def test_a_claim_examines_two_keys_a_job_at_a_backlog(server, driver) -> None:
    await fill(driver, "backlog", BACKLOG)
    ask = ClaimAsk("backlog", "worker", BATCH, 60_000)
    with Profile(server) as profile:
        claimed = await driver.claim(Op("worker", 1), ask)
    assert len(claimed.jobs) == BATCH
    assert BATCH <= profile.keys <= 2 * BATCH + SPARE, profile.commands
    assert not any("COLLSCAN" in plan for plan in profile.plans), profile.plans
    assert not any(one.get("hasSortStage") for one in profile.commands)


async def test_settling_examines_one_key_a_job_at_a_backlog(server, driver) -> None:
    await fill(driver, "settled", BATCH * 20)
    jobs = (await driver.claim(Op("w", 1), ClaimAsk("settled", "w", BATCH, 60_000))).jobs
    done = [transition.complete(job, job.id.encode()) for job in jobs]
    with Profile(server) as profile:
        await driver.apply(Op("w", 2), done)
    assert BATCH <= profile.keys <= BATCH + SPARE, profile.commands


async def test_upkeep_walks_only_what_it_takes(server, driver) -> None:
    await fill(driver, "upkeep", BATCH * 20)
    jobs = (await driver.claim(Op("u", 1), ClaimAsk("upkeep", "w", BATCH, 60_000))).jobs
    await driver.apply(Op("u", 2), [transition.complete(job, None) for job in jobs[: BATCH // 2]])
    with Profile(server) as profile:
        await driver.reclaim(Op("u", 3), ReclaimAsk("upkeep", "w", BATCH, 60_000))
        await driver.prune(PruneAsk("upkeep"))
        await driver.counts("other")
    assert profile.keys <= BATCH, "the leases of one queue, and nothing of the rest"
    assert not any("COLLSCAN" in plan for plan in profile.plans), profile.plans
