"""Several processes on one SQLite file: none loses, doubles or misses a job, whoever is killed.

Run as a program, this file is those processes.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace
from taskmux.driver import (
    ApplyStatus,
    ClaimAsk,
    FindAsk,
    HeldLease,
    JobRecord,
    LeaseStatus,
    LineSettings,
    NewJob,
    Op,
    PushStatus,
    QueueSettings,
    Rate,
    ReclaimAsk,
    Ref,
    State,
    StoreFull,
    StoreUnavailable,
    transition,
)

from taskmux_sqlite import SQLiteDriver
from taskmux_sqlite.store import Store

LEASE = 60_000
BATCH = 20


def new(name: str, payload: bytes = b"{}") -> NewJob:
    return NewJob(JobRecord(queue="q", id=name, task="t", payload=payload))


def in_an_hour() -> int:
    return time.time_ns() // 1_000_000 + 3_600_000


# -- the processes --------------------------------------------------------------------------------


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201 - read by the parent


async def produce(driver: SQLiteDriver, name: str, batches: str) -> None:
    for number in range(int(batches)):
        jobs = [new(f"{name}-{number}-{index}") for index in range(BATCH)]
        replies = await driver.push(Op(name, number), jobs)
        assert {reply.status for reply in replies} == {PushStatus.CREATED}
        say(number)


async def work(driver: SQLiteDriver, name: str, total: str) -> None:
    number = 0
    while (await driver.counts("q"))[State.COMPLETED] < int(total):
        number += 1
        claimed = await driver.claim(Op(name, number), ClaimAsk("q", name, 7, LEASE))
        if not claimed.jobs:
            await driver.wait(["q"], 1)
        done = [transition.complete(job, b"1") for job in claimed.jobs]
        for one, reply in zip(done, await driver.apply(Op(name, number), done), strict=True):
            say(one.ref.id, reply.status)


async def work_within_limits(driver: SQLiteDriver, name: str, total: str) -> None:
    """Say when each job started, and how many ran then: of all, and of its group."""
    number = 0
    while (await driver.counts("q"))[State.COMPLETED] < int(total):
        number += 1
        claimed = await driver.claim(Op(name, number), ClaimAsk("q", name, 3, LEASE))
        page = await driver.find(FindAsk(queue="q", state=State.ACTIVE))
        groups = [job.group for job in page.jobs]
        for job in claimed.jobs:
            say(claimed.now, job.id, len(groups), groups.count(job.group))
        done = [transition.complete(job, None) for job in claimed.jobs]
        await driver.apply(Op(name, number), done)
        if not claimed.jobs:
            await driver.wait(["q"], 1 if claimed.next_in is None else claimed.next_in / 1000)


async def hold(driver: SQLiteDriver, name: str) -> None:
    number = 0
    while (claimed := await driver.claim(Op(name, number), ClaimAsk("q", name, 5, LEASE))).jobs:
        number += 1
        say(*(f"{job.id}:{job.fence}" for job in claimed.jobs))


async def wait(driver: SQLiteDriver) -> None:
    await driver.claim(Op("waiter", 1), ClaimAsk("q", "waiter", 1, LEASE))
    waiting = asyncio.ensure_future(driver.wait(["q"], 60))
    await asyncio.sleep(0)
    await driver.counts("q")  # served after the wait was taken up
    say("waits")
    say(await waiting)


async def fill(driver: SQLiteDriver) -> None:
    number = 0
    try:
        while True:
            number += 1
            await driver.push(Op("filler", number), [new(f"{number}", b"x" * 50_000)])
    except StoreFull as error:
        say("full", error)
    await driver.close()
    await driver.open()
    number = 0
    ask = ClaimAsk("q", "worker", 50, LEASE)
    while (claimed := await driver.claim(Op("worker", number), ask)).jobs:
        number += 1
        done = [transition.complete(job, b"x" * 50) for job in claimed.jobs]
        await driver.apply(Op("worker", number), done)
    counts = await driver.counts("q")
    say("drained", counts[State.COMPLETED] > 100, counts[State.WAITING])


PROGRAMS = {
    "produce": produce,
    "work": work,
    "limits": work_within_limits,
    "hold": hold,
    "wait": wait,
    "fill": fill,
}


async def program(name: str, url: str, *arguments: str) -> None:
    driver = SQLiteDriver(url)
    await driver.open()
    await PROGRAMS[name](driver, *arguments)
    await driver.close()


async def fork_with_an_open_driver(url: str) -> None:
    """Fork while pushes are under way and a wait goes on, and use the file in both processes."""
    driver = SQLiteDriver(url)
    await driver.open()
    waiting = asyncio.ensure_future(driver.wait(["r"], 60))
    for number in range(5):
        pushes = [
            asyncio.ensure_future(driver.push(Op(f"{number}-{n}", 1), [new(f"{number}-{n}")]))
            for n in range(20)
        ]
        await asyncio.sleep(0)
        if os.fork() == 0:
            in_a_thread = threading.Thread(target=in_the_child, args=(driver, number))
            in_a_thread.start()  # which ends this process
            in_a_thread.join()
        await asyncio.gather(*pushes)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    say("woken", await waiting)
    say(*[(await driver.counts(queue))[State.WAITING] for queue in ("q", "r")])
    await driver.close()


def in_the_child(driver: SQLiteDriver, number: int) -> None:
    async def use() -> None:
        refused = []
        for call in (lambda: driver.counts("q"), lambda: driver.wait(["q"], 0)):
            try:
                await call()
            except StoreUnavailable as error:
                refused.append("forked" in str(error))
        assert refused == [True, True]
        other = driver.fork()
        await driver.close()
        for one in (driver, other):
            await one.open()
            job = new(f"{number}-{one is driver}").job
            await one.push(Op(f"child-{number}", 1), [NewJob(replace(job, queue="r"))])
        await driver.close()
        await other.close()

    status = 1
    try:
        asyncio.run(use())
        status = 0
    finally:
        os._exit(status)


def fork_behind_pythons_back(url: str) -> None:
    """Fork as a server written in C may do it, without Python's hooks."""
    driver = SQLiteDriver(url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(driver.open())
    if ctypes.PyDLL(None).fork() == 0:
        # Only what neither starts a thread nor lets one run: Python itself is not whole here.
        try:
            Store(driver._address, in_an_hour, brought=lambda: None)
        except StoreUnavailable as error:
            os._exit(7 if "post-fork hook" in str(error) else 8)
        os._exit(9)
    say(os.waitstatus_to_exitcode(os.wait()[1]))
    loop.run_until_complete(driver.push(Op("parent", 1), [new("a")]))
    loop.run_until_complete(driver.close())
    loop.close()


def fork_before_opening(url: str) -> None:
    """Fork with a driver that is not open, and open it in both processes."""
    driver = SQLiteDriver(url)
    name = "child" if (child := os.fork()) == 0 else "parent"

    async def use() -> None:
        await driver.open()
        await driver.push(Op(name, 1), [new(name)])
        await driver.close()

    asyncio.run(use())
    if child == 0:
        os._exit(0)
    say(os.waitpid(child, 0)[1])


# -- the tests ------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@contextmanager
def process(*arguments: object, options: str = "") -> Iterator[subprocess.Popen[str]]:
    name, file, *rest = map(str, arguments)
    command = [sys.executable, "-W", "error", __file__, name, f"sqlite:///{file}{options}", *rest]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def lines(child: subprocess.Popen[str]) -> list[str]:
    """Return what a process says until it ends, which must be well."""
    assert child.stdout is not None
    said = child.stdout.read().splitlines()
    assert child.wait() == 0
    return said


def check_integrity(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def ids(driver: SQLiteDriver, state: State) -> set[str]:
    page = await driver.find(FindAsk(queue="q", state=state, limit=1_000_000))
    return {job.id for job in page.jobs}


@pytest.mark.parametrize("synchronous", ["full", "normal"])
async def test_every_job_is_completed_by_exactly_one_worker(file: Path, synchronous: str) -> None:
    expected = {f"{p}-{n}-{i}" for p in "ab" for n in range(15) for i in range(BATCH)}
    options = f"?synchronous={synchronous}"
    with (
        process("work", file, "v", len(expected), options=options) as v,
        process("work", file, "w", len(expected), options=options) as w,
        process("produce", file, "a", 15, options=options) as a,
        process("produce", file, "b", 15, options=options) as b,
    ):
        for producer in (a, b):
            assert lines(producer) == [str(number) for number in range(15)]
        said = [line.split() for worker in (v, w) for line in lines(worker)]
    assert sorted(name for name, _ in said) == sorted(expected)
    assert {status for _, status in said} == {ApplyStatus.APPLIED}
    check_integrity(file)


async def test_processes_together_keep_the_limits(file: Path) -> None:
    rate = Rate(60, 1000, burst=5)
    driver = SQLiteDriver(f"sqlite:///{file}")
    await driver.open()
    groups = LineSettings(concurrency=2)
    await driver.put_settings("q", QueueSettings(concurrency=4, rate=rate, groups=groups))
    names = [f"{number}" for number in range(90)]
    jobs = [replace(new(name).job, group=f"g{int(name) % 5}") for name in names]
    await driver.push(Op("a", 1), [NewJob(job) for job in jobs])
    with (
        process("limits", file, "u", len(names)) as u,
        process("limits", file, "v", len(names)) as v,
        process("limits", file, "w", len(names)) as w,
    ):
        said = [tuple(map(int, line.split())) for one in (u, v, w) for line in lines(one)]
    await driver.close()
    starts = [start for start, *_ in said]
    assert sorted(name for _, name, *_ in said) == sorted(map(int, names))
    assert max(running for *_, running, _ in said) <= 4
    assert max(of_group for *_, of_group in said) <= 2
    windows = [sum(first <= start < first + rate.per for start in starts) for first in starts]
    assert max(windows) <= rate.count + rate.burst
    check_integrity(file)


@pytest.mark.parametrize("seed", range(6))
async def test_a_killed_producer_leaves_whole_batches(file: Path, seed: int) -> None:
    rng = Random(seed)
    with process("produce", file, "a", 100_000) as producer:
        assert producer.stdout is not None
        for _ in range(rng.randrange(1, 40)):
            acknowledged = int(producer.stdout.readline())
        producer.kill()
        acknowledged = max([acknowledged, *map(int, producer.stdout.read().split())])
    check_integrity(file)
    driver = SQLiteDriver(f"sqlite:///{file}")
    await driver.open()
    stored = await ids(driver, State.WAITING)
    whole = [{f"a-{n}-{i}" for i in range(BATCH)} for n in range(acknowledged + 2)]
    kept = acknowledged + 1 if stored == set().union(*whole[:-1]) else acknowledged + 2
    assert stored == set().union(*whole[:kept])
    # Whoever takes over the producer's operation finishes it, whether it was stored or not.
    again = [new(f"a-{acknowledged + 1}-{i}") for i in range(BATCH)]
    replies = await driver.push(Op("a", acknowledged + 1), again)
    assert {reply.status for reply in replies} == {PushStatus.CREATED}
    assert await ids(driver, State.WAITING) == set().union(*whole)
    await driver.close()


@pytest.mark.parametrize("seed", range(4))
async def test_a_killed_workers_jobs_come_back(file: Path, seed: int) -> None:
    driver = SQLiteDriver(f"sqlite:///{file}", clock=in_an_hour)
    await driver.open()
    await driver.push(Op("a", 1), [new(f"{n}") for n in range(1000)])
    with process("hold", file, "killed") as worker:
        assert worker.stdout is not None
        said = [worker.stdout.readline() for _ in range(Random(seed).randrange(1, 20))]
        worker.kill()
        said += worker.stdout.read().splitlines(keepends=True)
    check_integrity(file)
    held = dict(lease.split(":") for line in said if line.endswith("\n") for lease in line.split())
    ask = ReclaimAsk("q", "rescuer", 1000, LEASE)
    lapsed = {job.id: job for job in await driver.reclaim(Op("rescuer", 1), ask)}
    assert set(held) <= set(lapsed)
    assert len(lapsed) - len(held) in (0, 5)  # the last claim may be stored, but not said
    assert all(lapsed[name].fence > int(fence) for name, fence in held.items())
    zombie = [HeldLease(Ref("q", name), int(fence)) for name, fence in held.items()]
    assert {reply.status for reply in await driver.extend(zombie, LEASE)} == {LeaseStatus.LOST}
    assert len(await ids(driver, State.WAITING)) + len(lapsed) == 1000
    await driver.close()


async def test_a_push_wakes_a_worker_in_another_process(file: Path) -> None:
    driver = SQLiteDriver(f"sqlite:///{file}")
    await driver.open()
    with process("wait", file) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "waits\n"
        await driver.push(Op("a", 1), [new("job")])
        assert lines(worker) == ["True"]
    await driver.close()


def test_forks_and_their_parent_use_the_file_at_once(file: Path) -> None:
    command = [sys.executable, __file__, "fork_with_an_open_driver", f"sqlite:///{file}"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    # Both drivers of a child send the same operation: the second job of each is a repeat.
    assert answer.stdout.splitlines() == ["woken True", "100 5"]
    check_integrity(file)
    assert [path.name for path in file.parent.iterdir()] == ["jobs.db"]


@pytest.mark.skipif(sys.platform != "linux", reason="calls the C library's fork")
def test_a_copied_connection_puts_the_file_out_of_bounds(file: Path) -> None:
    command = [sys.executable, __file__, "fork_behind_pythons_back", f"sqlite:///{file}"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert answer.stdout.splitlines() == ["7"]
    check_integrity(file)


def test_a_fork_may_open_what_its_parent_has_not(file: Path) -> None:
    with process("fork_before_opening", file) as parent:
        assert lines(parent) == ["0"]
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT id FROM jobs ORDER BY id").fetchall()
    assert rows == [("child",), ("parent",)]


def _can_mount() -> bool:
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    command = [unshare, "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_a_full_disk_takes_no_jobs_and_lets_the_others_finish(tmp_path: Path) -> None:
    if not _can_mount():
        pytest.skip("needs a user namespace in which a small tmpfs can be mounted")
    disk = tmp_path / "disk"
    disk.mkdir()
    program = f"mount -t tmpfs -o size=40m none {disk} && exec {sys.executable} {__file__}"
    command = ["unshare", "-rm", "sh", "-c", f"{program} fill sqlite:///{disk}/jobs.db"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    full, drained = answer.stdout.splitlines()
    assert full.startswith("full Less than 16 MiB are free")
    assert drained == "drained True 0"


if __name__ == "__main__":
    if sys.argv[1] in PROGRAMS:
        asyncio.run(program(*sys.argv[1:]))
    elif sys.argv[1] == "fork_with_an_open_driver":
        asyncio.run(fork_with_an_open_driver(*sys.argv[2:]))
    else:
        globals()[sys.argv[1]](*sys.argv[2:])
