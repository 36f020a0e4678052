"""What a worker says of its work, under the logger `taskmux.worker`."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from taskmux import Fail, Fixed, Taskmux, hookimpl
from taskmux.conformance import FaultyDriver, refused
from taskmux.memory import MemoryDriver
from taskmux.model.errors import JobFailed


@pytest.fixture
async def mux():
    async with Taskmux("memory://") as mux:
        yield mux


@pytest.fixture
def lines(caplog):
    """Return the records of one level; INFO is on."""
    caplog.set_level(logging.INFO, "taskmux.worker")

    def of(level: int) -> list[logging.LogRecord]:
        mine = (one for one in caplog.records if one.name == "taskmux.worker")
        return [one for one in mine if one.levelno == level]

    return of


async def test_a_job_that_is_done_is_one_line_of_info(mux, lines):
    @mux.task(name="work")
    async def work() -> int:
        return 1

    async with mux.worker():
        job = await work.enqueue()
        await job.result(timeout="20s")
    (line,) = lines(logging.INFO)
    assert line.getMessage().startswith(f"job {job.ref} (work): attempt 1 done in 0.0")
    assert "waited 0." in line.getMessage()
    assert (line.queue, line.job, line.task, line.attempt) == ("default", job.id, "work", 1)
    assert 0 <= line.seconds < 5
    assert 0 <= line.waited < 5


async def test_a_promoted_job_has_waited_since_it_was_made(mux, lines):
    @mux.task(name="work")
    async def work() -> None: ...

    job = await work.options(delay="1h").enqueue()
    made = (await job.record()).created_at
    await job.promote()
    while time.time_ns() // 1_000_000 < made + 50:
        await asyncio.sleep(0.01)
    async with mux.worker():
        await job.result(timeout="20s")
    (line,) = lines(logging.INFO)
    assert 0.05 <= line.waited < 20


async def test_it_is_not_asked_for_each_job_whether_anybody_listens(mux, caplog, monkeypatch):
    caplog.set_level(logging.WARNING, "taskmux.worker")
    logger = logging.getLogger("taskmux.worker")
    asked = []
    real = logger.isEnabledFor
    monkeypatch.setattr(logger, "isEnabledFor", lambda level: asked.append(level) or real(level))

    @mux.task()
    async def work() -> None: ...

    async with mux.worker():
        for job in [await work.enqueue() for _ in range(50)]:
            await job.result(timeout="20s")
    assert len(asked) < 20
    assert not caplog.records


async def test_a_retry_is_a_warning_with_the_last_line_and_when_next(lines, witness):
    mux = Taskmux("memory://", plugins=[witness])

    @mux.task(name="flaky", max_attempts=3, backoff=Fixed("90s", jitter=0))
    async def flaky() -> None:
        raise ValueError("first line\nlast line")

    async with mux, mux.worker():
        job = await flaky.enqueue()
        await witness.settled(job)
    (line,) = lines(logging.WARNING)
    assert line.getMessage() == (
        f"job {job.ref} (flaky): attempt 1 of 3 failed: ValueError: last line; next in 1m30s"
    )
    assert (line.error, line.next_in) == ("ValueError", 90.0)


async def test_a_dead_job_is_an_error_with_the_users_frames_only(mux, lines):
    @mux.task(name="hopeless")
    async def hopeless() -> None:
        raise Fail("no such user")

    async with mux.worker():
        job = await hopeless.enqueue()
        with pytest.raises(JobFailed):
            await job.result(timeout="20s")
    (line,) = lines(logging.ERROR)
    said = line.getMessage()
    assert said.startswith(f"job {job.ref} (hopeless) is dead: failed for good: no such user")
    assert "in hopeless" in said
    assert said.count('File "') == 1
    assert "/taskmux/" not in said.replace("/tests/", "")


async def test_an_unknown_task_is_warned_about_once_in_a_while(mux, lines):
    @mux.task()
    async def known() -> None: ...

    async with mux.worker(concurrency=1):
        jobs = [await mux.enqueue("nosuch") for _ in range(3)]
        for job in jobs:
            while await job.status() != "delayed":
                await asyncio.sleep(0.005)
    (line,) = lines(logging.WARNING)
    assert "has no task 'nosuch'" in line.getMessage()
    assert line.task == "nosuch"


async def test_a_blocked_loop_is_told_of_with_the_handlers_name(mux, lines):
    @mux.task(name="blocks")
    async def blocks() -> None:
        time.sleep(2.5)

    async with mux.worker():
        job = await blocks.enqueue()
        await job.result(timeout="20s")
    (line,) = lines(logging.WARNING)
    assert f"job {job.ref} (blocks)" in line.getMessage()
    assert "in blocks" in line.getMessage()
    assert line.seconds >= 1


async def test_an_outage_is_told_of_when_it_begins_and_when_it_is_over(lines):
    away = asyncio.Event()
    met = asyncio.Event()

    class Serves:
        @hookimpl
        def taskmux_driver(self, url):
            return driver if url.startswith("test:") else None

    def plan(verb):
        if not away.is_set() or verb == "open":
            return None
        met.set()
        return refused

    driver = FaultyDriver(MemoryDriver(), plan)
    mux = Taskmux("test://", plugins=[Serves()])

    @mux.task()
    async def work() -> int:
        return 1

    async with mux, mux.worker(lease="1s"):
        away.set()
        await met.wait()
        while not lines(logging.WARNING):
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.2)  # the duties meet it again and again
        assert len(lines(logging.WARNING)) == 1
        away.clear()
        job = await work.enqueue()
        await job.result(timeout="20s")
        while len(lines(logging.WARNING)) < 2:
            await asyncio.sleep(0.01)
    first, second = (line.getMessage() for line in lines(logging.WARNING))
    assert "cannot be reached" in first
    assert "is back after" in second
