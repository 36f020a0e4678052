"""Every field of a record has its place in a document, and a new one cannot be lost in silence."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import pytest
from taskmux.driver import (
    ApplyStatus,
    Attempt,
    BlockedCause,
    Changes,
    ClaimAsk,
    Dedup,
    ErrorInfo,
    Guard,
    JobRecord,
    NewJob,
    Op,
    Parent,
    Policy,
    Ref,
    State,
    Transition,
)
from tests.mongo_servers import mongod_program

from taskmux_mongodb import MongoDriver, records

real = pytest.mark.skipif(mongod_program() is None, reason="no mongod")

ERROR: Final = ErrorInfo("Oops", "it broke", "at line 1")
HISTORY: Final = (Attempt(1, 7, "w", "failed", 5, 6, ERROR),)
FULL: Final = JobRecord(
    queue="q",
    id="job",
    task="t",
    payload=b"[1]",
    headers={"a": "b"},
    policy=Policy(max_attempts=9),
    priority=7,
    lifo=True,
    group="g",
    tags=("x", "y"),
    dedup=Dedup("key"),
    parent=Parent(Ref("q", "parent"), "elsewhere"),
    children=2,
    schedule="daily",
    slot=5,
    state=State.BLOCKED,
    cause=BlockedCause.CHILDREN,
    created_at=11,
    run_at=12,
    finished_at=13,
    attempts=1,
    crashes=2,
    reason="because",
    fence=14,
    worker="w",
    lease_until=15,
    started=True,
    cancel_requested=True,
    result=b"2",
    error=ERROR,
    history=HISTORY,
    progress=b"3",
    logs=("one", "two"),
    steps={"a.b": b"4"},
)
CHANGED: Final[dict[str, Any]] = {
    "attempts": 3,
    "crashes": 4,
    "started": True,
    "priority": 9,
    "cause": BlockedCause.HOLD,
    "reason": "other",
    "result": b"5",
    "error": ERROR,
    "history": HISTORY,
    "cancel_requested": True,
    "payload": b'{"n":6}',
}


@pytest.fixture
async def driver(mongodb_url: str) -> AsyncIterator[MongoDriver]:
    driver = MongoDriver(mongodb_url)
    await driver.open()
    yield driver
    await driver.close()


def test_the_record_of_these_tests_has_every_field_set() -> None:
    for field in msgspec.structs.fields(JobRecord):
        default = field.default_factory() if field.default is msgspec.NODEFAULT and (
            field.default_factory is not msgspec.NODEFAULT
        ) else field.default  # fmt: skip
        assert getattr(FULL, field.name) != default, field.name
    assert set(CHANGED) == {field.name for field in msgspec.structs.fields(Changes)}


def test_every_field_is_read_back_as_it_was_stored() -> None:
    document = records.new_document(FULL, "op:0", FULL.created_at, 1, rank=1)
    document["fence"] = FULL.fence
    assert records.record(document) == FULL


def test_a_field_is_fixed_or_has_a_codec() -> None:
    names = {field.name for field in msgspec.structs.fields(JobRecord)}
    assert names >= records.FIXED
    assert names == records.FIXED | records._CODECS.keys()
    assert set(CHANGED) <= records._CODECS.keys() | records._REPLACED.keys()


@real
@pytest.mark.parametrize("name", CHANGED)
async def test_every_change_of_a_transition_is_stored(driver, name: str) -> None:
    job = JobRecord(queue="changes", id=name, task="t")
    await driver.push(Op(name, 1), [NewJob(job)])
    (held,) = (await driver.claim(Op(name, 2), ClaimAsk("changes", "w", 1, 60_000))).jobs
    changes = Changes(**{name: CHANGED[name]})
    to = State.BLOCKED if name == "cause" else None  # only a blocked job has one
    one = Transition(ref=held.ref, guard=Guard(fence=held.fence), to=to, changes=changes)
    (answer,) = await driver.apply(Op(name, 3), [one])
    assert answer.status is ApplyStatus.APPLIED
    (stored,) = await driver.get([held.ref])
    blocked = {"state": State.BLOCKED, "worker": None, "lease_until": None}
    also = blocked if to is State.BLOCKED else {}
    assert stored == msgspec.structs.replace(held, **{name: CHANGED[name]}, **also)
