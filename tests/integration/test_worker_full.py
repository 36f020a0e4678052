"""A store that is really full, or really takes no writes, for longer than the lease.

Nothing runs twice, producers are told, and all is settled once there is room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Protocol

import pytest
from pymongo import MongoClient
from taskmux import StoreDenied, StoreError, StoreFull, Taskmux
from tests import mongo_servers, servers

COUNT = 20
LEASE = "1s"
LONGER = 2.5
"""Seconds: more than two leases."""


class Store(Protocol):
    """A store that can be brought into trouble; `drains` if it takes outcomes all the same."""

    url: str
    error: type[StoreError]
    drains: bool

    def fill(self) -> None: ...

    def free(self) -> None: ...


class FullRedis:
    """A server whose memory is used up. Outcomes free some before they need any."""

    error: type[StoreError] = StoreFull
    drains = True

    def __init__(self, server: servers.RedisServer) -> None:
        self.url = server.url
        self._admin = server.client()

    def fill(self) -> None:
        self._admin.config_set("maxmemory-policy", "noeviction")
        self._admin.config_set("maxmemory", 1)

    def free(self) -> None:
        self._admin.config_set("maxmemory", 0)


class FullDisk:
    """A SQLite file on a disk without a free block."""

    error: type[StoreError] = StoreFull
    drains = False

    def __init__(self, disk: str) -> None:
        self.url = f"sqlite:///{disk}/jobs.db"
        self._ballast = Path(disk) / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            for size in (65_536, 512):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size) == size:
                        pass

    def free(self) -> None:
        self._ballast.unlink()


class ReadOnlyMongoDB:
    """A server whose user loses the right to write."""

    error: type[StoreError] = StoreDenied
    drains = False

    def __init__(self, server: mongo_servers.MongoServer) -> None:
        self._address = f"127.0.0.1:{server.port}"
        with server.client() as first:
            first.admin.command({"createUser": "root", "pwd": "root", "roles": ["root"]})
        self._command({"createUser": "worker", "pwd": "pw", "roles": []})
        self.free()
        self.url = f"mongodb://worker:pw@{self._address}/taskmux?authSource=admin"

    def fill(self) -> None:
        self._let("read")

    def free(self) -> None:
        self._let("readWrite")

    def _let(self, role: str) -> None:
        self._command({"updateUser": "worker", "roles": [{"role": role, "db": "taskmux"}]})

    def _command(self, command: dict[str, object]) -> None:
        with MongoClient(f"mongodb://root:root@{self._address}") as admin:
            admin.admin.command(command)


class Warnings(logging.Handler):
    """Keeps what the worker says of the trouble."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "what runs goes on" in (text := record.getMessage()):
            self.texts.append(text)


async def check_nothing_costs_twice(store: Store) -> None:
    """Fill a store while handlers run, let them end, wait, and free it."""
    runs: Counter[int] = Counter()
    begun, let_go, warnings = asyncio.Event(), asyncio.Event(), Warnings()
    logging.getLogger("taskmux.worker").addHandler(warnings)
    mux = Taskmux(store.url)

    @mux.task(name="work", max_crashes=9)
    async def work(number: int) -> int:
        runs[number] += 1
        if len(runs) == COUNT:
            begun.set()
        await let_go.wait()
        return number

    try:
        async with mux, mux.worker(concurrency=COUNT + 5, lease=LEASE):
            jobs = [await work.enqueue(number) for number in range(COUNT)]
            await asyncio.wait_for(begun.wait(), 20)
            store.fill()
            try:
                with pytest.raises(store.error):
                    for number in range(10_000):  # what is left of the last page may hold some
                        await mux.enqueue("other", {"text": "x" * 10_000}, queue=f"q{number % 3}")
                let_go.set()
                await asyncio.sleep(LONGER)  # what passes is the time of leases
                if store.drains:
                    assert [await job.result(timeout="30s") for job in jobs] == list(range(COUNT))
                else:
                    assert len(warnings.texts) == 1, warnings.texts
            finally:
                store.free()
            assert [await job.result(timeout="30s") for job in jobs] == list(range(COUNT))
            records = [await job.record() for job in jobs]
            again = await work.enqueue(0)
            assert await again.result(timeout="30s") == 0
    finally:
        logging.getLogger("taskmux.worker").removeHandler(warnings)
    assert runs == Counter(range(COUNT)) + Counter([0]), runs
    assert {(record.attempts, record.crashes) for record in records} == {(1, 0)}
    assert len(warnings.texts) <= 1


async def test_redis_without_memory() -> None:
    with servers.running() as server:
        await check_nothing_costs_twice(FullRedis(server))


@pytest.mark.skipif(mongo_servers.mongod_program() is None, reason="no mongod")
async def test_mongodb_that_may_only_be_read() -> None:
    with mongo_servers.running("--auth", replica_set=None) as server:
        await check_nothing_costs_twice(ReadOnlyMongoDB(server))


def _can_mount() -> bool:
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    command = [unshare, "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_sqlite_on_a_full_disk(tmp_path: Path) -> None:
    if not _can_mount():
        pytest.skip("needs a user namespace in which a small tmpfs can be mounted")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=24m none {disk}"
    program = f"{mount} && exec {sys.executable} -m {__name__} {disk}"
    command = ["unshare", "-rm", "sh", "-c", program]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert ended.returncode == 0, ended.stderr


if __name__ == "__main__":
    asyncio.run(check_nothing_costs_twice(FullDisk(sys.argv[1])))
