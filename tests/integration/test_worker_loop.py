"""Only the worker's own stop ends a run without a verdict; a loop that goes down harms no job."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from uuid import uuid4

import pytest
from taskmux import State, Taskmux
from taskmux.model.errors import JobFailed
from taskmux.model.job import JobRecord


@pytest.fixture
async def mux():
    async with Taskmux("memory://") as mux:
        yield mux


def others() -> list[asyncio.Task]:
    """Return all tasks of this loop but this one and the test's."""
    return [task for task in asyncio.all_tasks() if not task.get_name().startswith("test")]


class TestAHandlerThatCancelsEverything:
    async def test_its_neighbours_run_again_and_the_worker_lives(self, mux):
        asyncio.current_task().set_name("test")
        runs: Counter[int] = Counter()
        together = asyncio.Barrier(4)

        @mux.task(max_attempts=1)
        async def vandal() -> None:
            await together.wait()
            for task in others():
                task.cancel()
            await asyncio.sleep(0)

        @mux.task(max_attempts=1, max_crashes=1)
        async def innocent(number: int) -> int:
            runs[number] += 1
            if runs[number] == 1:
                await together.wait()
                await asyncio.sleep(60)
            return number

        async with mux.worker(concurrency=4) as worker:
            good = [await innocent.enqueue(number) for number in range(3)]
            bad = await vandal.enqueue()
            with pytest.raises(JobFailed, match="CancelledError"):
                await bad.result(timeout="20s")
            assert [await job.result(timeout="20s") for job in good] == [0, 1, 2]
            later = await innocent.enqueue(7)
            runs[7] = 1
            assert await later.result(timeout="20s") == 7
            assert not worker.stopping
        for job in good:
            record = await job.record()
            assert (record.attempts, record.crashes, record.history) == (1, 0, ())
        assert (await bad.record()).attempts == 1

    async def test_a_sync_neighbour_is_waited_for(self, mux):
        asyncio.current_task().set_name("test")
        loop, began, cancelled = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
        runs = []

        @mux.task(max_attempts=1)
        async def vandal() -> None:
            await began.wait()
            for task in others():
                task.cancel()
            cancelled.set()

        @mux.task(max_attempts=1, max_crashes=0)
        def innocent() -> str:
            runs.append(1)
            loop.call_soon_threadsafe(began.set)
            assert cancelled.wait(20)
            return "finished"

        async with mux.worker(concurrency=2):
            good = await innocent.enqueue()
            await vandal.enqueue()
            assert await good.result(timeout="20s") == "finished"
        assert runs == [1]

    async def test_at_most_once_holds_for_a_neighbour_that_was_cut_off(self, mux):
        asyncio.current_task().set_name("test")
        starts = []
        both = asyncio.Barrier(2)

        @mux.task(max_attempts=1)
        async def vandal() -> None:
            await both.wait()
            for task in others():
                task.cancel()

        @mux.task(max_attempts=1, max_crashes=0)
        async def once() -> None:
            starts.append(1)
            await both.wait()
            await asyncio.sleep(60)

        async with mux.worker(concurrency=2):
            job = await once.enqueue()
            await vandal.enqueue()
            with pytest.raises(JobFailed, match="may start only once"):
                await job.result(timeout="20s")
        assert starts == [1]

    async def test_outcomes_on_their_way_arrive(self, mux):
        asyncio.current_task().set_name("test")

        @mux.task(max_attempts=1, max_crashes=0)
        async def vandal(number: int) -> int:
            for task in others():
                if task is not asyncio.current_task():
                    task.cancel()
            return number

        jobs = [await vandal.enqueue(number) for number in range(30)]
        async with mux.worker(concurrency=3):
            while (await mux.queue("default").counts()).completed < 30:
                await asyncio.sleep(0.01)
        assert [await job.result() for job in jobs] == list(range(30))


async def record_of(url: str) -> JobRecord:
    async with Taskmux(url) as mux:
        return await mux.job("default", "j").record()


@pytest.fixture
def url():
    return f"memory://{uuid4().hex}"


class Long:
    """An app with a handler that only ends when it is stopped."""

    def __init__(self, url: str) -> None:
        self.mux = Taskmux(url)
        self.began = asyncio.Event()
        self.work = self.mux.task(name="work", max_attempts=1)(self.run)

    async def run(self) -> None:
        self.began.set()
        await asyncio.sleep(60)


class TestALoopThatGoesDown:
    def test_one_that_is_stopped_gives_its_jobs_back(self, url):
        async def main() -> None:
            app = Long(url)
            await app.work.options(id="j").enqueue()
            async with app.mux, app.mux.worker():
                await app.began.wait()
                asyncio.get_running_loop().stop()
                await asyncio.sleep(60)

        with pytest.raises(RuntimeError, match="stopped before"):
            asyncio.run(main())
        record = asyncio.run(record_of(url))
        assert record.state in (State.WAITING, State.DELAYED)  # it may be the first to notice
        assert (record.attempts, record.crashes) == (0, 0)

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
    @pytest.mark.parametrize("store", ["memory", "sqlite"])
    def test_one_that_a_childs_exit_ends_gives_back_what_may_run_again(self, kind, store, tmp_path):
        """By asyncio's rule these two end `asyncio.run`, whichever task raises them."""
        url = f"memory://{uuid4().hex}" if store == "memory" else f"sqlite:///{tmp_path}/jobs.db"
        mux = Taskmux(url)

        async def main() -> None:
            begun = asyncio.Barrier(3)

            async def leave() -> None:
                raise kind

            async def wait() -> None:
                await begun.wait()
                await asyncio.sleep(60)

            async def vandal() -> None:
                await begun.wait()
                asyncio.get_running_loop().create_task(leave())
                await asyncio.sleep(60)

            again = mux.task(name="again", max_attempts=1, max_crashes=1)(wait)
            once = mux.task(name="once", max_attempts=1, max_crashes=0)(wait)
            vandals = mux.task(name="vandal", max_attempts=1)(vandal)
            async with mux:
                for number, task in enumerate((again, once, vandals, once)):
                    await task.options(id=f"j{number}").enqueue()
                async with mux.worker(concurrency=3):
                    await asyncio.sleep(60)

        async def look() -> list[JobRecord]:
            async with Taskmux(url) as mux:
                return [await mux.job("default", f"j{number}").record() for number in range(4)]

        with pytest.raises(kind):
            asyncio.run(main())
        again, once, vandal, unbegun = asyncio.run(look())
        for record in (again, vandal, unbegun):
            assert record.state in (State.WAITING, State.DELAYED)
        assert once.state is State.DEAD  # it has begun, so nobody may begin it again
        assert "it may start only once" in once.reason
        for record in (again, once, vandal, unbegun):
            assert (record.attempts, record.crashes, record.error) == (0, 0, None)

    def test_a_worker_that_was_never_left_ends_with_its_loop(self, url):
        async def main() -> None:
            app = Long(url)
            await app.work.options(id="j").enqueue()
            await app.mux.worker().__aenter__()
            await app.began.wait()

        asyncio.run(main())
        record = asyncio.run(record_of(url))
        assert (record.attempts, record.crashes) == (0, 0)

    def test_one_that_is_closed_leaves_its_leases_to_lapse(self, url):
        loop = asyncio.new_event_loop()

        async def main() -> None:
            app = Long(url)
            await app.work.options(id="j").enqueue()
            self.worker = app.mux.worker()
            await self.worker.__aenter__()
            await app.began.wait()

        loop.run_until_complete(main())
        loop.close()
        gc.collect()
        record = asyncio.run(record_of(url))
        assert (record.state, record.attempts, record.crashes) == (State.ACTIVE, 0, 0)


SCRIPT = """
import asyncio
from taskmux import Taskmux

mux = Taskmux("sqlite:///jobs.db")
began = asyncio.Event()

@mux.task(name="work", max_attempts=1)
async def work() -> None:
    try:
        print("began", flush=True)
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise

async def main() -> None:
    await work.options(id="j").enqueue()
    async with mux, mux.worker(drain="1h") as worker:
        asyncio.get_running_loop().create_task(tell(worker))
        await asyncio.sleep(60)

async def tell(worker) -> None:
    await worker.stopping_began()
    for _ in range(20):  # an interrupt may tear anything that runs: let the drain come to rest
        await asyncio.sleep(0)
    print("draining", flush=True)

asyncio.run(main())
"""


def test_two_interrupts_of_asyncio_run_spend_nothing(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "began\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "draining\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "cancelled\n"
        process.wait(20)
    record = asyncio.run(record_of(f"sqlite:///{tmp_path}/jobs.db"))
    assert (record.state, record.attempts, record.crashes) == (State.WAITING, 0, 0)
