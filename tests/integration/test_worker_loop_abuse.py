"""What a handler does to the event loop that it shares with others, the others must not feel."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from uuid import uuid4

import pytest
from taskmux import State, Taskmux
from taskmux.model.job import JobRecord

APP = """
import asyncio
import sys
from pathlib import Path
from taskmux import State, Taskmux

mux = Taskmux()

def raises(kind):
    def call(*args, **more):
        raise kind("of the app's own")
    return call

def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()

def errors_raise(kind) -> None:
    loop().set_exception_handler(raises(kind))
    loop().call_soon(raises(ValueError))

WAYS = {
    "task factory": lambda: loop().set_task_factory(raises(ValueError)),
    "task factory that exits": lambda: loop().set_task_factory(raises(SystemExit)),
    "exception handler": lambda: errors_raise(ValueError),
    "exception handler that exits": lambda: errors_raise(SystemExit),
    "executor": lambda: loop().create_task(loop().shutdown_default_executor()),
    "closed": lambda: loop().call_soon(loop().close),
    "no loop of the thread's": lambda: asyncio.set_event_loop(None),
}

@mux.task(name="vandal", max_attempts=1)
async def vandal(way: str) -> None:
    WAYS[way]()

async def number(value: int, seconds: float = 0) -> int:
    await asyncio.sleep(seconds)
    return value

@mux.task(name="neighbour", max_attempts=1, max_crashes=0)
async def neighbour(seconds: float) -> list[int]:
    Path("began").touch()
    await asyncio.sleep(seconds)
    both = await asyncio.gather(number(1), number(2))
    return [*both, await asyncio.to_thread(lambda: 3)]

@mux.task(name="in_a_thread", max_attempts=1, max_crashes=0)
def in_a_thread() -> int:
    return 4
"""

ONCE = {"max_attempts": 1, "max_crashes": 0}


@pytest.fixture(params=["sqlite", "redis", "mongodb"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    base = request.getfixturevalue(f"{request.param}_url")
    if request.param == "redis":
        return f"{base}{'&' if '?' in base else '?'}prefix=t{uuid4().hex[:12]}"
    scheme, rest = base.split("://")
    place, _, options = rest.partition("?")
    return f"{scheme}://{place.partition('/')[0]}/t{uuid4().hex}?{options}"


async def finished(job) -> JobRecord:
    async with asyncio.timeout(20):
        while not (record := await job.record()).finished_at:
            await asyncio.sleep(0.02)
    return record


@pytest.mark.parametrize(
    "way",
    [
        "task factory",
        "task factory that exits",
        "exception handler",
        "exception handler that exits",
        "executor",
        "closed",
        "no loop of the thread's",
    ],
)
def test_a_worker_process_goes_on_and_its_neighbours_run_once(tmp_path, url, way):
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    process = subprocess.Popen(
        [sys.executable, "-m", "taskmux", "worker", "app:mux"],
        cwd=tmp_path,
        env=os.environ | {"TASKMUX_URL": url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )

    async def run() -> list[JobRecord]:
        async with Taskmux(url) as mux:
            jobs = [await mux.enqueue("neighbour", {"seconds": 1.0}, **ONCE)]
            async with asyncio.timeout(20):
                while not (tmp_path / "began").exists():
                    await asyncio.sleep(0.01)
            vandal = await mux.enqueue("vandal", {"way": way}, **ONCE)
            await finished(vandal)
            jobs += [await mux.enqueue("neighbour", {"seconds": 0.0}, **ONCE) for _ in range(3)]
            jobs.append(await mux.enqueue("in_a_thread", **ONCE))
            return [await finished(job) for job in jobs]

    with process:
        try:
            records = asyncio.run(run())
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert [record.result for record in records] == [b"[1,2,3]"] * 4 + [b"4"], said
    for record in records:
        assert (record.attempts, record.crashes, record.history) == (1, 0, ())


# -- in the app's own event loop -----------------------------------------------------------------


@pytest.fixture(params=["memory", "sqlite"])
def here(request, tmp_path):
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'jobs.db'}"


def fails(*args, **more):
    raise ValueError("a task factory that fails")


async def shut_down_executor() -> None:
    await asyncio.get_running_loop().shutdown_default_executor()


async def set_task_factory() -> None:
    asyncio.get_running_loop().set_task_factory(fails)


@pytest.mark.parametrize("harm", [set_task_factory, shut_down_executor])
def test_a_worker_in_an_app_goes_on_and_drains(here, harm):
    async def main() -> list[JobRecord]:
        mux = Taskmux(here)
        harmed = asyncio.Event()

        @mux.task(name="vandal", max_attempts=1)
        async def vandal() -> None:
            await harm()
            harmed.set()

        @mux.task(name="neighbour", **ONCE)
        async def neighbour() -> str:
            await harmed.wait()
            return "finished"

        @mux.task(name="in_a_thread", **ONCE)
        def in_a_thread() -> str:
            return "finished"

        async with mux:
            try:
                async with mux.worker(concurrency=3):
                    jobs = [await neighbour.enqueue() for _ in range(2)]
                    jobs.append(await vandal.enqueue())
                    await harmed.wait()
                    jobs += [await neighbour.enqueue(), await in_a_thread.enqueue()]
                    return [await finished(job) for job in jobs]
            finally:
                asyncio.get_running_loop().set_task_factory(None)

    records = asyncio.run(main())
    assert [record.state for record in records] == [State.COMPLETED] * 5
    for record in records:
        assert (record.attempts, record.crashes, record.history) == (1, 0, ())
