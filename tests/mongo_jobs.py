"""Drivers on an empty MongoDB, and short forms of what tests do with jobs of a queue `q`.

A test module takes the fixtures that it needs by name: `server = mongo_jobs.server`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from taskmux.driver import ClaimAsk, JobRecord, NewJob, Op, PushStatus, QueueSettings
from tests.mongo_servers import MongoServer, mongod_program, running

from taskmux_mongodb import MongoDriver

__all__ = [
    "FOREVER",
    "LONG",
    "claim",
    "created",
    "driver",
    "job",
    "limit",
    "needs_mongod",
    "other",
    "push",
    "server",
]

needs_mongod = pytest.mark.skipif(mongod_program() is None, reason="no mongod")

LONG = 60_000
"""Milliseconds of a lease that does not end within a test."""

FOREVER = 60.0
"""Seconds after which a test has failed."""

_PUSHED = 2_000


@pytest.fixture(scope="module")
def server() -> Iterator[MongoServer]:
    """Return a server of the module's own."""
    with running() as server:
        yield server


@pytest.fixture
async def driver(server: MongoServer) -> AsyncIterator[MongoDriver]:
    """Return an open driver on an empty database."""
    with server.client() as client:
        client.drop_database("taskmux")
    driver = MongoDriver(server.url)
    await driver.open()
    yield driver
    await driver.close()


@pytest.fixture
async def other(driver: MongoDriver) -> AsyncIterator[MongoDriver]:
    """Return another driver on the same database."""
    other = driver.fork()
    await other.open()
    yield other
    await other.close()


def job(name: str = "job", group: str | None = None, **fields: Any) -> JobRecord:
    """Return a job of queue `q`, unless told otherwise."""
    return JobRecord(**{"queue": "q", "id": name, "task": "t", "group": group} | fields)


async def push(
    driver: MongoDriver,
    *jobs: str | JobRecord,
    number: int = 1,
    by: str | None = None,
    **fields: Any,
) -> list[PushStatus]:
    """Push jobs, those that are names with these fields; return what was answered.

    Args:
        driver: the driver to push with.
        jobs: records, or the names of jobs.
        number: that of the operation; a large push is several operations.
        by: who pushes: an origin named after the first job, unless told otherwise.
        fields: of the jobs that are names.
    """
    records = [job(one, **fields) if isinstance(one, str) else one for one in jobs]
    origin = by or f"{records[0].queue} {records[0].id}"
    answers = []
    for start in range(0, len(records), _PUSHED):
        part = [NewJob(one) for one in records[start : start + _PUSHED]]
        answers += await driver.push(Op(origin, number + start), part)
    return [answer.status for answer in answers]


async def created(driver: MongoDriver, *jobs: str | JobRecord, **options: Any) -> None:
    """Push jobs that are all new; the options are those of `push`."""
    assert set(await push(driver, *jobs, **options)) == {PushStatus.CREATED}


async def claim(
    driver: MongoDriver,
    number: int = 1,
    *,
    by: str = "w",
    queue: str = "q",
    limit: int = 1,
    lease: int = LONG,
) -> list[JobRecord]:
    """Claim jobs for a worker; return them."""
    claimed = await driver.claim(Op(by, number), ClaimAsk(queue, by, limit, lease))
    return list(claimed.jobs)


async def limit(driver: MongoDriver, queue: str = "q", **settings: Any) -> None:
    """Give a queue these settings, whatever it had."""
    known = await driver.settings(queue)
    assert await driver.put_settings(queue, QueueSettings(rev=known.rev, **settings))
