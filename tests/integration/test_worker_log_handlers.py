"""Logging that raises, whatever it raises and wherever it is asked, harms no job and no worker."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from taskmux import Taskmux, hookimpl
from taskmux.cli.signals import CUT_OFF
from taskmux.conformance import FaultyDriver, refused
from taskmux.memory import MemoryDriver
from taskmux.model.errors import JobFailed

KINDS = [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]


class Raising:
    """Raises one kind after the other for each record of taskmux's."""

    def __init__(self) -> None:
        self._kinds = itertools.cycle(KINDS)
        self.raised: list[type[BaseException]] = []

    def __call__(self, *_: Any, **__: Any) -> Any:
        kind = next(self._kinds)
        self.raised.append(kind)
        raise kind("of the log's")


@contextmanager
def as_handler(raising: Raising) -> Iterator[None]:
    handler = logging.Handler()
    handler.emit = raising
    logging.getLogger("taskmux").addHandler(handler)
    yield
    logging.getLogger("taskmux").removeHandler(handler)


@contextmanager
def as_filter(raising: Raising) -> Iterator[None]:
    logging.getLogger("taskmux.worker").addFilter(raising)
    yield
    logging.getLogger("taskmux.worker").removeFilter(raising)


@contextmanager
def as_factory(raising: Raising) -> Iterator[None]:
    real = logging.getLogRecordFactory()

    def make(name: str, *args: Any, **named: Any) -> logging.LogRecord:
        return raising() if name.startswith("taskmux") else real(name, *args, **named)

    logging.setLogRecordFactory(make)
    yield
    logging.setLogRecordFactory(real)


@pytest.fixture(params=[as_handler, as_filter, as_factory])
def raising(request, caplog):
    caplog.set_level(logging.INFO, "taskmux")
    raising = Raising()
    with request.param(raising):
        yield raising


async def test_jobs_end_as_they_would_and_the_worker_drains(app, raising):
    mux: Taskmux = app()
    runs: list[int] = []

    @mux.task(name="good", max_attempts=1, max_crashes=0)
    async def good(number: int) -> int:
        runs.append(number)
        await asyncio.sleep(0)
        return number

    @mux.task(name="flaky", max_attempts=2, backoff=0)
    def flaky() -> None:
        raise ValueError("real")

    async with mux.worker(concurrency=3) as worker:
        bad = [await flaky.enqueue() for _ in range(5)]
        unknown = await mux.enqueue("nosuch")
        jobs = [await good.enqueue(number) for number in range(20)]
        assert [await job.result(timeout="20s") for job in jobs] == list(range(20))
        for job in bad:
            with pytest.raises(JobFailed, match="failed 2 of 2 attempts"):
                await job.result(timeout="20s")
        while await unknown.status() != "delayed":
            await asyncio.sleep(0.005)
        assert len(worker._crew.tasks) == 3
        assert not worker.stopping
    assert set(raising.raised) == set(KINDS)
    assert sorted(runs) == list(range(20))
    for job in jobs:
        record = await job.record()
        assert (record.attempts, record.crashes, record.history) == (1, 0, ())
    for job in bad:
        record = await job.record()
        assert (record.attempts, record.crashes, len(record.history)) == (2, 0, 2)


class Serves:
    """A plug-in that serves test:// with one driver."""

    def __init__(self, driver: FaultyDriver) -> None:
        self._driver = driver

    @hookimpl
    def taskmux_driver(self, url: str) -> FaultyDriver | None:
        return self._driver if url.startswith("test:") else None


async def test_an_outage_is_waited_out_and_recovered_from(raising):
    away = asyncio.Event()
    driver = FaultyDriver(
        MemoryDriver(), lambda verb: refused if away.is_set() and verb != "open" else None
    )
    mux = Taskmux("test://", plugins=[Serves(driver)])
    together, done = asyncio.Event(), asyncio.Event()

    @mux.task(name="work", max_attempts=1, max_crashes=0)
    async def work() -> str:
        together.set()
        await done.wait()
        return "finished"

    async with mux, mux.worker(lease="1s") as worker:
        job = await work.enqueue()
        await together.wait()
        away.set()
        done.set()
        while not raising.raised:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # each duty meets it
        away.clear()
        assert await job.result(timeout="20s") == "finished"
        assert not worker.stopping
        record = await job.record()
    assert (record.attempts, record.crashes, record.history) == (1, 0, ())


APP = """
import logging
from taskmux import Taskmux

class Raises(logging.Handler):
    def emit(self, record):
        raise SystemExit(9)

logging.getLogger().addHandler(Raises())
logging.getLogger().setLevel(logging.INFO)

mux = Taskmux("sqlite:///jobs.db")

@mux.task(name="good", max_attempts=1, max_crashes=0)
async def good(number: int) -> int:
    return number

@mux.task(name="bad", max_attempts=1)
async def bad() -> None:
    raise ValueError
"""


def worker_process(place: Path, app: str, *flags: str) -> subprocess.Popen[str]:
    (place / "app.py").write_text(textwrap.dedent(app))
    return subprocess.Popen(
        [sys.executable, "-m", "taskmux", "worker", "app:mux", *flags],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_worker_process_drains_cleanly(tmp_path):
    async def run() -> None:
        async with Taskmux(f"sqlite:///{tmp_path / 'jobs.db'}") as mux:
            bad = await mux.enqueue("bad", max_attempts=1)
            jobs = [await mux.enqueue("good", {"number": number}) for number in range(10)]
            assert [await job.result(timeout="20s") for job in jobs] == list(range(10))
            while await bad.status() != "dead":
                await asyncio.sleep(0.02)

    with worker_process(tmp_path, APP) as process:
        try:
            asyncio.run(run())
            process.send_signal(signal.SIGTERM)
            said = process.stderr.read()
            assert process.wait(20) == 0, said
        finally:
            process.kill()
    assert "taskmux: logging failed (SystemExit)" in said
    assert "Stopped." in said


STUBBORN = """
import logging
import time
from pathlib import Path
from taskmux import Taskmux

class Raises(logging.Handler):
    def flush(self):
        raise SystemExit(9)

logging.getLogger().addHandler(Raises())

mux = Taskmux("sqlite:///jobs.db")

@mux.task(name="stubborn")
def stubborn() -> None:
    Path("began").touch()
    time.sleep(300)
"""


def test_a_process_that_leaves_a_handler_behind_ends_though_the_log_cannot_be_closed(tmp_path):
    async def begun() -> None:
        async with Taskmux(f"sqlite:///{tmp_path / 'jobs.db'}") as mux:
            await mux.enqueue("stubborn")
            async with asyncio.timeout(20):
                while not (tmp_path / "began").exists():
                    await asyncio.sleep(0.02)

    with worker_process(tmp_path, STUBBORN, "--drain", "50ms") as process:
        try:
            asyncio.run(begun())
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == CUT_OFF
        finally:
            process.kill()
