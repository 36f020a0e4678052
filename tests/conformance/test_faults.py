"""The fault-injecting wrapper does what it says, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from taskmux.conformance import FaultyDriver, chance, held, lost, refused, resend, script, slow
from taskmux.driver import (
    Beat,
    ClaimAsk,
    Driver,
    FindAsk,
    HeldLease,
    JobRecord,
    NewJob,
    Note,
    Op,
    PruneAsk,
    PushStatus,
    QueueSettings,
    ReclaimAsk,
    Ref,
    State,
    StoreUnavailable,
    WorkerInfo,
    capabilities_of,
)
from taskmux.memory import MemoryDriver, MemoryStore

REF = Ref("q", "job")
JOB = NewJob(JobRecord(queue="q", id="job", task="t"))
WORKER = WorkerInfo(id="w", host="h", pid=1, queues=("q",), tasks=(), concurrency=1)

CALLS: dict[str, Callable[[Driver], Awaitable[object]]] = {
    "open": lambda driver: driver.open(),
    "push": lambda driver: driver.push(Op("p", 1), [JOB]),
    "claim": lambda driver: driver.claim(Op("w", 1), ClaimAsk("q", "w", 1, 1000)),
    "apply": lambda driver: driver.apply(Op("w", 2), []),
    "annotate": lambda driver: driver.annotate([Note(ref=REF, fence=1)]),
    "extend": lambda driver: driver.extend([HeldLease(REF, 1)], 1000),
    "reclaim": lambda driver: driver.reclaim(Op("w", 3), ReclaimAsk("q", "w", 1, 1000)),
    "get": lambda driver: driver.get([REF]),
    "find": lambda driver: driver.find(FindAsk(queue="q", state=State.WAITING)),
    "counts": lambda driver: driver.counts("q"),
    "queues": lambda driver: driver.queues(),
    "prune": lambda driver: driver.prune(PruneAsk("q")),
    "dedup_owner": lambda driver: driver.dedup_owner("q", "k"),
    "release_dedup": lambda driver: driver.release_dedup("q", "k", "job"),
    "settings": lambda driver: driver.settings("q"),
    "put_settings": lambda driver: driver.put_settings("q", QueueSettings(paused=True)),
    "wait": lambda driver: driver.wait(["q"], 0),
    "beat": lambda driver: driver.beat(Beat(WORKER, (), 1000)),  # type: ignore[attr-defined]
    "workers": lambda driver: driver.workers(),  # type: ignore[attr-defined]
}


class Unregistered(MemoryDriver):
    beat = None
    workers = None


def memory() -> MemoryDriver:
    return MemoryDriver(store=MemoryStore(clock=lambda: 1_000))


def test_every_verb_is_called_here() -> None:
    own = {"url", "close", "fork", "beat", "workers"}
    assert set(CALLS) | own == Driver.__abstractmethods__ | own


@pytest.mark.parametrize("verb", CALLS)
async def test_without_a_fault_the_answer_is_the_drivers(verb: str) -> None:
    plain, faulty = memory(), FaultyDriver(memory(), script({}))
    assert await CALLS[verb](faulty) == await CALLS[verb](plain)
    assert not faulty.struck


@pytest.mark.parametrize("verb", CALLS)
async def test_every_verb_can_be_refused(verb: str) -> None:
    driver = FaultyDriver(memory(), script({verb: [refused]}))
    with pytest.raises(StoreUnavailable, match="nothing was executed"):
        await CALLS[verb](driver)
    assert driver.struck == {verb: 1}
    await CALLS[verb](driver)


async def test_a_refused_call_is_not_executed_and_a_lost_one_is() -> None:
    for fault, count in ((refused, 0), (lost, 1)):
        driver = FaultyDriver(memory(), script({"push": [fault]}))
        with pytest.raises(StoreUnavailable):
            await CALLS["push"](driver)
        assert (await driver.counts("q"))[State.WAITING] == count


async def test_a_script_strikes_in_turn() -> None:
    driver = FaultyDriver(memory(), script({"counts": [None, lost, refused]}))
    await driver.counts("q")
    for text in ("reply was lost", "nothing was executed"):
        with pytest.raises(StoreUnavailable, match=text):
            await driver.counts("q")
    await driver.counts("q")


def test_chance_is_the_same_for_the_same_seed() -> None:

    plans = [chance(seed, {lost: 0.3, refused: 0.2}) for seed in (5, 5, 6)]
    same, again, other = ([plan("push") for _ in range(1000)] for plan in plans)
    assert same == again != other
    assert 240 < same.count(lost) < 360
    assert 140 < same.count(refused) < 260


def test_chance_keeps_to_its_verbs() -> None:
    plan = chance(1, {lost: 1}, verbs=["push"])
    assert [plan(verb) for verb in ("push", "claim", "push")] == [lost, None, lost]


async def test_a_held_call_waits_for_its_gate() -> None:
    gate = asyncio.Event()
    driver = FaultyDriver(memory(), script({"push": [held(gate)]}))
    push = asyncio.create_task(driver.push(Op("p", 1), [JOB]))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not push.done()
    assert (await driver.counts("q"))[State.WAITING] == 0
    gate.set()
    assert [answer.status for answer in await push] == [PushStatus.CREATED]


async def test_a_slow_call_can_be_cancelled() -> None:
    driver = FaultyDriver(memory(), script({"push": [slow(3600), slow(0)]}))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(driver.push(Op("p", 1), [JOB]), 0.01)
    assert (await driver.counts("q"))[State.WAITING] == 0
    await driver.push(Op("p", 1), [JOB])
    assert (await driver.counts("q"))[State.WAITING] == 1


async def test_resend_sends_until_there_is_an_answer() -> None:
    driver = FaultyDriver(memory(), script({"push": [lost, refused, lost]}))
    (answer,) = await resend(lambda: driver.push(Op("p", 1), [JOB]))
    assert answer.status is PushStatus.CREATED
    assert driver.struck["push"] == 3


async def test_resend_gives_up_and_lets_other_errors_through() -> None:
    driver = FaultyDriver(memory(), script({"counts": [refused] * 5}))
    with pytest.raises(StoreUnavailable):
        await resend(lambda: driver.counts("q"), tries=3)
    assert driver.struck["counts"] == 3

    async def wrong() -> None:
        raise ValueError("not the store's")

    with pytest.raises(ValueError, match="not the store's"):
        await resend(wrong)


def test_it_has_the_capabilities_of_what_it_wraps() -> None:
    for wrapped in (MemoryDriver(), Unregistered()):
        assert capabilities_of(FaultyDriver(wrapped, script({}))) == capabilities_of(wrapped)
    assert "presence" not in capabilities_of(Unregistered())


async def test_a_fork_shares_store_plan_and_count() -> None:
    driver = FaultyDriver(memory(), script({"push": [lost]}))
    fork = driver.fork()
    with pytest.raises(StoreUnavailable):
        await CALLS["push"](fork)
    await CALLS["push"](driver)
    assert driver.struck == {"push": 1}
    assert (await driver.counts("q"))[State.WAITING] == 1
    assert capabilities_of(fork) == capabilities_of(driver)
    assert fork.url == driver.url == "memory://"
    await fork.close()
