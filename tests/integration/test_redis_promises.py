"""Promises of the verbs that a single wrong line of the driver would break."""

from __future__ import annotations

import pytest
import redis
from msgspec.structs import replace
from taskmux.driver import (
    ApplyStatus,
    Changes,
    ClaimAsk,
    FindAsk,
    Keep,
    NewJob,
    Op,
    PruneAsk,
    PushStatus,
    QueueSettings,
    ReclaimAsk,
    State,
    StoreIncompatible,
    transition,
)
from tests.redis_load import new
from tests.servers import redis_program, running

from taskmux_redis import RedisDriver

pytestmark = pytest.mark.skipif(redis_program() is None, reason="no redis-server")
NAMES = ["m", "c", "z", "a", "k", "b"]
LONG = 600_000


@pytest.fixture(scope="module")
def server():
    with running() as one:
        yield one


@pytest.fixture
async def driver(server):
    with redis.Redis(port=server.port) as client:
        client.flushall()
    one = RedisDriver(server.url)
    await one.open()
    yield one
    await one.close()


async def claim(driver, number, limit=10, queue="q", lease=LONG):
    return (await driver.claim(Op("w", number), ClaimAsk(queue, "w", limit, lease))).jobs


async def test_a_promotion_keeps_the_due_order(driver):
    delayed = [
        NewJob(replace(new("q", name).job, state=State.DELAYED, run_at=1_000 + at))
        for at, name in enumerate(NAMES)
    ]
    await driver.push(Op("p", 1), list(reversed(delayed)))
    assert [job.id for job in await claim(driver, 1)] == NAMES


async def test_a_promotion_of_jobs_due_at_once_keeps_the_order_of_creation(driver):
    delayed = [
        NewJob(replace(new("q", name).job, state=State.DELAYED, run_at=1_000)) for name in NAMES
    ]
    await driver.push(Op("p", 1), delayed)
    assert [job.id for job in await claim(driver, 1)] == NAMES


async def test_a_claimed_job_ends_here_though_its_queue_moves(driver):
    await driver.push(Op("p", 1), [new("q", name) for name in "ab"])
    (held,) = await claim(driver, 1, limit=1)
    assert await driver.put_settings("q", QueueSettings(moved_to="redis://elsewhere"))
    (answer,) = await driver.push(Op("p", 2), [new("q", "c")])
    assert (answer.status, answer.id) == (PushStatus.MOVED, "redis://elsewhere")
    assert [job.id for job in await claim(driver, 2)] == ["b"]
    (ended,) = await driver.apply(Op("a", 1), [transition.complete(held, b"1")])
    assert (ended.status, ended.state) == (ApplyStatus.APPLIED, State.COMPLETED)


async def test_jobs_that_finish_within_a_millisecond_keep_their_order(driver):
    await driver.push(Op("p", 1), [new("q", name) for name in sorted(NAMES)])
    held = {job.id: job for job in await claim(driver, 1)}
    ends = [transition.complete(held[name], None) for name in NAMES[:3]]
    ends += [transition.complete(held[name], None) for name in NAMES[3:]]
    await driver.apply(Op("a", 1), ends)
    for newest, names in ((False, NAMES), (True, NAMES[::-1])):
        page = await driver.find(FindAsk(queue="q", state=State.COMPLETED, newest=newest))
        assert [job.id for job in page.jobs] == names


async def test_of_those_the_last_is_the_newest_that_is_kept(driver):
    await driver.push(Op("p", 1), [new("q", name) for name in sorted(NAMES)])
    held = {job.id: job for job in await claim(driver, 1)}
    ends = [transition.complete(held[name], None) for name in NAMES]
    await driver.apply(Op("a", 1), [replace(one, retention=Keep(10**9, 1)) for one in ends])
    while await driver.prune(PruneAsk("q", spare=0)) == 0:
        pass  # the clock has to move on by a millisecond
    while (await driver.counts("q"))[State.COMPLETED] > 1:
        assert await driver.prune(PruneAsk("q", spare=0))
    page = await driver.find(FindAsk(queue="q", state=State.COMPLETED))
    assert [job.id for job in page.jobs] == [NAMES[-1]]


@pytest.mark.parametrize("line", [True, False])
async def test_a_rest_leaves_other_queues_and_lines_alone(driver, line):
    for number, queue in enumerate(("q", "r")):
        jobs = [new(queue, "one", group="g"), new(queue, "two", group="h")]
        await driver.push(Op("p", number), jobs)
    (held,) = await claim(driver, 1, limit=1)
    await driver.apply(Op("a", 1), [transition.limited(held, Changes(), LONG, line=line)])
    assert [job.id for job in await claim(driver, 2)] == (["two"] if line else [])
    assert [job.id for job in await claim(driver, 3, queue="r")] == ["one", "two"]


async def test_memory_is_of_the_last_operation_and_a_late_one_changes_nothing(driver):
    await driver.push(Op("p", 1), [new("q", name) for name in "abcdef"])
    first = [job.id for job in await claim(driver, 1, limit=1)]
    second = [job.id for job in await claim(driver, 2, limit=1)]
    assert (first, second) == (["a"], ["b"])
    assert [job.id for job in await claim(driver, 2, limit=1)] == second
    with pytest.raises(StoreIncompatible, match="older"):
        await claim(driver, 1, limit=1)
    assert [job.id for job in await claim(driver, 2, limit=1)] == second
    held = await claim(driver, 10)  # number 10 is later than 9, not before 2
    with pytest.raises(StoreIncompatible, match="older"):
        await claim(driver, 9)
    await driver.apply(Op("w", 10), [transition.complete(held[0], b"1")])
    with pytest.raises(StoreIncompatible, match="older"):
        await driver.apply(Op("w", 9), [transition.complete(held[1], b"1")])
    with pytest.raises(StoreIncompatible, match="older"):
        await driver.push(Op("p", 0), [new("q", "late")])
    counts = await driver.counts("q")
    assert (counts[State.ACTIVE], counts[State.COMPLETED], counts[State.WAITING]) == (5, 1, 0)


async def test_a_late_reclaim_takes_nothing(driver):
    await driver.push(Op("p", 1), [new("q", name) for name in "ab"])
    await claim(driver, 1, lease=1)
    number, jobs = 1, []
    while not jobs:
        number += 1
        jobs = await driver.reclaim(Op("r", number), ReclaimAsk("q", "r", 1, LONG))
    with pytest.raises(StoreIncompatible, match="older"):
        await driver.reclaim(Op("r", number - 1), ReclaimAsk("q", "r", 1, LONG))
    (again,) = await driver.reclaim(Op("r", number), ReclaimAsk("q", "r", 1, LONG))
    assert (again.id, again.fence, again.worker) == (jobs[0].id, jobs[0].fence, "w")


async def test_a_batch_that_is_sent_again_answers_each_of_its_parts_as_before(driver):
    jobs = [new("q", f"{at}", payload=b"x" * 2_000) for at in range(1_200)]
    op = Op("p", 1)
    for _ in range(2):
        answers = await driver.push(op, jobs)
        assert {one.status for one in answers} == {PushStatus.CREATED}
    assert (await driver.counts("q"))[State.WAITING] == 1_200
