"""`apply.lua` is the one copy of `judge` in another language: both say and write the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import msgspec
import pytest
import redis
from msgspec.structs import replace
from taskmux.driver import (
    TERMINAL,
    Applied,
    Attempt,
    BlockedCause,
    Changes,
    ClaimAsk,
    Dedup,
    ErrorInfo,
    Guard,
    JobRecord,
    Keep,
    NewJob,
    Op,
    Parent,
    Policy,
    PruneAsk,
    Ref,
    State,
    Transition,
    transition,
)
from taskmux.model.judge import judge
from tests.redis_load import new
from tests.servers import redis_program, running

from taskmux_redis import RedisDriver, records

pytestmark = pytest.mark.skipif(redis_program() is None, reason="no redis-server")
LONG = Keep(10**9)
KEPT = (Keep(0), Keep(10**9, 0))
ERROR = ErrorInfo("E", "no")


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


def to(state: State, *sources: State, **fields) -> list:
    """The transition to a state from any of these, whatever constructor would make it."""
    return [
        lambda job: Transition(
            ref=job.ref, guard=Guard(states=frozenset(sources)), to=state, **fields
        )
    ]


FAILED = Changes(attempts=2, error=ERROR, reason="failed", history=(Attempt(1, 5, "w", "failed"),))
ENDED = Changes(
    attempts=1, result=b"1", error=ERROR, reason="so", history=(Attempt(1, 5, "w", "x"),)
)

MAKERS = {
    "start": transition.start,
    "complete": lambda job: transition.complete(job, b"7"),
    "complete with nothing": lambda job: transition.complete(job, None),
    "retry at once": lambda job: transition.again(job, FAILED, 0),
    "retry later": lambda job: transition.again(job, FAILED, 60_000),
    "release": transition.release,
    "limited": lambda job: transition.limited(job, Changes(attempts=1), 1),
    "limited line": lambda job: transition.limited(job, Changes(), 1, line=True),
    "bury": lambda job: transition.bury(job, FAILED),
    "cancelled": lambda job: transition.cancelled(job, FAILED),
    "an older fence": lambda job: transition.complete(replace(job, fence=job.fence - 1), b"7"),
    "cancel": lambda job: transition.cancel(job.ref, LONG),
    "redrive": lambda job: transition.redrive(job.ref, TERMINAL),
    "redrive the dead": lambda job: transition.redrive(job.ref),
    "promote": lambda job: transition.promote(job.ref),
    "postpone": lambda job: transition.postpone(job.ref, 5_000),
    "postpone until": lambda job: transition.postpone(job.ref, run_at=4_000_000_000_000),
    "reprioritise": lambda job: transition.reprioritise(job.ref, 7),
    "hold": lambda job: transition.hold(job.ref),
    "unblock a held one": lambda job: transition.unblock(job.ref, BlockedCause.HOLD),
    "unblock a parent": lambda job: transition.unblock(job.ref, BlockedCause.CHILDREN),
    "remove": lambda job: transition.remove(job.ref),
    "remove the dead": lambda job: transition.remove(job.ref, frozenset({State.DEAD})),
}
STARTED = [transition.start]
ASKED = [lambda job: transition.cancel(job.ref, LONG)]
CLAIMED = {
    "active": [],
    "active and started": STARTED,
    "active and asked to cancel": [*STARTED, *ASKED],
    "waiting again": [transition.release],
    "delayed again": [lambda job: transition.again(job, FAILED, 10**8)],
    "completed": [lambda job: transition.complete(job, b"1")],
    "dead": [lambda job: transition.bury(job, ENDED)],
    "cancelled": [lambda job: transition.cancelled(job, ENDED)],
    "cancelled for it was asked to": [*ASKED, transition.release],
    "moved": to(State.MOVED, State.ACTIVE),
}
PUSHED = {
    "waiting": {},
    "waiting with all": {"priority": 3, "reason": "so", "result": b"5", "error": ERROR},
    "delayed": {"state": State.DELAYED, "run_at": 4_100_000_000_000},
    "held": {"state": State.BLOCKED, "cause": BlockedCause.HOLD},
    "a parent": {"state": State.BLOCKED, "cause": BlockedCause.CHILDREN, "children": 2},
    "blocked without a cause": {"state": State.BLOCKED},
}
SOURCES = (*CLAIMED, *PUSHED)


@dataclass
class Stage:
    """Jobs in every state, one for each pair of a state and a transition, and those transitions."""

    driver: RedisDriver
    numbers: dict[str, int] = field(default_factory=dict)

    async def apply(self, ones: list[Transition]) -> list[Applied]:
        number = self.numbers["n"] = self.numbers.get("n", 0) + 1
        return list(await self.driver.apply(Op("s", number), ones))

    async def fill(self, pairs: list[tuple[str, str]], group: str | None) -> list[Ref]:
        refs = [Ref("q", f"{at}") for at in range(len(pairs))]
        jobs = [new("q", ref.id, group=group) for ref in refs]
        claimed = [job for job, (source, _) in zip(jobs, pairs, strict=True) if source in CLAIMED]
        await self.driver.push(Op("p", 1), claimed)
        ask = ClaimAsk("q", "w", len(claimed), 600_000)
        held = {job.id: job for job in (await self.driver.claim(Op("w", 1), ask)).jobs}
        assert len(held) == len(claimed)
        for step in range(2):
            ones = [
                CLAIMED[source][step](held[ref.id])
                for ref, (source, _) in zip(refs, pairs, strict=True)
                if len(CLAIMED.get(source, ())) > step
            ]
            await self.apply(ones)
        rest = [
            NewJob(replace(job.job, **PUSHED[source]))
            for job, (source, _) in zip(jobs, pairs, strict=True)
            if source in PUSHED
        ]
        await self.driver.push(Op("p", 2), rest)
        return refs


@pytest.mark.parametrize("group", [None, "g"])
async def test_every_transition_of_every_state_goes_as_judge_says(driver, group):
    stage = Stage(driver)
    pairs = list(product(SOURCES, MAKERS))
    refs = await stage.fill(pairs, group)
    before = [job for job in await driver.get(refs) if job is not None]
    assert len({job.state for job in before}) == len(State)
    ones = [MAKERS[name](job) for job, (_, name) in zip(before, pairs, strict=True)]
    answers = await stage.apply(ones)
    after = await driver.get(refs)
    now = max(job.finished_at or 0 for job in after if job is not None)
    for pair, job, one, answer, stored in zip(pairs, before, ones, answers, after, strict=True):
        move = judge(one, job)
        if isinstance(move, Applied):
            assert (pair, answer, stored) == (pair, move, job)
        else:
            expected = None if move.removes else move.record(job, now)
            assert (pair, answer, stored) == (pair, move.answer, expected)
    nobody = transition.promote(Ref("q", "nobody"))
    assert await stage.apply([nobody]) == [judge(nobody, None)]


@pytest.mark.parametrize("kept", KEPT, ids=["by age", "by count"])
@pytest.mark.parametrize("source", ["completed", "dead", "cancelled"])
async def test_a_redriven_job_keeps_no_old_expiry(driver, kept, source):
    await driver.push(Op("p", 1), [new("q", "a")])
    (job,) = (await driver.claim(Op("w", 1), ClaimAsk("q", "w", 1, 60_000))).jobs
    end = replace(CLAIMED[source][0](job), retention=kept)
    back = transition.redrive(job.ref, TERMINAL)
    await driver.apply(Op("w", 2), [end])
    (first,) = await driver.get([job.ref])
    await driver.apply(Op("w", 3), [back])
    assert await driver.prune(PruneAsk("q", spare=0)) == 0
    (stored,) = await driver.get([job.ref])
    assert (stored.state, stored.finished_at) == (State.WAITING, None)
    number, ended = 4, first
    while ended.finished_at == first.finished_at:  # its old entries are told by the instant
        number += 1
        await driver.apply(Op("w", number), [back, transition.cancel(job.ref, LONG)])
        (ended,) = await driver.get([job.ref])
    assert await driver.prune(PruneAsk("q", spare=0)) == 0
    assert (await driver.counts("q"))[State.CANCELLED] == 1


async def test_an_old_expiry_says_nothing_of_a_job_that_finished_anew(driver, server):
    await driver.push(Op("p", 1), [new("q", "a")])
    (job,) = (await driver.claim(Op("w", 1), ClaimAsk("q", "w", 1, 60_000))).jobs
    ends = [replace(CLAIMED["dead"][0](job), retention=kept) for kept in KEPT]
    back, number = transition.redrive(job.ref, TERMINAL), 2
    cancel = transition.cancel(job.ref, KEPT[1])
    await driver.apply(Op("w", 2), [ends[0], back, cancel, back])
    with redis.Redis(port=server.port) as client:
        live = client.hget("{tm:q}:live", "a")
        assert live is not None
        assert b"e13:" not in live  # its end
        assert b"t1:0" not in live  # how many are kept
        assert client.zcard("{tm:q}:counted") == 0
        old = int(client.lindex("{tm:q}:age:0", 0)[:13])
    ended = 0
    while ended <= old:
        number += 1
        await driver.apply(Op("w", number), [transition.cancel(job.ref, LONG), back])
        await driver.apply(Op("v", number), [transition.cancel(job.ref, LONG)])
        (stored,) = await driver.get([job.ref])
        ended = stored.finished_at
        if ended <= old:
            await driver.apply(Op("u", number), [back])
    assert await driver.prune(PruneAsk("q", spare=0)) == 0
    assert (await driver.counts("q"))[State.CANCELLED] == 1


FULL = JobRecord(
    queue="q",
    id="full",
    task="t",
    payload=b'{"a":1}',
    headers={"h": "1"},
    policy=Policy(max_attempts=9),
    priority=5,
    lifo=True,
    group="g",
    tags=("x", "y"),
    dedup=Dedup("key"),
    parent=Parent(Ref("q", "p"), "store", "continue"),
    children=3,
    schedule="s",
    slot=4,
    state=State.BLOCKED,
    cause=BlockedCause.CHILDREN,
    run_at=11,
    attempts=1,
    crashes=2,
    reason="so",
    result=b"8",
    error=ERROR,
    history=(Attempt(1, 5, "w", "failed", 1, 2, ERROR),),
    progress=b"9",
    logs=("one", "two"),
    steps={"first": b"1"},
)
GIVEN_BY_STORE = {"created_at", "finished_at", "fence"}
OF_A_LEASE = {"worker", "lease_until", "started", "cancel_requested"}


async def test_a_record_with_every_field_set_is_read_back_equal(driver):
    set_fields = {name for name, value in msgspec.structs.asdict(FULL).items() if value}
    assert set_fields | GIVEN_BY_STORE | OF_A_LEASE == set(JobRecord.__struct_fields__)
    await driver.push(Op("p", 1), [NewJob(FULL)])
    (stored,) = await driver.get([FULL.ref])
    assert stored is not None
    assert replace(stored, created_at=0, fence=0) == FULL


def test_a_new_field_of_a_record_without_a_place_is_refused(monkeypatch):
    assert set(records.places()) == set(JobRecord.__struct_fields__)
    monkeypatch.setattr(records, "_NAMES", (*JobRecord.__struct_fields__, "newest"))
    with pytest.raises(TypeError, match="newest"):
        records.places()
