"""What a document remembers of operations, in which order jobs are kept, and when they go."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from taskmux.driver import (
    Applied,
    ApplyStatus,
    BlockedCause,
    Changes,
    ClaimAsk,
    FindAsk,
    Guard,
    Keep,
    Op,
    PruneAsk,
    ReclaimAsk,
    Ref,
    State,
    StoreBusy,
    Transition,
    transition,
)
from tests import mongo_jobs
from tests.mongo_jobs import LONG, claim, created, job, needs_mongod

from taskmux_mongodb import MongoDriver
from taskmux_mongodb.records import OPS_KEPT

pytestmark = needs_mongod
server = mongo_jobs.server
driver = mongo_jobs.driver


# -- operations -----------------------------------------------------------------------------------


async def test_the_last_operations_of_many_origins_are_remembered(driver) -> None:
    await created(driver, "job")
    ref, count = Ref("q", "job"), OPS_KEPT + 4

    async def change(number: int) -> Applied:
        one = transition.reprioritise(ref, 100 + number)
        return (await driver.apply(Op(f"origin-{number}", 1), [one]))[0]

    for number in range(count):
        assert (await change(number)).status is ApplyStatus.APPLIED
    for number in range(count - OPS_KEPT, count):
        assert (await change(number)).status is ApplyStatus.REPEATED, number
    (stored,) = await driver.get([ref])
    assert stored is not None
    assert stored.priority == 100 + count - 1


async def test_a_removed_job_remembers_its_last_operations(driver) -> None:
    await created(driver, "job")
    ref = Ref("q", "job")
    changes = [transition.reprioritise(ref, 100 + number) for number in range(OPS_KEPT + 4)]
    for number, one in enumerate([*changes, transition.remove(ref)]):
        await driver.apply(Op(f"origin-{number}", 1), [one])
    (answer,) = await driver.apply(Op(f"origin-{len(changes)}", 1), [transition.remove(ref)])
    assert answer.status is ApplyStatus.REPEATED
    (answer,) = await driver.apply(Op(f"origin-{len(changes) - 1}", 1), [changes[-1]])
    assert answer.status is ApplyStatus.REPEATED


async def test_a_job_made_anew_has_a_higher_fence_though_that_is_ahead_of_time(
    server, driver
) -> None:
    await created(driver, "job")
    ref = Ref("q", "job")
    await driver.apply(Op("x", 1), [transition.remove(ref)])
    ahead = driver._store.clock.latest() + LONG
    with server.client() as client:
        client["taskmux"]["jobs"].update_one({"_id": "q/job"}, {"$set": {"fence": ahead}})
    await created(driver, "job", number=2)
    (stored,) = await driver.get([ref])
    assert stored is not None
    assert stored.fence > ahead


# -- orders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [None, "g"])
async def test_due_jobs_come_in_due_order_whatever_their_names(driver, group) -> None:
    names = ["m", "z", "c", "x", "a", "k"]
    due = {name: at for at, name in enumerate(names, 1)}
    jobs = [job(name, state=State.DELAYED, run_at=due[name], group=group) for name in sorted(names)]
    await created(driver, *jobs)
    assert [one.id for one in await claim(driver, limit=100)] == names


async def test_more_due_jobs_than_one_claim_promotes_come_in_due_order(driver) -> None:
    due = {f"{number * 37 % 150:03}": number + 1 for number in range(150)}
    jobs = [job(name, state=State.DELAYED, run_at=due[name]) for name in sorted(due)]
    await created(driver, *jobs)
    came: list[str] = []
    for number in range(10):
        came += [one.id for one in await claim(driver, number, limit=20)]
    assert came == sorted(due, key=lambda name: due[name])


async def test_jobs_due_at_one_instant_come_in_the_order_of_creation(driver) -> None:
    for name in "zam":
        await created(driver, name, state=State.DELAYED, run_at=1)
        await next_millisecond(driver)
    assert [one.id for one in await claim(driver, limit=100)] == ["z", "a", "m"]


async def next_millisecond(driver: MongoDriver) -> None:
    now = driver._store.clock.earliest()
    while driver._store.clock.earliest() == now:
        await asyncio.sleep(0.001)


async def finished_at_once(driver: MongoDriver, count: int, keep: Keep) -> list[str]:
    """Finish jobs within one millisecond, and return their names in line."""
    names = [f"{number * 7 % count:02}" for number in range(count)]
    await created(driver, *names)
    held = await claim(driver, limit=100)
    done = [transition.complete(job, b"1") for job in held]
    kept = [replace(one, retention=keep) for one in done]
    await driver.apply(Op("w", 2), kept)
    records = await driver.get([job.ref for job in held])
    assert len({one.finished_at for one in records if one}) == 1
    return names


@pytest.mark.parametrize("newest", [False, True])
async def test_jobs_finished_in_one_millisecond_are_listed_once_each(driver, newest) -> None:
    names = await finished_at_once(driver, 10, Keep())
    listed: list[str] = []
    cursor = None
    while True:
        ask = FindAsk(queue="q", state=State.COMPLETED, newest=newest, cursor=cursor, limit=3)
        page = await driver.find(ask)
        listed += [job.id for job in page.jobs]
        cursor = page.cursor
        if cursor is None:
            break
    assert listed == (names[::-1] if newest else names)


async def test_as_many_as_are_kept_stay_of_those_finished_in_one_millisecond(driver) -> None:
    names = await finished_at_once(driver, 10, Keep(LONG, 3))
    assert await driver.prune(PruneAsk("q", memory=0, spare=0)) == 7
    page = await driver.find(FindAsk(queue="q", state=State.COMPLETED))
    assert [job.id for job in page.jobs] == names[-3:]


async def test_jobs_that_finish_alike_keep_their_own_retention(driver) -> None:
    await created(driver, "a", "b")
    a, b = await claim(driver, limit=2)
    assert a.fence == b.fence, "or they would not be written together"
    kept = zip((a, b), (Keep(0, None), Keep(LONG, None)), strict=True)
    done = [replace(transition.complete(one, b"1"), retention=keep) for one, keep in kept]
    await driver.apply(Op("w", 2), done)
    assert await driver.prune(PruneAsk("q", memory=0, spare=0)) == 1
    assert [one and one.id for one in await driver.get([a.ref, b.ref])] == [None, "b"]


async def test_a_job_that_was_let_go_is_in_no_index_of_claims(server, driver) -> None:
    await created(driver, "a", "b")
    a, b = await claim(driver, limit=2)
    await driver.apply(Op("w", 2), [transition.complete(a, None), transition.release(b)])
    with server.client() as client:
        assert client["taskmux"]["jobs"].count_documents({"claim": {"$exists": True}}) == 0


# -- what comes late ------------------------------------------------------------------------------


async def test_a_claim_that_comes_late_takes_nothing_though_its_own_job_is_done(driver) -> None:
    await created(driver, "a", "b", "c")
    ask = ClaimAsk("q", "w", 1, LONG)
    (job,) = (await driver.claim(Op("w", 1), ask)).jobs
    await driver.apply(Op("w", 1), [transition.complete(job, None)])
    await driver.claim(Op("w", 2), ask)
    with pytest.raises(StoreBusy, match="after a later one"):
        await driver.claim(Op("w", 1), ask)
    assert (await driver.counts("q"))[State.WAITING] == 1
    assert len((await driver.claim(Op("w", 1), replace(ask, queue="another"))).jobs) == 0


async def test_copies_of_a_reclaim_share_its_jobs_and_a_late_one_takes_none(driver) -> None:
    names = ("a", "b", "c", "d")
    await created(driver, *names)
    held = (await driver.claim(Op("w", 1), ClaimAsk("q", "w", 4, 1))).jobs
    other = driver.fork()
    await other.open()
    while (await driver.claim(Op("w", 2), ClaimAsk("q", "w", 1, 1))).now <= held[0].lease_until:
        pass
    ask = ReclaimAsk("q", "r", 2, LONG)
    first = await driver.reclaim(Op("r", 1), ask)
    assert list(await other.reclaim(Op("r", 1), ask)) == list(first)
    await driver.reclaim(Op("r", 2), replace(ask, limit=1))
    with pytest.raises(StoreBusy, match="after a later one"):
        await other.reclaim(Op("r", 1), ask)
    stored = await driver.get([Ref("q", name) for name in names])
    assert sorted(one.worker for one in stored if one) == ["r", "r", "r", "w"]
    await other.close()


# -- what goes ------------------------------------------------------------------------------------

OUT = {
    "redriven": lambda ref: transition.redrive(ref, frozenset({State.COMPLETED})),
    "held": lambda ref: Transition(
        ref=ref,
        guard=Guard(states=frozenset({State.COMPLETED})),
        to=State.BLOCKED,
        changes=Changes(cause=BlockedCause.HOLD),
    ),
    "delayed": lambda ref: Transition(
        ref=ref,
        guard=Guard(states=frozenset({State.COMPLETED})),
        to=State.DELAYED,
        delay=LONG,
    ),
}


@pytest.mark.parametrize("way", OUT)
async def test_a_job_that_is_not_finished_any_more_has_nothing_that_ends_it(
    server, driver, way: str
) -> None:
    await finished_at_once(driver, 2, Keep(0, 0))
    ref = Ref("q", "00")
    (answer,) = await driver.apply(Op("x", 1), [OUT[way](ref)])
    assert answer.status is ApplyStatus.APPLIED
    with server.client() as client:
        document = client["taskmux"]["jobs"].find_one({"_id": "q/00"})
    assert document is not None
    ends = {"finished_at", "expires", "expire_at", "keep_count"}
    assert not ends & document.keys()
    await driver.prune(PruneAsk("q", memory=0, spare=0))
    (stored,) = await driver.get([ref])
    assert stored is not None
    assert stored.finished_at is None


async def test_a_finished_job_that_is_kept_for_ever_has_no_old_expiry(server, driver) -> None:
    await finished_at_once(driver, 2, Keep(LONG, 5))
    ref = Ref("q", "00")
    one = Transition(ref=ref, guard=Guard(states=frozenset({State.COMPLETED})), to=State.DEAD)
    await driver.apply(Op("x", 1), [one])
    with server.client() as client:
        document = client["taskmux"]["jobs"].find_one({"_id": "q/00"})
    assert document is not None
    assert not {"expire_at", "keep_count"} & document.keys()
