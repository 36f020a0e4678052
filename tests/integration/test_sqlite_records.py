"""Every field of a record has its place in a SQLite file, also those that are not invented yet."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from msgspec import inspect
from msgspec.structs import replace
from taskmux.driver import (
    TERMINAL,
    Applied,
    ApplyStatus,
    ClaimAsk,
    Dedup,
    FindAsk,
    Guard,
    JobRecord,
    Keep,
    Move,
    NewJob,
    Op,
    Place,
    Policy,
    PruneAsk,
    PushStatus,
    Ref,
    State,
    Transition,
    transition,
)

from taskmux_sqlite import SQLiteDriver, apply
from taskmux_sqlite.records import WITH_COLUMN

NOW = 1_700_000_000_000
FIELDS = {field.name: field for field in msgspec.structs.fields(JobRecord)}
CHANGEABLE = sorted(set(FIELDS) - {"queue", "id", "state"})


def sample(kind: inspect.Type) -> Any:  # noqa: PLR0911 - one line a kind of type
    """Return a value of a type that is unlike every default."""
    match kind:
        case inspect.UnionType():
            return sample(next(one for one in kind.types if not isinstance(one, inspect.NoneType)))
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return 77
        case inspect.FloatType():
            return 7.5
        case inspect.StrType():
            return "text é"
        case inspect.BytesType():
            return b"\x00\xff"
        case inspect.EnumType():
            return list(kind.cls)[-1]
        case inspect.StructType():
            return kind.cls(**{one.name: sample(one.type) for one in kind.fields})
        case inspect.DictType():
            return {sample(kind.key_type): sample(kind.value_type)}
        case inspect.VarTupleType():
            return (sample(kind.item_type),)
    raise AssertionError(f"give this type a sample: {kind}")


SAMPLES = {name: sample(inspect.type_info(field.type)) for name, field in FIELDS.items()}
FULL = JobRecord(**SAMPLES | {"queue": "q", "id": "full", "created_at": NOW, "fence": NOW})


@pytest_asyncio.fixture
async def driver(tmp_path: Path) -> AsyncIterator[SQLiteDriver]:
    driver = SQLiteDriver(f"sqlite:///{tmp_path / 'jobs.db'}", clock=lambda: NOW)
    await driver.open()
    yield driver
    await driver.close()


def row_of(tmp_path: Path, columns: str) -> tuple[object, ...]:
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        row: tuple[object, ...] = connection.execute(f"SELECT {columns} FROM jobs").fetchone()
        return row


def test_the_sample_has_every_field_set() -> None:
    blank = JobRecord(queue="", id="", task="")
    assert [name for name in FIELDS if getattr(FULL, name) == getattr(blank, name)] == []


def test_every_column_is_a_field() -> None:
    assert set(WITH_COLUMN) <= set(FIELDS)
    assert len(set(WITH_COLUMN)) == len(WITH_COLUMN)


@pytest.mark.parametrize("state", [State.WAITING, State.DELAYED, State.BLOCKED])
async def test_every_field_is_read_back_as_it_was_pushed(
    driver: SQLiteDriver, state: State
) -> None:
    job = replace(FULL, state=state)
    await driver.push(Op("a", 1), [NewJob(job)])
    assert await driver.get([job.ref]) == [job]
    assert list((await driver.find(FindAsk(queue="q", state=state))).jobs) == [job]


async def test_a_claim_has_every_field(driver: SQLiteDriver) -> None:
    job = replace(FULL, state=State.WAITING)
    await driver.push(Op("a", 1), [NewJob(job)])
    claimed = await driver.claim(Op("b", 1), ClaimAsk("q", "worker", 1, 1000))
    lease = {"state": State.ACTIVE, "worker": "worker", "lease_until": NOW + 1000}
    expected = replace(job, **lease, started=False, fence=NOW + 1)
    assert list(claimed.jobs) == [expected]
    assert await driver.get([job.ref]) == [expected]


@pytest.mark.parametrize("start", ["bare", "full"])
@pytest.mark.parametrize("name", CHANGEABLE)
async def test_every_field_can_be_changed_by_a_move(
    driver: SQLiteDriver, monkeypatch: pytest.MonkeyPatch, name: str, start: str
) -> None:
    bare = JobRecord(queue="q", id="full", task="t", created_at=NOW, fence=NOW)
    before, after = (bare, FULL) if start == "bare" else (replace(FULL, state=bare.state), bare)
    await driver.push(Op("a", 1), [NewJob(before)])
    value = getattr(after, name) if name not in {"created_at", "fence"} else 5
    move = Move(answer=Applied(ApplyStatus.APPLIED), state=State.BLOCKED, fields={name: value})
    monkeypatch.setattr(apply, "judge", lambda *_: move)
    one = Transition(ref=before.ref, guard=Guard(states=frozenset(State)))
    assert await driver.apply(Op("b", 1), [one]) == [move.answer]
    assert await driver.get([before.ref]) == [
        replace(before, **{"state": State.BLOCKED, name: value})
    ]


async def test_a_changed_key_is_owned(
    driver: SQLiteDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = JobRecord(queue="q", id="a", task="t", dedup=Dedup("old"))
    await driver.push(Op("a", 1), [NewJob(job)])
    fields = {"dedup": Dedup("new")}
    move = Move(answer=Applied(ApplyStatus.APPLIED), state=State.WAITING, fields=fields)
    with monkeypatch.context() as patched:
        patched.setattr(apply, "judge", lambda *_: move)
        await driver.apply(Op("b", 1), [transition.promote(job.ref)])
    others = [NewJob(replace(job, id=key, dedup=Dedup(key))) for key in ("old", "new")]
    replies = await driver.push(Op("a", 2), others)
    assert [reply.status for reply in replies] == [PushStatus.CREATED, PushStatus.DEDUPLICATED]


@pytest.mark.parametrize("to", [State.WAITING, State.DELAYED, State.BLOCKED])
@pytest.mark.parametrize("was", sorted(TERMINAL))
async def test_no_way_out_of_a_terminal_state_leaves_a_retention(
    driver: SQLiteDriver, tmp_path: Path, was: State, to: State
) -> None:
    policy = Policy(completed=Keep(0, 0), cancelled=Keep(0, 0), dead=Keep(0, 0))
    job = JobRecord(queue="q", id="a", task="t", dedup=Dedup("key"), policy=policy)
    await driver.push(Op("a", 1), [NewJob(job)])
    pending = Guard(states=frozenset({State.WAITING}))
    ended = Transition(ref=job.ref, guard=pending, to=was, retention=Keep(0, 0))
    await driver.apply(Op("a", 1), [ended])
    assert row_of(tmp_path, "finished_at, expires_at, keep_count") == (NOW, NOW, 0)
    back = Transition(ref=job.ref, guard=Guard(states=TERMINAL), to=to)
    assert await driver.apply(Op("a", 2), [back]) == [Applied(ApplyStatus.APPLIED, to)]
    assert row_of(tmp_path, "finished_at, expires_at, keep_count") == (None, None, None)
    assert await driver.prune(PruneAsk("q", memory=0, spare=0)) == 0
    again = await driver.push(Op("a", 2), [NewJob(replace(job, id="b"))])
    assert [(reply.status, reply.id) for reply in again] == [(PushStatus.DEDUPLICATED, "a")]


async def test_a_redriven_job_waits_behind_the_others(driver: SQLiteDriver) -> None:
    jobs = [NewJob(JobRecord(queue="q", id=name, task="t")) for name in ("c", "a", "b")]
    await driver.push(Op("a", 1), jobs)
    guard = Guard(states=frozenset({State.WAITING}))
    for place, order in ((Place.KEEP, "cab"), (Place.BACK, "abc"), (Place.FRONT, "cab")):
        ended = Transition(ref=Ref("q", "c"), guard=guard, to=State.DEAD)
        back = transition.redrive(Ref("q", "c"))
        await driver.apply(Op(place, 1), [ended, replace(back, place=place)])
        page = await driver.find(FindAsk(queue="q", state=State.WAITING))
        assert "".join(job.id for job in page.jobs) == order
