"""A queue that moves to another store while jobs are pushed and claimed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from taskmux.driver import (
    Keep,
    Op,
    PruneAsk,
    PushStatus,
    Ref,
    State,
    transition,
)
from tests import mongo_jobs
from tests.mongo_jobs import claim, limit, needs_mongod, push

from taskmux_mongodb import MongoDriver

pytestmark = needs_mongod
server = mongo_jobs.server
driver = mongo_jobs.driver
other = mongo_jobs.other

THERE = "redis://there"


def after_insert(driver: MongoDriver, do: Callable[[], Awaitable[object]]) -> None:
    """Do something after the driver's next insert, and before it looks at its queue again."""
    insert = driver._store.jobs.insert_many

    async def slow(*args, **kwargs):
        driver._store.jobs.insert_many = insert
        await insert(*args, **kwargs)
        await do()

    driver._store.jobs.insert_many = slow


async def kept(driver: MongoDriver) -> None:
    """The job waits."""


async def finished(driver: MongoDriver) -> None:
    (held,) = await claim(driver, limit=9)
    await driver.apply(Op("w", 2), [transition.complete(held, b"1")])


async def removed(driver: MongoDriver) -> None:
    await driver.apply(Op("w", 2), [transition.remove(Ref("q", "job"))])


@pytest.mark.parametrize("then", [kept, finished, removed])
@pytest.mark.parametrize("group", [None, "g"])
async def test_a_push_sent_again_after_its_queue_moved_is_answered_as_before(
    driver, other, then, group
) -> None:
    assert await push(driver, "job", group=group) == [PushStatus.CREATED]
    await then(driver)
    before = await driver.counts("q")
    await limit(other, moved_to=THERE)
    assert await push(driver, "job", group=group) == [PushStatus.CREATED]
    assert await driver.counts("q") == before
    assert await push(driver, "job", "new", number=2, group=group) == [PushStatus.MOVED] * 2
    assert await driver.counts("q") == before


@pytest.mark.parametrize("then", [kept, finished, removed])
async def test_a_push_sent_again_to_a_group_that_is_full_since_is_answered_as_before(
    driver, then
) -> None:
    await limit(driver, group_size=1)
    assert await push(driver, "job", group="g") == [PushStatus.CREATED]
    await then(driver)
    if then is not kept:
        assert await push(driver, "other", by="another", group="g") == [PushStatus.CREATED]
    assert await push(driver, "job", group="g") == [PushStatus.CREATED]
    assert await push(driver, "more", number=2, group="g") == [PushStatus.FULL]


@pytest.mark.parametrize("group", [None, "g"])
async def test_what_was_pushed_while_its_queue_moved_is_taken_back(
    server, driver, other, group
) -> None:
    await push(driver, "before", group=group)
    after_insert(driver, lambda: limit(other, moved_to=THERE))
    assert await push(driver, "during", number=2, group=group) == [PushStatus.MOVED]
    assert await driver.get([Ref("q", "during")]) == [None]
    assert await push(driver, "during", number=2, group=group) == [PushStatus.MOVED]


async def test_the_line_of_what_is_taken_back_leaves_the_ring(server, driver, other) -> None:
    await push(driver, "before")
    after_insert(driver, lambda: limit(other, moved_to=THERE))
    assert await push(driver, "during", number=2, group="g") == [PushStatus.MOVED]
    with server.client() as client:
        assert list(client["taskmux"]["ring"].find()) == []


@pytest.mark.parametrize("group", [None, "g"])
async def test_a_job_claimed_while_its_queue_moves_counts_as_created(driver, other, group) -> None:
    await push(driver, "before")
    await claim(driver, limit=9)

    async def claim_and_move() -> None:
        if group is not None:  # the line's place comes after the insert; a pruning gives it, too
            await other.prune(PruneAsk("q"))
        assert [job.id for job in await claim(other, 2, limit=9)] == ["during"]
        await limit(other, moved_to=THERE)

    after_insert(driver, claim_and_move)
    assert await push(driver, "during", number=2, group=group) == [PushStatus.CREATED]
    (stored,) = await driver.get([Ref("q", "during")])
    assert stored is not None
    assert stored.state is State.ACTIVE
    (answer,) = await driver.apply(Op("w", 3), [transition.complete(stored, b"1")])
    assert answer.state is State.COMPLETED


async def test_a_push_sent_again_while_its_queue_moves_takes_nothing_back(driver, other) -> None:
    """It was answered before: the job is its queue's, wherever that goes."""
    assert await push(driver, "job") == [PushStatus.CREATED]
    insert = driver._store.jobs.insert_many

    async def slow(*args, **kwargs):
        await limit(other, moved_to=THERE)
        await insert(*args, **kwargs)

    driver._store.jobs.insert_many = slow
    assert await push(driver, "job") == [PushStatus.CREATED]
    (stored,) = await driver.get([Ref("q", "job")])
    assert stored is not None
    (answer,) = await driver.apply(Op("x", 1), [transition.cancel(stored.ref, Keep())])
    assert answer.state is State.CANCELLED
