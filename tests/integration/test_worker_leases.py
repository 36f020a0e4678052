"""Leases: kept, given up, lost and recovered. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from msgspec.structs import replace
from taskmux import Context, State, Taskmux, hookimpl
from taskmux.conformance import Fault, FaultyDriver, refused
from taskmux.driver import ClaimAsk, Driver, Op, ReclaimAsk
from taskmux.model import transition
from taskmux.model.errors import JobCancelled, JobFailed, LeaseLost
from taskmux.model.job import JobRecord
from taskmux.model.transition import Changes
from taskmux.plugins.loading import driver_for, plugin_manager

LEASE = "200ms"


@contextlib.contextmanager
def beside(make: Callable[[], Taskmux]) -> Iterator[None]:
    """Run a worker on an event loop of its own, in another thread."""
    running, stop = threading.Event(), threading.Event()

    async def work() -> None:
        mux = make()
        async with mux.worker(lease=LEASE):
            running.set()
            await asyncio.to_thread(stop.wait)
        await mux.close()

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    try:
        assert running.wait(20)
        yield
    finally:
        stop.set()
        thread.join()


class TestABlockedEventLoop:
    async def test_its_leases_are_renewed_all_the_same(self, url, mux):
        runs: list[str] = []

        def declare(app: Taskmux) -> Taskmux:
            @app.task(name="block")
            async def block(ctx: Context) -> int:
                runs.append(ctx.worker)
                time.sleep(0.6)  # three leases; nothing on this loop can renew meanwhile
                return 1

            return app

        declare(mux)
        async with mux.worker(lease=LEASE):
            with beside(lambda: declare(Taskmux(url))):
                job = await mux.enqueue("block")
                assert await job.result(timeout="20s") == 1
        record = await job.record()
        assert len(runs) == 1
        assert (record.attempts, record.crashes) == (1, 0)

    async def test_one_that_is_blocked_for_too_long_gives_them_up(self, url, mux):
        started, others_work, taken = asyncio.Event(), asyncio.Event(), threading.Event()

        @mux.task(name="hang")
        async def hang() -> str:
            started.set()
            await others_work.wait()
            taken.wait(20)  # blocks the loop until the other worker has the job
            return "too late"

        def rescuer() -> Taskmux:
            app = Taskmux(url)

            @app.task(name="hang")
            async def rescue() -> str:
                taken.set()
                return "rescued"

            return app

        worker = mux.worker(lease=LEASE)
        # More than the interval at which the loop says that it turns.
        worker.options = replace(worker.options, max_block_ms=1500)
        async with worker:
            job = await mux.enqueue("hang")
            await started.wait()
            async with asyncio.timeout(20):
                while not (await job.record()).started:  # only then does a lapse count
                    await asyncio.sleep(0.005)
            with beside(rescuer):
                others_work.set()
                assert await job.result(timeout="20s") == "rescued"
        record = await job.record()
        assert (record.state, record.crashes) == (State.COMPLETED, 1)
        assert [entry.outcome for entry in record.history] == ["crashed"]


class Losses:
    """Counts lost leases."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.told = asyncio.Event()

    @hookimpl
    def taskmux_lease_lost(self, job: JobRecord, worker: str) -> None:
        self.jobs.append(job.id)
        self.told.set()


class CutOff:
    """A plan that keeps a worker from renewing and recovering until it is lifted."""

    def __init__(self) -> None:
        self.lifted = False
        self.renewals = threading.Semaphore(0)

    def __call__(self, verb: str) -> Fault | None:
        if verb == "extend" and self.lifted:
            self.renewals.release()
            return None
        return refused if verb in ("extend", "reclaim") else None


async def steal(driver: Driver, job_id: str) -> JobRecord:
    """Reclaim the job as soon as its lease has lapsed, as another worker would."""
    async with asyncio.timeout(20):
        for number in range(1, 10_000):
            ask = ReclaimAsk("default", "thief", 1, 60_000)
            for job in await driver.reclaim(Op("thief", number), ask):
                assert job.id == job_id
                return job
            await asyncio.sleep(0.01)
    raise AssertionError


class TestALostLease:
    @pytest.fixture
    def cut_off(self):
        return CutOff()

    @pytest.fixture
    def losses(self):
        return Losses()

    @pytest.fixture
    def cut_off_app(self, url, app, cut_off, losses):
        from_faulty = FaultyDriver(driver_for(url, plugin_manager()), cut_off)

        class Serves:
            @hookimpl
            def taskmux_driver(self, url: str) -> Driver | None:
                return from_faulty if url.startswith("test:") else None

        return app(url="test://", plugins=[losses, Serves()])

    async def finish_as_thief(self, driver: Driver, stolen: JobRecord) -> None:
        await driver.apply(Op("thief", 20_000), [transition.complete(stolen, b'"the thief"')])

    async def test_the_handler_is_stopped_and_told_once(self, cut_off_app, cut_off, losses, driver):
        started, stopped, let_go = asyncio.Event(), asyncio.Event(), asyncio.Event()

        @cut_off_app.task()
        async def slow() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                stopped.set()
                await let_go.wait()
                raise

        async with cut_off_app.worker(lease=LEASE):
            job = await slow.enqueue()
            await started.wait()
            stolen = await steal(driver, job.id)
            cut_off.lifted = True
            await asyncio.wait_for(stopped.wait(), 20)
            await self.finish_as_thief(driver, stolen)
            for _ in range(4):  # renewal meets the lost lease again and again
                assert await asyncio.to_thread(cut_off.renewals.acquire, timeout=20)
            let_go.set()
        assert losses.jobs == [job.id]
        record = await job.record()
        assert (record.state, record.result, record.history) == (
            State.COMPLETED,
            b'"the thief"',
            (),
        )

    @pytest.mark.parametrize("ending", ["returns", "raises"])
    async def test_what_it_does_all_the_same_changes_nothing(
        self, cut_off_app, losses, driver, ending
    ):
        started, stolen_now = asyncio.Event(), asyncio.Event()

        @cut_off_app.task(max_attempts=1)
        async def zombie() -> str:
            started.set()
            await stolen_now.wait()
            if ending == "raises":
                raise ValueError("zombie")
            return "zombie"

        async with cut_off_app.worker(lease=LEASE):
            job = await zombie.enqueue()
            await started.wait()
            stolen = await steal(driver, job.id)
            stolen_now.set()
            await asyncio.wait_for(losses.told.wait(), 20)
            assert (await job.record()).worker == "thief"
            await self.finish_as_thief(driver, stolen)
        record = await job.record()
        assert (record.state, record.result, record.error) == (
            State.COMPLETED,
            b'"the thief"',
            None,
        )
        assert losses.jobs == [job.id]

    @pytest.mark.parametrize("ending", ["returns", "raises"])
    async def test_what_it_answers_to_being_stopped_changes_nothing(
        self, cut_off_app, cut_off, losses, driver, ending
    ):
        started = asyncio.Event()

        @cut_off_app.task(max_attempts=1)
        async def stubborn() -> str:
            try:
                started.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if ending == "raises":
                    raise ValueError("stubborn") from None
            return "stubborn"

        async with cut_off_app.worker(lease=LEASE):
            job = await stubborn.enqueue()
            await started.wait()
            stolen = await steal(driver, job.id)
            cut_off.lifted = True
            await asyncio.wait_for(losses.told.wait(), 20)
            await self.finish_as_thief(driver, stolen)
        assert (await job.record()).result == b'"the thief"'
        assert losses.jobs == [job.id]

    async def test_its_notes_are_refused(self, cut_off_app, driver):
        started, stolen_now = asyncio.Event(), asyncio.Event()
        refusals: list[type[BaseException]] = []

        @cut_off_app.task()
        async def zombie(ctx: Context) -> None:
            started.set()
            await stolen_now.wait()
            for note in (ctx.progress(1), ctx.log("x"), ctx.step("s", lambda: 1)):
                try:
                    await note
                except LeaseLost as error:
                    refusals.append(type(error))
            done.set()

        done = asyncio.Event()
        async with cut_off_app.worker(lease=LEASE):
            job = await zombie.enqueue()
            await started.wait()
            await steal(driver, job.id)
            stolen_now.set()
            await asyncio.wait_for(done.wait(), 20)
        assert refusals == [LeaseLost] * 3
        record = await job.record()
        assert (record.progress, record.logs, record.steps) == (None, (), {})


@contextlib.asynccontextmanager
async def ending(let_go: threading.Event) -> AsyncIterator[None]:
    """Let handlers go at the end, whatever happens."""
    try:
        yield
    finally:
        let_go.set()


class TestAJobThatIsClaimedAgain:
    """Its earlier run goes on in this process, since its handler cannot be stopped."""

    @pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
    async def test_it_starts_when_the_earlier_run_has_ended(self, url, app_on, driver, sync):
        plan = CutOff()
        mux = app_on(FaultyDriver(driver_for(url, plugin_manager()), plan))
        log: list[str] = []
        began, let_go = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def begin(fence: int) -> int:
            log.append(f"begin {fence}")
            loop.call_soon_threadsafe(began.set)
            return fence

        def in_thread(ctx: Context) -> int:
            fence = begin(ctx.fence)
            let_go.wait(20)
            log.append(f"end {fence}")
            return fence

        async def in_loop(ctx: Context) -> int:
            fence = begin(ctx.fence)
            while not let_go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)
            log.append(f"end {fence}")
            return fence

        mux.task(name="hold", max_crashes=9)(in_thread if sync else in_loop)

        @mux.task(name="probe")
        async def probe() -> None: ...

        async with mux.worker(concurrency=3, lease="500ms"), ending(let_go):
            job = await mux.enqueue("hold")
            await asyncio.wait_for(began.wait(), 20)
            stolen = await steal(driver, job.id)
            plan.lifted = True
            await driver.apply(Op("thief", 20_000), [transition.release(stolen)])
            async with asyncio.timeout(20):
                while (claimed := await job.record()).worker in (None, "thief"):
                    await asyncio.sleep(0.01)
            await (await mux.enqueue("probe")).result(timeout="20s")  # it would have begun by now
            while (await job.record()).lease_until == claimed.lease_until:  # and is renewed
                await asyncio.sleep(0.01)
            assert len(log) == 1
            let_go.set()
            assert await job.result(timeout="20s") == claimed.fence
        first, last = stolen.fence - 1, claimed.fence
        assert log == [f"begin {first}", f"end {first}", f"begin {last}", f"end {last}"]

    async def test_one_that_waits_for_it_is_given_back_at_a_stop(self, url, app_on, driver):
        plan = CutOff()
        mux = app_on(FaultyDriver(driver_for(url, plugin_manager()), plan))
        began, let_go = asyncio.Event(), asyncio.Event()

        @mux.task(name="hold", max_crashes=9)
        async def hold() -> None:
            began.set()
            while not let_go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await let_go.wait()

        async with mux.worker(concurrency=3, lease="500ms"):
            job = await mux.enqueue("hold")
            await asyncio.wait_for(began.wait(), 20)
            stolen = await steal(driver, job.id)
            plan.lifted = True
            await driver.apply(Op("thief", 20_000), [transition.release(stolen)])
            async with asyncio.timeout(20):
                while (await job.record()).worker in (None, "thief"):
                    await asyncio.sleep(0.01)
            stop = asyncio.ensure_future(asyncio.sleep(0))
            stop.add_done_callback(lambda _: let_go.set())
        record = await job.record()
        assert (record.state, record.attempts, record.crashes) == (State.WAITING, 0, 0)


class TestAVanishedWorker:
    """Claimed under a short lease by somebody who is never heard of again."""

    async def vanish_with(self, driver: Driver, *, started: bool, count: int = 1) -> None:
        ask = ClaimAsk("default", "vanished", count, 50)
        origin = f"vanished-{time.monotonic_ns()}"
        claimed = await driver.claim(Op(origin, 1), ask)
        assert len(claimed.jobs) == count
        if started:
            await driver.apply(Op(origin, 2), [transition.start(job) for job in claimed.jobs])

    async def test_its_job_is_redelivered_and_the_crash_is_counted(self, mux, driver):
        @mux.task()
        async def work() -> int:
            return 1

        job = await work.enqueue()
        await self.vanish_with(driver, started=True)
        async with mux.worker(lease=LEASE):
            assert await job.result(timeout="20s") == 1
        record = await job.record()
        assert (record.attempts, record.crashes) == (1, 1)
        (entry,) = record.history
        assert (entry.outcome, entry.worker) == ("crashed", "vanished")
        assert entry.fence < record.fence

    async def test_a_prefetched_one_goes_back_at_no_cost(self, mux, driver):
        @mux.task(max_crashes=0)
        async def work() -> int:
            return 1

        job = await work.enqueue()
        await self.vanish_with(driver, started=False)
        async with mux.worker(lease=LEASE):
            assert await job.result(timeout="20s") == 1
        record = await job.record()
        assert (record.crashes, record.history) == (0, ())

    async def test_at_most_once_never_starts_again(self, mux, driver):
        @mux.task(max_attempts=1, max_crashes=0)
        async def once() -> None:
            raise AssertionError("it started again")

        job = await once.enqueue()
        await self.vanish_with(driver, started=True)
        async with mux.worker(lease=LEASE):
            with pytest.raises(JobFailed, match="crashed its worker 1 times"):
                await job.result(timeout="20s")
        assert (await job.record()).attempts == 0

    async def test_at_most_once_is_in_the_store_before_a_prefetched_one_starts(self, mux):
        # Were the mark only on its way, a crash now would let the job start again.
        marked: list[bool] = []

        @mux.task(max_attempts=1, max_crashes=0)
        async def once(ctx: Context) -> None:
            marked.append((await mux.job(ctx.queue, ctx.id).record()).started)

        jobs = await mux.enqueue_many([once.bind() for _ in range(6)])
        async with mux.worker(concurrency=1):
            for job in jobs:
                await job.result(timeout="20s")
        assert marked == [True] * 6

    async def test_a_redelivered_job_is_started_in_the_store_before_it_runs(self, mux, driver):
        # It may be a poison message: a crash now must be counted.
        marked: list[bool] = []

        @mux.task()
        async def suspect(ctx: Context) -> None:
            marked.append((await mux.job(ctx.queue, ctx.id).record()).started)

        job = await suspect.enqueue()
        await self.vanish_with(driver, started=False)
        async with mux.worker(lease=LEASE):
            await job.result(timeout="20s")
        assert marked == [True]

    async def test_one_that_was_asked_to_cancel_is_cancelled(self, mux, driver):
        job = await mux.enqueue("t")
        await self.vanish_with(driver, started=True)
        assert await job.cancel() is State.ACTIVE
        async with mux.worker(lease=LEASE):
            with pytest.raises(JobCancelled, match="its worker was lost"):
                await job.result(timeout="20s")

    async def test_a_job_on_its_last_chance_runs_alone(self, mux, driver):
        running: set[str] = set()
        together: list[set[str]] = []
        others = asyncio.Event()

        @mux.task()
        async def work(name: str) -> None:
            running.add(name)
            together.append(set(running))
            if len(together) == 1:
                others.set()
            await asyncio.sleep(0.005)
            running.discard(name)

        suspect = await work.options(priority=1).enqueue("suspect")
        claimed = await driver.claim(Op("vanished", 1), ClaimAsk("default", "vanished", 1, 60_000))
        crashed_twice = transition.again(claimed.jobs[0], Changes(crashes=2), 0)
        await driver.apply(Op("vanished", 2), [crashed_twice])
        jobs = [await work.enqueue(f"{number}") for number in range(12)]
        async with mux.worker(concurrency=4):
            for job in [suspect, *jobs]:
                await job.result(timeout="20s")
        assert {"suspect"} in together
        assert not [names for names in together if "suspect" in names and len(names) > 1]
        assert max(map(len, together)) > 1
