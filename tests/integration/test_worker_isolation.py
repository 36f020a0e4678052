"""What one handler does to its lane, the next must not feel."""

from __future__ import annotations

import asyncio
import contextvars

import pytest
from taskmux import Context, Snooze, Taskmux
from taskmux.api.batch import Ops
from taskmux.driver import ClaimAsk
from taskmux.model.errors import JobFailed

tenant = contextvars.ContextVar("tenant", default="none")


@pytest.fixture
async def mux():
    async with Taskmux("memory://") as mux:
        yield mux


async def test_context_variables_stay_with_their_run(mux):
    seen = []

    @mux.task()
    async def sets(name: str) -> None:
        seen.append(tenant.get())
        tenant.set(name)
        await asyncio.sleep(0)
        seen.append(tenant.get())

    @mux.task()
    def sets_in_a_thread(name: str) -> None:
        seen.append(tenant.get())
        tenant.set(name)

    async with mux.worker(concurrency=1):
        for task in (sets, sets_in_a_thread, sets, sets_in_a_thread):
            await (await task.enqueue("a")).result(timeout="20s")
    assert seen == ["none", "a", "none", "none", "a", "none"]


def cancel_now() -> None:
    asyncio.current_task().cancel()


async def cancels_itself() -> None:
    cancel_now()
    await asyncio.sleep(0)


async def cancels_itself_at_the_end() -> None:
    cancel_now()


async def cancels_its_lane_later() -> None:
    asyncio.get_running_loop().call_later(0.01, asyncio.current_task().cancel)


async def raises_generator_exit() -> None:
    raise GeneratorExit


def raises_stop_iteration() -> None:
    raise StopIteration


@pytest.mark.parametrize(
    "handler",
    [
        cancels_itself,
        cancels_itself_at_the_end,
        cancels_its_lane_later,
        raises_generator_exit,
        raises_stop_iteration,
    ],
)
async def test_no_lane_is_lost_to_what_a_handler_does(mux, handler):
    bad = mux.task(max_attempts=1)(handler)

    @mux.task()
    async def good() -> str:
        await asyncio.sleep(0.03)  # long enough to be hit by a cancellation that comes late
        return "good"

    async with mux.worker(concurrency=2) as worker:
        for _ in range(4):
            job = await bad.enqueue()
            try:
                await job.result(timeout="20s")
            except JobFailed:
                continue
        jobs = [await good.options(max_attempts=5, backoff=0).enqueue() for _ in range(4)]
        assert [await job.result(timeout="20s") for job in jobs] == ["good"] * 4
        assert [lane.done() for lane in worker._crew.tasks] == [False, False]


async def test_a_cancellation_that_a_handler_left_behind_hits_no_job_after_it(mux):
    ran = []

    @mux.task()
    async def leaves() -> None:
        asyncio.get_running_loop().call_later(0.05, asyncio.current_task().cancel)

    @mux.task(max_attempts=1, max_crashes=0)
    async def once() -> str:
        ran.append(1)
        gone = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.1, gone.set_result, None)
        await gone  # what the other left behind has come by then
        return "done"

    async with mux.worker(concurrency=1):
        for _ in range(3):
            await leaves.enqueue()
            job = await once.enqueue()
            assert await job.result(timeout="20s") == "done"
    assert len(ran) == 3


async def test_what_a_handler_left_behind_can_still_stop_the_worker(mux, caplog):
    """Its tasks carry the run on that they were begun in, which must not keep lanes alive."""
    stopped, waits = asyncio.Event(), asyncio.Event()
    worker = mux.worker(concurrency=1, drain="50ms")

    async def stop() -> None:
        await waits.wait()
        await worker.stop()
        stopped.set()

    kept = []

    @mux.task()
    async def leaves() -> None:
        kept.append(asyncio.create_task(stop()))

    @mux.task()
    async def long() -> None:
        waits.set()
        await asyncio.Event().wait()

    async with worker:
        await leaves.enqueue()
        job = await long.enqueue()
        async with asyncio.timeout(20):
            await stopped.wait()
    assert await job.status() == "waiting"
    assert not worker.left_behind
    assert "ignores" not in caplog.text


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
async def test_no_lane_is_lost_to_a_future_of_another_make_that_raises(mux, kind):
    class Future:
        _asyncio_future_blocking = True

        def add_done_callback(self, *_: object, **__: object) -> None:
            raise kind("of the app's own")

        def __await__(self):
            yield self

    @mux.task(max_attempts=1)
    async def bad() -> None:
        await Future()

    @mux.task()
    async def good() -> str:
        return "good"

    async with mux.worker(concurrency=1):
        job = await bad.enqueue()
        with pytest.raises(JobFailed, match=kind.__name__):
            await job.result(timeout="20s")
        assert await (await good.enqueue()).result(timeout="20s") == "good"


async def test_a_future_of_another_make_is_waited_for_and_cancelled(mux):
    class Future:
        """What asyncio takes for a future: by its protocol, not by its class."""

        def __init__(self) -> None:
            self.inner = asyncio.get_running_loop().create_future()
            self._asyncio_future_blocking = False

        def add_done_callback(self, call, **more: object) -> None:
            self.inner.add_done_callback(lambda _: call(self), **more)

        def cancel(self) -> None:
            self.inner.cancel()

        def __await__(self):
            self._asyncio_future_blocking = True
            yield self
            return self.inner.result()

    made = []

    @mux.task()
    async def waits() -> int:
        made.append(Future())
        asyncio.get_running_loop().call_later(0.01, made[0].inner.set_result, 3)
        return await made[0]

    @mux.task(timeout="50ms", max_attempts=1)
    async def is_cut() -> None:
        made.append(Future())
        await made[1]

    async with mux.worker(concurrency=1):
        assert await (await waits.enqueue()).result(timeout="20s") == 3
        with pytest.raises(JobFailed):
            await (await is_cut.enqueue()).result(timeout="20s")
    assert made[1].inner.cancelled()


async def test_a_drain_is_no_failure_even_if_a_library_says_so(mux):
    began = asyncio.Event()

    @mux.task(max_attempts=1)
    async def fetches() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("the connection was closed") from None

    async with mux.worker(drain=0):
        job = await fetches.enqueue()
        await began.wait()
    record = await job.record()
    assert (record.state, record.attempts) == ("waiting", 0)


async def test_a_word_of_the_handler_counts_even_in_a_drain(mux):
    began = asyncio.Event()

    @mux.task()
    async def waits(ctx: Context) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Snooze("1h") from None

    async with mux.worker(drain=0):
        job = await waits.enqueue()
        await began.wait()
    assert (await job.record()).state == "delayed"


async def test_a_stop_that_is_cut_short_gives_the_jobs_back(mux):
    began = asyncio.Event()

    @mux.task()
    async def long() -> None:
        began.set()
        await asyncio.Event().wait()

    worker = mux.worker()
    await worker.__aenter__()
    job = await long.enqueue()
    await began.wait()
    stopping = asyncio.ensure_future(worker.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    record = await job.record()
    assert (record.state, record.attempts, record.crashes) == ("waiting", 0, 0)


async def test_jobs_beside_a_crash_that_never_began_are_not_blamed(mux):
    """At most once: a neighbour that was claimed and not begun goes back unharmed."""

    @mux.task(max_attempts=1, max_crashes=0)
    async def once() -> str:
        return "ran"

    job = await once.enqueue()
    driver = (await mux._stores.connect("default")).driver
    await driver.claim(Ops().next(), ClaimAsk("default", "vanished", 1, 50))
    async with mux.worker(lease="200ms"):
        assert await job.result(timeout="20s") == "ran"


async def test_at_most_once_holds_in_a_drain_too(mux):
    starts = []
    began = asyncio.Event()

    @mux.task(max_attempts=1, max_crashes=0)
    async def once() -> None:
        starts.append(1)
        began.set()
        await asyncio.Event().wait()

    async with mux.worker(drain=0):
        job = await once.enqueue()
        await began.wait()
    async with mux.worker():
        with pytest.raises(JobFailed, match="may start only once"):
            await job.result(timeout="20s")
    assert starts == [1]
