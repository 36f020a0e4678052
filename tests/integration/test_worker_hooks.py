"""Hooks are called in order, with the right arguments. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from taskmux import Fixed, JobRecord, State, hookimpl
from taskmux.driver import ClaimAsk, Op, PushStatus
from taskmux.model import transition
from taskmux.model.errors import JobCancelled, JobFailed
from taskmux.model.job import Ref
from taskmux.model.transition import Transition


class Recorder:
    """Writes every call down."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.buried = asyncio.Event()

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    @hookimpl
    def taskmux_enqueued(self, ref: Ref, task: str, status: PushStatus) -> None:
        self.calls.append(("enqueued", ref, task, status))

    @hookimpl
    def taskmux_started(self, job: JobRecord, worker: str) -> None:
        self.calls.append(("started", job, worker))

    @hookimpl
    def taskmux_settled(self, job: JobRecord, transition: Transition, seconds: float) -> None:
        self.calls.append(("settled", job, transition, seconds))

    @hookimpl
    def taskmux_dead(self, job: JobRecord) -> None:
        self.calls.append(("dead", job))
        self.buried.set()

    @hookimpl
    def taskmux_worker_started(self, worker: str, queues: tuple[str, ...]) -> None:
        self.calls.append(("worker_started", worker, queues))

    @hookimpl
    def taskmux_worker_stopped(self, worker: str) -> None:
        self.calls.append(("worker_stopped", worker))

    @hookimpl
    def taskmux_context(self, job: JobRecord) -> contextlib.AbstractContextManager[None]:
        return self.span(job)

    @contextlib.contextmanager
    def span(self, job: JobRecord) -> Iterator[None]:
        self.calls.append(("entered", job))
        try:
            yield
        except Exception as error:
            self.calls.append(("saw", type(error)))
            raise
        finally:
            self.calls.append(("left", job))


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def mux(app, recorder):
    return app(plugins=[recorder])


class TestHooks:
    @pytest.mark.parametrize("timeout", [None, "1h"])
    async def test_the_life_of_a_job(self, mux, recorder, timeout):
        @mux.task(name="work", timeout=timeout)
        async def work() -> int:
            recorder.calls.append(("ran",))
            return 1

        job = await work.enqueue()
        async with mux.worker(["default", "other"]) as worker:
            await job.result(timeout="20s")
            name = worker.name
        assert recorder.names() == [
            "enqueued",
            "worker_started",
            "started",
            "entered",
            "ran",
            "left",
            "settled",
            "worker_stopped",
        ]
        enqueued, began, started, entered, _, _, settled, ended = recorder.calls
        assert enqueued[1:] == (job.ref, "work", PushStatus.CREATED)
        assert began[1:] == (name, ("default", "other"))
        assert (started[1].ref, started[1].state, started[2]) == (job.ref, State.ACTIVE, name)
        assert entered[1] == started[1]
        assert (settled[1].ref, settled[2].to) == (job.ref, State.COMPLETED)
        assert (settled[1].state, settled[1].attempts, settled[1].result) == (
            State.COMPLETED,
            1,
            b"1",
        )
        assert settled[3] >= 0
        assert ended[1:] == (name,)

    async def test_failures_and_retries(self, mux, recorder):
        @mux.task(max_attempts=2, backoff=Fixed(0))
        async def broken() -> None:
            raise ValueError("no")

        async with mux.worker():
            job = await broken.enqueue()
            with pytest.raises(JobFailed):
                await job.result(timeout="20s")
        settled = [call[2].to for call in recorder.calls if call[0] == "settled"]
        assert settled == [State.WAITING, State.DEAD]
        assert recorder.names().count("saw") == 2

    async def test_the_record_is_told_as_it_is_after_the_run(self, mux, recorder):
        @mux.task(max_attempts=2, backoff=Fixed(0))
        async def broken() -> None:
            raise ValueError("no")

        async with mux.worker():
            job = await broken.enqueue()
            with pytest.raises(JobFailed):
                await job.result(timeout="20s")
        stored = await job.record()
        first, last = (call[1] for call in recorder.calls if call[0] == "settled")
        assert (first.state, first.attempts, len(first.history)) == (State.WAITING, 1, 1)
        assert first.error.message == "no"
        for field in ("state", "attempts", "crashes", "error", "history", "reason", "worker"):
            assert getattr(last, field) == getattr(stored, field)
        assert abs(last.finished_at - stored.finished_at) < 60_000  # by the worker's clock

    async def test_a_recovered_job_is_told_like_any_other(self, mux, recorder, driver):
        @mux.task()
        async def work() -> None: ...

        job = await work.enqueue()
        claimed = await driver.claim(Op("vanished", 1), ClaimAsk("default", "vanished", 1, 50))
        await driver.apply(Op("vanished", 2), [transition.start(claimed.jobs[0])])
        async with mux.worker(lease="1s"):
            await job.result(timeout="20s")
        crashed, done = [call for call in recorder.calls if call[0] == "settled"]
        assert (crashed[1].state, crashed[1].crashes) == (State.DELAYED, 1)
        assert [entry.outcome for entry in crashed[1].history] == ["crashed"]
        assert (done[1].state, done[1].crashes) == (State.COMPLETED, 1)

    async def test_a_job_that_dies_of_errors_is_told_when_the_store_has_it(self, mux, recorder):
        @mux.task(max_attempts=2, backoff=Fixed(0))
        async def broken() -> None:
            raise ValueError("no")

        async with mux.worker():
            job = await broken.enqueue()
            with pytest.raises(JobFailed):
                await job.result(timeout="20s")
        (told,) = [call[1] for call in recorder.calls if call[0] == "dead"]
        assert (told.ref, told.state, told.attempts) == (job.ref, State.DEAD, 2)
        assert (told.error.message, len(told.history)) == ("no", 2)
        assert recorder.names()[-2:] == ["dead", "worker_stopped"]

    async def test_a_job_that_dies_of_crashes_reaches_the_same_hook(self, mux, recorder, driver):
        @mux.task(max_crashes=1)
        async def work() -> None:
            raise NotImplementedError

        job = await work.enqueue()
        claimed = await driver.claim(Op("vanished", 1), ClaimAsk("default", "vanished", 1, 50))
        await driver.apply(Op("vanished", 2), [transition.start(claimed.jobs[0])])
        async with mux.worker(lease="1s"):
            with pytest.raises(JobFailed, match="crashed its worker"):
                await job.result(timeout="20s")
            await asyncio.wait_for(recorder.buried.wait(), 20)
        (told,) = [call[1] for call in recorder.calls if call[0] == "dead"]
        assert (told.ref, told.state, told.crashes) == (job.ref, State.DEAD, 1)
        assert told.error.type == "Crashed"

    async def test_other_endings_are_no_deaths(self, mux, recorder):
        @mux.task()
        async def work() -> None: ...

        async with mux.worker():
            await (await work.enqueue()).result(timeout="20s")
            late = await work.options(deadline=datetime(2001, 1, 1, tzinfo=UTC)).enqueue()
            with pytest.raises(JobCancelled):
                await late.result(timeout="20s")
        assert "dead" not in recorder.names()

    async def test_a_duplicate_is_told_as_one(self, mux, recorder):
        for _ in range(2):
            await mux.enqueue("t", id="x")
        await mux.enqueue_many([])
        assert [call[3] for call in recorder.calls] == [PushStatus.CREATED, PushStatus.DUPLICATE]

    async def test_a_paused_queue_begins_nothing(self, mux, recorder):
        @mux.task()
        async def work() -> None:
            raise NotImplementedError

        await mux.queue("default").pause()
        await work.enqueue()
        async with mux.worker():
            pass
        assert recorder.names() == ["enqueued", "worker_started", "worker_stopped"]

    async def test_sync_handlers_are_wrapped_too(self, mux, recorder):
        @mux.task(max_attempts=1)
        def broken() -> None:
            raise ValueError("no")

        async with mux.worker():
            job = await broken.enqueue()
            with pytest.raises(JobFailed):
                await job.result(timeout="20s")
        assert ("saw", ValueError) in recorder.calls

    async def test_an_observer_that_raises_harms_no_job(self, app, caplog):
        class Broken:
            @hookimpl
            def taskmux_enqueued(self):
                raise RuntimeError("observer failed")

            @hookimpl
            def taskmux_started(self):
                raise RuntimeError("observer failed")

            @hookimpl
            def taskmux_settled(self):
                raise RuntimeError("observer failed")

            @hookimpl
            def taskmux_dead(self):
                raise RuntimeError("observer failed")

            @hookimpl
            def taskmux_context(self):
                raise RuntimeError("observer failed")

        mux = app(plugins=[Broken()])

        @mux.task(max_attempts=1)
        async def work(divisor: int) -> int:
            return 1 // divisor

        async with mux.worker():
            with pytest.raises(JobFailed):
                await (await work.enqueue(0)).result(timeout="20s")
            assert await (await work.enqueue(1)).result(timeout="20s") == 1
        assert caplog.text.count("RuntimeError: observer failed") == 9
