"""What happens between a driver's read and its write; and bells that are heard or lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from taskmux.driver import (
    ApplyStatus,
    HeldLease,
    Keep,
    LeaseStatus,
    Op,
    PushStatus,
    QueueSettings,
    ReclaimAsk,
    Ref,
    State,
    transition,
)
from tests import mongo_jobs
from tests.mongo_jobs import FOREVER, LONG, claim, needs_mongod, push

from taskmux_mongodb import MongoDriver
from taskmux_mongodb import wait as waiting

pytestmark = needs_mongod
server = mongo_jobs.server
driver = mongo_jobs.driver
other = mongo_jobs.other


def before_write(driver: MongoDriver, do: Callable[[], Awaitable[object]]) -> None:
    """Do something between the driver's next read and its write."""
    write = driver._store.write

    async def interrupted(*args, **kwargs):
        driver._store.write = write
        await do()
        return await write(*args, **kwargs)

    driver._store.write = interrupted


@pytest.mark.parametrize("group", [None, "g"])
async def test_a_job_claimed_and_released_since_it_was_read_is_not_claimed(
    driver, other, group
) -> None:
    await push(driver, "job", group=group)

    async def run_and_release() -> None:
        (held,) = await claim(other, by="other")
        await other.apply(Op("other", 2), [transition.release(held)])

    before_write(driver, run_and_release)
    (held,) = await claim(driver)
    (stored,) = await driver.get([held.ref])
    assert held == stored, "the claim must know the fence that is stored"


async def test_a_job_with_a_new_priority_since_it_was_read_is_claimed_with_it(
    driver, other
) -> None:
    await push(driver, "job")
    change = transition.reprioritise(Ref("q", "job"), 7)
    before_write(driver, lambda: other.apply(Op("other", 1), [change]))
    (held,) = await claim(driver)
    assert held.priority == 7


async def test_a_due_job_that_was_cancelled_since_it_was_read_does_not_wait(driver, other) -> None:
    await push(driver, "job", state=State.DELAYED, run_at=1)
    cancel = transition.cancel(Ref("q", "job"), Keep())
    before_write(driver, lambda: other.apply(Op("x", 1), [cancel]))
    assert await claim(driver) == []
    (stored,) = await driver.get([cancel.ref])
    assert stored is not None
    assert stored.state is State.CANCELLED


async def test_two_that_push_a_removed_job_anew_create_it_once(driver, other) -> None:
    await push(driver, "job")
    await driver.apply(Op("x", 1), [transition.remove(Ref("q", "job"))])
    before_write(driver, lambda: push(other, "job", by="rival", payload=b"rival"))
    assert await push(driver, "job", number=2) == [PushStatus.DUPLICATE]
    (stored,) = await driver.get([Ref("q", "job")])
    assert stored is not None
    assert stored.payload == b"rival"


async def test_what_a_rival_leaves_is_claimed_in_order(driver, other) -> None:
    await push(driver, *"abcd")
    before_write(driver, lambda: claim(other, by="other", limit=2))
    jobs = await claim(driver, limit=4)
    assert [job.id for job in jobs] == ["c", "d"]
    assert jobs == await driver.get([job.ref for job in jobs])


async def test_a_lease_extended_since_it_lapsed_is_not_reclaimed(driver, other) -> None:
    await push(driver, "job")
    (held,) = await claim(driver, lease=0)
    renewed: list[LeaseStatus] = []

    async def extend() -> None:
        (answer,) = await other.extend([HeldLease(held.ref, held.fence)], LONG)
        renewed.append(answer.status)

    before_write(driver, extend)
    ask = ReclaimAsk("q", "rescuer", 1, LONG)
    number = 0
    while not renewed:  # until the clock's lower bound has passed the lease
        number += 1
        assert list(await driver.reclaim(Op("r", number), ask)) == []
    assert renewed == [LeaseStatus.HELD]
    (stored,) = await driver.get([held.ref])
    assert stored is not None
    assert (stored.worker, stored.fence) == ("w", held.fence)


async def test_a_transition_sees_what_came_since_it_was_decided(driver, other) -> None:
    await push(driver, "job")
    before_write(driver, lambda: claim(other, by="other"))
    (answer,) = await driver.apply(Op("x", 1), [transition.cancel(Ref("q", "job"), Keep())])
    assert answer.status is ApplyStatus.REQUESTED


async def test_a_removed_job_is_pushed_anew_with_a_higher_fence(driver) -> None:
    await push(driver, "job")
    (first,) = await driver.get([Ref("q", "job")])
    await driver.apply(Op("x", 1), [transition.remove(first.ref)])
    assert await push(driver, "job") == [PushStatus.CREATED], "the same op creates nothing"
    assert await driver.get([first.ref]) == [None]
    assert await push(driver, "job", number=2) == [PushStatus.CREATED]
    (second,) = await driver.get([first.ref])
    assert second.fence > first.fence
    (answer,) = await driver.apply(Op("x", 1), [transition.remove(first.ref)])
    assert answer.status is ApplyStatus.REPEATED, "a removal sent again removes no other job"
    assert await driver.get([first.ref]) == [second]


async def test_jobs_pushed_while_their_queue_moves_are_taken_back(driver, other) -> None:
    insert = driver._store.jobs.insert_many

    async def slow(*args, **kwargs):
        await insert(*args, **kwargs)
        await other.put_settings("q", QueueSettings(moved_to="redis://there"))

    await push(driver, "before")
    driver._store.jobs.insert_many = slow
    assert await push(driver, "during", number=2) == [PushStatus.MOVED]
    assert await driver.get([Ref("q", "during")]) == [None]
    assert (await driver.counts("q"))[State.WAITING] == 1


# -- bells ----------------------------------------------------------------------------------------


async def test_a_ring_ends_the_wait_without_looking(driver, other, monkeypatch) -> None:
    async def blind(*_args: object) -> bool:
        return False

    monkeypatch.setattr(waiting, "look", blind)
    await claim(driver)
    while await driver.wait(["q"], 0.05):
        continue  # what was in the collection already
    sleeping = asyncio.create_task(driver.wait(["q"], FOREVER))
    await push(other, "job")
    assert await sleeping


async def test_work_is_found_when_no_bell_is_heard(driver, other, monkeypatch) -> None:
    await claim(driver)
    monkeypatch.setattr(other._store.bell, "ring", lambda queues: None)
    sleeping = asyncio.create_task(driver.wait(["q"], FOREVER))
    await push(other, "job")
    assert await sleeping


async def test_a_paused_queue_with_jobs_ends_no_wait(driver) -> None:
    await push(driver, "job")
    await driver.put_settings("q", QueueSettings(paused=True))
    assert await claim(driver) == []
    while await driver.wait(["q"], 0.05):
        continue
    assert not await driver.wait(["q"], 2.5), "it looked, and saw that the queue is paused"


async def counted(bell, seconds: float) -> int:
    """Wait on the bell for nothing; return how often the server was asked."""
    looks: list[float] = []

    async def look() -> bool:
        looks.append(time.monotonic())
        return False

    while await waiting.wait(bell, ["q"], seconds, look):
        continue  # what was in the collection already
    return len(looks)


async def test_looks_are_rare_where_nothing_was_heard_of_late(driver) -> None:
    bell = driver._store.bell
    assert await counted(bell, 0.3), "it began to listen: what came just before went unheard"
    assert not await counted(bell, 0.3)


async def test_who_asked_too_early_looks_again_however_late_it_waits(driver) -> None:
    bell = driver._store.bell
    await counted(bell, 0.3)
    bell._hear(["q"])
    bell.mark(["q"])
    bell._asked_at["q"] = bell.heard_at(["q"])  # as early as can be
    await asyncio.to_thread(time.sleep, 2 * max(waiting._EARLY))  # busy with other queues meanwhile
    assert await counted(bell, 0.3)


async def test_the_bell_is_heard_while_the_server_is_asked(driver) -> None:
    asked = asyncio.Event()

    async def look() -> bool:
        asked.set()
        return await asyncio.Future()

    bell = driver._store.bell
    wait = asyncio.create_task(waiting.wait(bell, ["q"], FOREVER, look))
    await asked.wait()
    bell.ring(["q"])
    assert await asyncio.wait_for(wait, 20)
