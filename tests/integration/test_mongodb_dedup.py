"""Deduplication keys in MongoDB: what is killed between two writes is finished by whoever comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC
from typing import Any

import pymongo
import pytest
from msgspec.structs import replace
from taskmux.driver import (
    ApplyStatus,
    ClaimAsk,
    Dedup,
    JobRecord,
    NewJob,
    Op,
    PruneAsk,
    Pushed,
    PushStatus,
    Ref,
    State,
    transition,
)
from tests.integration.conftest import database_of_its_own

from taskmux_mongodb import MongoDriver

LATEST = Dedup("k", latest=True)
REPLACE = Dedup("k", replace=True)


class Killed(BaseException):
    """The process ends here."""


class Mortal:
    """A collection whose process is killed before its n-th write, or after it."""

    def __init__(self, collection: Any, life: Life) -> None:
        self._collection = collection
        self._life = life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._collection, name)
        if name not in {"insert_many", "insert_one", "update_one", "replace_one", "bulk_write"}:
            return found

        async def write(*args: Any, **kwargs: Any) -> Any:
            self._life.pass_by()
            done = await found(*args, **kwargs)
            self._life.pass_by()
            return done

        return write


class Life:
    """Counts the moments before and after writes; the process is killed at one of them."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.passed = 0

    def pass_by(self) -> None:
        self.passed += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed


@pytest.fixture
def url(mongodb_url: str) -> str:
    return database_of_its_own(mongodb_url)


@pytest.fixture
def database(url: str) -> Iterator[Any]:
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        yield client.get_default_database()


@pytest.fixture
async def driver(url: str) -> AsyncIterator[MongoDriver]:
    driver = MongoDriver(url)
    await driver.open()
    yield driver
    await driver.close()


@pytest.fixture
async def mortal(driver: MongoDriver) -> AsyncIterator[tuple[MongoDriver, Life]]:
    """Return another instance, and how long it lives."""
    other, life = driver.fork(), Life()
    await other.open()
    store: Any = other._store
    store.jobs = Mortal(store.jobs, life)
    store.replacements = Mortal(store.replacements, life)
    yield other, life
    await other.close()


def new(name: str, dedup: Dedup | None = LATEST, **fields: Any) -> NewJob:
    said = {"queue": "q", "id": name, "task": "t", "dedup": dedup, "payload": name.encode()}
    return NewJob(JobRecord(**said | fields))


async def push(driver: MongoDriver, op: Op, *news: NewJob) -> list[Pushed]:
    return list(await driver.push(op, news))


async def running(driver: MongoDriver, number: int, name: str, **fields: Any) -> JobRecord:
    await push(driver, Op("p", number), new(name, **fields))
    (job,) = (await driver.claim(Op("w", number), ClaimAsk("q", "w", 1, 60_000))).jobs
    return job


MOMENTS = range(40)


class TestKilled:
    @pytest.mark.parametrize("again", [True, False])
    async def test_while_it_stores_a_successor(self, driver, mortal, again) -> None:
        """Sent again or not: there is one successor at most, and it waits when the owner ends."""
        other, life = mortal
        for moment in MOMENTS:
            owner = await running(driver, moment, f"owner-{moment}")
            op, job, life.left = Op(f"o{moment}", 1), new(f"next-{moment}"), moment
            try:
                await other.push(op, [job])
            except Killed:
                pass
            else:
                break
            if again:
                assert await push(driver, op, job) == [Pushed(PushStatus.CREATED, job.job.id)]
            await driver.apply(Op("e", moment), [transition.complete(owner, None)])
            await driver.prune(PruneAsk("q", memory=600_000))
            (stored,) = await driver.get([job.job.ref])
            assert stored is None or stored.state is State.WAITING
            assert (stored is not None) or not again
            owned_by = None if stored is None else stored.id
            assert await driver.dedup_owner("q", "k") == owned_by
            await driver.apply(Op("r", moment), [transition.remove(job.job.ref)])
        assert moment > 2

    async def test_while_it_ends_an_owner(self, driver, mortal) -> None:
        other, life = mortal
        for moment in MOMENTS:
            owner = await running(driver, moment, f"owner-{moment}")
            await push(driver, Op("q", moment), new(f"next-{moment}"))
            op, end, life.left = Op(f"o{moment}", 1), [transition.complete(owner, None)], moment
            try:
                await other.apply(op, end)
            except Killed:
                pass
            else:
                break
            if moment % 2:
                answers = await driver.apply(op, end)
                assert {one.status for one in answers} <= {
                    ApplyStatus.APPLIED,
                    ApplyStatus.REPEATED,
                }
            else:
                await driver.apply(Op("e", moment), end)
                await driver.prune(PruneAsk("q", memory=600_000))
            (stored,) = await driver.get([Ref("q", f"next-{moment}")])
            assert stored is not None
            assert stored.state is State.WAITING
            assert await driver.dedup_owner("q", "k") == stored.id
            await driver.apply(Op("r", moment), [transition.remove(stored.ref)])
        assert moment > 2

    async def test_while_it_replaces_an_owner(self, driver, mortal) -> None:
        """A repeat replaces once, though the job that got the content has ended meanwhile."""
        other, life = mortal
        for moment in MOMENTS:
            first, second = f"first-{moment}", f"second-{moment}"
            await push(driver, Op("p", moment), new(first, REPLACE))
            op, job, life.left = Op(f"o{moment}", 1), new(second, REPLACE), moment
            try:
                await other.push(op, [job])
            except Killed:
                pass
            else:
                break
            (claimed,) = (await driver.claim(Op("w", moment), ClaimAsk("q", "w", 1, 60_000))).jobs
            await driver.apply(Op("e", moment), [transition.complete(claimed, None)])
            replaced = claimed.payload == second.encode()
            (answer,) = await push(driver, op, job)
            assert answer == (
                Pushed(PushStatus.REPLACED, first)
                if replaced
                else Pushed(PushStatus.CREATED, second)
            )
            jobs = (await driver.claim(Op("w2", moment), ClaimAsk("q", "w", 9, 60_000))).jobs
            assert [one.id for one in jobs] == ([] if replaced else [second])
            ends = [transition.complete(one, None) for one in jobs]
            await driver.apply(Op("e2", moment), ends)
        assert moment > 2


class TestStored:
    async def test_a_key_is_kept_by_a_record_as_long_as_it_is_owned(self, driver, database) -> None:
        """The server removes no document that still owns its key for a time."""
        day = 86_400_000
        dedup = Dedup("k", ttl=2 * day)
        await running(driver, 1, "job", dedup=dedup)
        (job,) = await driver.get([Ref("q", "job")])
        assert job is not None
        end = replace(transition.complete(job, None), retention=transition.Keep(day))
        await driver.apply(Op("e", 1), [end])
        document = database["jobs"].find_one({"_id": "q/job"})
        expire_at = document["expire_at"].replace(tzinfo=UTC)
        assert round(expire_at.timestamp() * 1000) == document["until"]
        assert document["owns"] == "q/k"

    async def test_documents_of_the_version_before_own_their_keys(self, url, database) -> None:
        driver = MongoDriver(url)
        await driver.open()
        await push(driver, Op("p", 1), new("a", Dedup("k")), new("b", Dedup("other")))
        (job,) = (await driver.claim(Op("w", 1), ClaimAsk("q", "w", 1, 60_000))).jobs
        await driver.apply(Op("e", 1), [transition.complete(job, None)])
        await driver.close()
        database["jobs"].update_many({}, {"$unset": {"owns": ""}})
        database["jobs"].drop_index("dedup")
        database["jobs"].create_index(
            [("queue", 1), ("dedup", 1)],
            name="dedup",
            unique=True,
            partialFilterExpression={"dedup": {"$exists": True}, "finished_at": None},
        )
        database["meta"].update_one({"_id": "schema"}, {"$set": {"version": 2}})
        driver = MongoDriver(url)
        await driver.open()
        assert await driver.dedup_owner("q", "k") is None
        assert await driver.dedup_owner("q", "other") == "b"
        (answer,) = await push(driver, Op("p", 2), new("c", Dedup("other")))
        assert answer == Pushed(PushStatus.DEDUPLICATED, "b")
        (answer,) = await push(driver, Op("p", 3), new("d", Dedup("k")))
        assert answer == Pushed(PushStatus.CREATED, "d")
        await driver.close()
