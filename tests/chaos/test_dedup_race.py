"""Races for deduplication keys: 64 producers in four processes, 1,000 keys, one job each.

Run as a program, this file is one of those processes.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from taskmux import Dedup, State, Taskmux
from tests import mongo_servers, servers

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[2]
KEYS = 1_000
PROCESSES = 4
PRODUCERS = 16
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "throttle": {"ttl": "1h"},
    "replace": {"replace": True},
}


async def produce(mux: Taskmux, mode: str, number: int, count: int) -> list[tuple[str, str, str]]:
    """Enqueue a job of each key, in an order of this producer's own."""
    keys = [f"key-{at}" for at in range(count)]
    Random(number).shuffle(keys)
    told: list[tuple[str, str, str]] = []
    for first in range(0, count, 100):
        some = keys[first : first + 100]
        calls = [work(mux, Dedup(key, **MODES[mode])).bind(key) for key in some]
        jobs = await mux.enqueue_many(calls)
        told += [(key, job.id, str(job.pushed)) for key, job in zip(some, jobs, strict=True)]
    return told


def work(mux: Taskmux, dedup: Dedup) -> Any:
    task = mux.tasks.get("work")
    assert task is not None
    return task.options(dedup=dedup, enqueue_timeout=None)


def made(url: str) -> Taskmux:
    mux = Taskmux(url)

    @mux.task(name="work", queue="race")
    async def work(key: str) -> None:
        raise NotImplementedError(key)

    return mux


async def process(url: str, mode: str, count: int, first: int) -> list[tuple[str, str, str]]:
    """Run this process's producers and return what each was told: key, id, status."""
    async with made(url) as mux:
        sys.stdin.readline()  # all begin at once
        told = await asyncio.gather(
            *(produce(mux, mode, first + number, count) for number in range(PRODUCERS))
        )
    return [one for of_producer in told for one in of_producer]


def race(url: str, mode: str, count: int) -> list[tuple[str, str, str]]:
    """Run all processes and return what every producer was told."""
    command = [sys.executable, __file__, url, mode, str(count)]
    running = [
        subprocess.Popen(
            [*command, str(number * PRODUCERS)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    for one in running:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    told: list[tuple[str, str, str]] = []
    for one in running:
        out, _ = one.communicate(timeout=110)
        assert one.returncode == 0
        told += [tuple(row) for row in json.loads(out)]
    return told


async def check(url: str, told: list[tuple[str, str, str]], mode: str, count: int) -> None:
    """Check that each key has one job, and that every producer knows which."""
    ids: dict[str, set[str]] = defaultdict(set)
    statuses: dict[str, Counter[str]] = defaultdict(Counter)
    for key, job_id, status in told:
        ids[key].add(job_id)
        statuses[key][status] += 1
    assert len(ids) == count
    assert {len(one) for one in ids.values()} == {1}
    other = "replaced" if mode == "replace" else "deduplicated"
    everybody = PROCESSES * PRODUCERS
    assert {tuple(sorted(one.items())) for one in statuses.values()} == {
        (("created", 1), (other, everybody - 1))
    }
    async with made(url) as mux:
        jobs = [job async for job in mux.queue("race").jobs("waiting")]
        assert {job.id for job in jobs} == {one for of_key in ids.values() for one in of_key}
        counts = await mux.queue("race").counts()
        assert counts.total == len(jobs) == count
        assert {job.state for job in jobs} == {State.WAITING}


@pytest.mark.parametrize("mode", MODES)
class Races:
    """One live job a key, and all losers learn its id."""

    fewer: ClassVar[dict[str, int]] = {}
    """How many keys there are in a mode that takes this store too long for all of them."""

    async def test_one_live_job_of_each_key(self, url: str, mode: str) -> None:
        count = self.fewer.get(mode, KEYS)
        await check(url, await asyncio.to_thread(race, url, mode, count), mode, count)


class TestSQLite(Races):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/race.db"


@pytest.mark.skipif(servers.redis_program() is None, reason="no redis-server")
class TestRedis(Races):
    @pytest.fixture
    def url(self) -> Iterator[str]:
        with servers.running() as server:
            yield server.url


@pytest.mark.skipif(mongo_servers.mongod_program() is None, reason="no mongod")
class TestMongoDB(Races):
    fewer: ClassVar[dict[str, int]] = {"replace": 200}  # 64,000 majority writes of 1,000 documents

    @pytest.fixture
    def url(self) -> Iterator[str]:
        with mongo_servers.running() as server:
            yield server.url


class TestMemory:
    """One process has it, so the producers are on one loop."""

    @pytest.mark.parametrize("mode", MODES)
    async def test_one_live_job_of_each_key(self, mode: str) -> None:
        url = f"memory://{uuid4().hex}"
        async with made(url) as mux:
            everybody = range(PROCESSES * PRODUCERS)
            told = await asyncio.gather(*(produce(mux, mode, number, KEYS) for number in everybody))
            await check(url, [one for of_producer in told for one in of_producer], mode, KEYS)


if __name__ == "__main__":
    said = asyncio.run(process(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    sys.stdout.write(json.dumps(said))
