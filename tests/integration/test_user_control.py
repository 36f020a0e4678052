"""Steering jobs and queues as users do it. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
import threading

import pytest
from taskmux import (
    BlockingHandle,
    BlockingQueue,
    Context,
    Fail,
    JobHandle,
    Queue,
    State,
    Taskmux,
)
from taskmux.model.errors import DeclarationError, JobCancelled, JobConflict, JobFailed, JobNotFound


class TestCancelling:
    @pytest.mark.parametrize("options", [{}, {"delay": "1h"}])
    async def test_a_job_that_has_not_begun_is_cancelled_at_once(self, mux, options):
        job = await mux.enqueue("t", **options)
        assert await job.cancel() is State.CANCELLED
        record = await job.record()
        assert (record.state, record.reason) == (State.CANCELLED, "on request")
        with pytest.raises(JobCancelled, match="was cancelled: on request"):
            await job.result()

    async def test_a_running_one_sees_it_from_another_app(self, app):
        mux = app()
        started = asyncio.Event()
        seen = []

        @mux.task()
        async def slow() -> None:
            try:
                started.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        async with mux.worker(lease="1h"):  # told by the heartbeat, long before any renewal
            job = await slow.enqueue()
            await started.wait()
            assert await app().job("default", job.id).cancel() is State.ACTIVE
            with pytest.raises(JobCancelled, match="was cancelled: on request"):
                await job.result(timeout="20s")
        assert seen == ["cancelled"]
        record = await job.record()
        assert (record.attempts, record.history[-1].outcome) == (0, "cancelled")

    async def test_a_sync_handler_polls_for_it(self, mux):
        started, stopped = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        @mux.task()
        def slow(ctx: Context) -> None:
            loop.call_soon_threadsafe(started.set)
            while not ctx.cancel_requested:
                threading.Event().wait(0.01)
            stopped.set()
            raise RuntimeError("stopped half-way")  # had it returned, it would be completed

        async with mux.worker():
            job = await slow.enqueue()
            await started.wait()
            await job.cancel()
            with pytest.raises(JobCancelled):
                await job.result(timeout="20s")
            assert await asyncio.to_thread(stopped.wait, 20)

    async def test_completing_wins(self, mux):
        started = asyncio.Event()

        @mux.task()
        async def stubborn() -> str:
            try:
                started.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "done all the same"
            return "never"

        async with mux.worker():
            job = await stubborn.enqueue()
            await started.wait()
            await job.cancel()
            assert await job.result(timeout="20s") == "done all the same"

    async def test_one_that_fails_after_it_was_asked_is_cancelled_and_not_retried(self, mux):
        started = asyncio.Event()

        @mux.task(max_attempts=5)
        async def rude() -> None:
            try:
                started.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ValueError("interrupted") from None

        async with mux.worker():
            job = await rude.enqueue()
            await started.wait()
            await job.cancel()
            with pytest.raises(JobCancelled):
                await job.result(timeout="20s")

    async def test_the_lane_goes_on_after_a_cancelled_handler(self, mux):
        started = asyncio.Event()

        @mux.task()
        async def slow() -> None:
            started.set()
            await asyncio.Event().wait()

        @mux.task(max_attempts=1)
        async def unlucky() -> None:  # a cancellation left over would be taken for the lane's
            task = asyncio.ensure_future(asyncio.Event().wait())
            task.cancel()
            await task

        @mux.task()
        async def nap() -> int:
            await asyncio.sleep(0)
            return 1

        async with mux.worker(concurrency=1):
            job = await slow.enqueue()
            await started.wait()
            await job.cancel()
            with pytest.raises(JobFailed):
                await (await unlucky.enqueue()).result(timeout="20s")
            assert await (await nap.enqueue()).result(timeout="20s") == 1

    async def test_a_finished_or_missing_one_is_a_typed_error(self, mux):
        job = await mux.enqueue("t")
        await job.cancel()
        with pytest.raises(JobConflict, match="cancelled"):
            await job.cancel()
        with pytest.raises(JobNotFound):
            await mux.job("default", "nosuch").cancel()


class TestRetryPromoteRemove:
    async def test_a_dead_one_is_retried_with_fresh_attempts(self, mux):
        fixed = asyncio.Event()

        @mux.task(max_attempts=1)
        async def mended(ctx: Context) -> int:
            if not fixed.is_set():
                raise Fail("not yet")
            return ctx.attempt

        async with mux.worker():
            job = await mended.enqueue()
            with pytest.raises(JobFailed):
                await job.result(timeout="20s")
            fixed.set()
            await job.retry()
            assert await job.result(timeout="20s") == 1
        record = await job.record()
        assert (record.attempts, record.reason, record.error) == (1, None, None)
        assert len(record.history) == 1  # what happened before is kept

    async def test_one_that_is_not_finished_is_not_retried(self, mux):
        job = await mux.enqueue("t")
        with pytest.raises(JobConflict, match="waiting"):
            await job.retry()

    async def test_a_retry_takes_its_dedup_key_again_or_says_why_not(self, mux):
        first = await mux.enqueue("t", dedup="k")
        await first.cancel()
        second = await mux.enqueue("t", dedup="k")
        assert not second.duplicate
        with pytest.raises(JobConflict, match="dedup key"):
            await first.retry()
        await second.remove()
        await first.retry()
        assert await first.status() is State.WAITING

    async def test_a_delayed_one_is_promoted(self, mux):
        job = await mux.enqueue("t", delay="1h")
        await job.promote()
        assert await job.status() is State.WAITING
        with pytest.raises(JobConflict):
            await job.promote()

    async def test_a_promotion_wakes_a_sleeping_worker(self, mux):
        @mux.task()
        async def work() -> int:
            return 1

        async with mux.worker():
            job = await work.options(delay="1h").enqueue()
            await job.promote()
            assert await job.result(timeout="20s") == 1

    async def test_removed_means_gone(self, mux):
        job = await mux.enqueue("t", id="x")
        await job.remove()
        for verb in (job.record, job.status, job.result, job.retry, job.promote, job.remove):
            with pytest.raises(JobNotFound, match="default/x"):
                await verb()
        assert not (await mux.enqueue("t", id="x")).duplicate

    async def test_a_running_one_is_not_removed(self, mux):
        started, let_go = asyncio.Event(), asyncio.Event()

        @mux.task()
        async def slow() -> None:
            started.set()
            await let_go.wait()

        async with mux.worker():
            job = await slow.enqueue()
            await started.wait()
            with pytest.raises(JobConflict, match="active"):
                await job.remove()
            let_go.set()
            await job.result(timeout="20s")
            await job.remove()


class TestPausing:
    async def test_a_paused_queue_gives_nothing_until_it_is_resumed(self, mux):
        @mux.task()
        async def work() -> int:
            return 1

        await mux.queue("held").pause()
        await mux.queue("held").pause()  # twice is as good as once
        assert (await mux.queue("held").settings()).paused
        job = await work.options(queue="held").enqueue()
        other = await work.options(queue="open").enqueue()
        async with mux.worker(["held", "open"]):  # the paused one is asked first
            await other.result(timeout="20s")
            assert await job.status() is State.WAITING
            await mux.queue("held").resume()
            assert await job.result(timeout="20s") == 1
        assert not (await mux.queue("held").settings()).paused


class TestReading:
    async def fill(self, mux: Taskmux) -> list[str]:
        jobs = [await mux.enqueue("t", id=f"j{n}", tags=["odd"] if n % 2 else []) for n in range(5)]
        return [job.id for job in jobs]

    async def test_counts(self, mux):
        @mux.task(max_attempts=1)
        async def work(fail: bool) -> None:
            if fail:
                raise Fail("no")

        async with mux.worker():
            for fail in (True, False, False):
                job = await work.enqueue(fail)
                if fail:
                    with pytest.raises(JobFailed):
                        await job.result(timeout="20s")
                else:
                    await job.result(timeout="20s")
        await mux.enqueue("t")
        await mux.enqueue("t", delay="1h")
        await (await mux.enqueue("t")).cancel()
        counts = await mux.queue("default").counts()
        assert (counts.waiting, counts.delayed, counts.completed) == (1, 1, 2)
        assert (counts.dead, counts.cancelled, counts.active, counts.blocked) == (1, 1, 0, 0)
        assert (counts.unfinished, counts.total) == (2, 6)

    async def test_an_unknown_queue_has_nothing(self, mux):
        assert (await mux.queue("nosuch").counts()).total == 0
        assert (await mux.queue("nosuch").page("dead")).jobs == []

    async def test_pages_by_cursor(self, mux):
        ids = await self.fill(mux)
        queue, seen, sizes, cursor = mux.queue("default"), [], [], None
        while True:
            page = await queue.page(State.WAITING, limit=2, cursor=cursor)
            seen += [job.id for job in page.jobs]
            sizes.append(len(page.jobs))
            if (cursor := page.cursor) is None:
                break
        assert seen == ids
        assert max(sizes) == 2

    async def test_jobs_by_state_order_and_tag(self, mux):
        ids = await self.fill(mux)
        queue = mux.queue("default")
        assert [job.id async for job in queue.jobs("waiting")] == ids
        assert [job.id async for job in queue.jobs("waiting", newest=True)] == ids[::-1]
        assert [job.id async for job in queue.jobs("waiting", tag="odd")] == ["j1", "j3"]
        assert [job.id async for job in queue.jobs("dead")] == []
        assert (await queue.get("j1")).tags == ("odd",)

    async def test_names_of_queues(self, mux):
        for name in ("b", "a"):
            await mux.enqueue("t", queue=name)
        await mux.queue("c").pause()
        assert await mux.queues() == ["a", "b", "c"]

    async def test_wrong_questions_are_typed_errors(self, mux):
        queue = mux.queue("default")
        with pytest.raises(DeclarationError, match="no state 'sleeping'"):
            await queue.page("sleeping")
        for limit in (0, 1001):
            with pytest.raises(DeclarationError, match="limit"):
                await queue.page("dead", limit=limit)
        with pytest.raises(JobNotFound):
            await queue.get("nosuch")


class TestRoutes:
    async def test_two_stores_in_one_app(self, app):
        elsewhere = "memory://elsewhere-" + str(id(app))
        mux = app(routes={"reports.*": elsewhere})

        @mux.task()
        async def work(number: int) -> int:
            return number

        here = await work.enqueue(1)
        there = await work.options(queue="reports.daily").enqueue(2)
        far = Taskmux(elsewhere)
        assert (await far.queue("reports.daily").counts()).waiting == 1
        assert (await far.queue("default").counts()).total == 0
        assert await mux.queues() == ["default", "reports.daily"]
        async with mux.worker(["default", "reports.daily"]):
            assert await here.result(timeout="20s") == 1
            assert await there.result(timeout="20s") == 2
            while not (rows := await mux.workers()) or len(rows[0].queues) < 2:
                await asyncio.sleep(0.01)  # a heartbeat comes to each store
            assert [sorted(row.queues) for row in rows] == [["default", "reports.daily"]]
        mixed = await mux.enqueue_many(
            [work.options(queue=queue).bind(1) for queue in ("a", "reports.b", "c")]
        )
        assert [job.queue for job in mixed] == ["a", "reports.b", "c"]
        assert (await far.queue("reports.b").counts()).waiting == 1
        await far.close()


class TestBlocking:
    async def test_a_thread_without_a_loop_enqueues_and_reads(self, app):
        mux = app()

        @mux.task()
        async def add(a: int) -> int:
            return a + 1

        def script() -> tuple[int, State]:
            job = add.blocking.enqueue(1)
            handle = job.blocking
            return handle.result(timeout="20s"), handle.status()

        async with mux.worker():
            assert await asyncio.to_thread(script) == (2, State.COMPLETED)
        await asyncio.to_thread(mux.close_blocking)

    async def test_its_other_verbs(self, mux):
        @mux.task()
        async def work() -> None:
            raise NotImplementedError

        def script() -> list[State]:
            handle = work.options(delay="1h").blocking.enqueue().blocking
            states = [handle.status(), handle.cancel()]
            handle.retry()
            return [*states, handle.record().state]

        states = await asyncio.to_thread(script)
        assert states == [State.DELAYED, State.CANCELLED, State.WAITING]
        await asyncio.to_thread(mux.close_blocking)

    async def test_every_verb_of_a_handle_has_a_blocking_one(self):
        def verbs(kind: type) -> set[str]:
            return {name for name in dir(kind) if not name.startswith("_")}

        told_at_enqueue = {"duplicate", "replaced"}
        assert verbs(JobHandle) - verbs(BlockingHandle) == {"blocking", "queue", *told_at_enqueue}
        assert verbs(Queue) - verbs(BlockingQueue) == {"blocking"}

    async def test_a_job_is_watched(self, mux):
        def script() -> list[State]:
            job = mux.queue("q").blocking.job("j")
            seen = []
            for update in job.watch():
                seen.append(update.state)
                if update.state is State.WAITING:
                    job.hold()
                elif update.state is State.BLOCKED:
                    job.cancel()
            return seen

        await mux.enqueue("t", queue="q", id="j")
        seen = await asyncio.to_thread(script)
        await asyncio.to_thread(mux.close_blocking)
        assert seen == [State.WAITING, State.BLOCKED, State.CANCELLED]

    async def test_the_other_verbs_of_a_job(self, mux):
        def script() -> list[object]:
            job = mux.queue("q").blocking.job("j")
            told: list[object] = [job.id, str(job.explain()), job.progress()]
            job.set_priority("high")
            told.append(job.record().priority)
            for change, expected in [
                (job.promote, State.WAITING),
                (job.hold, State.BLOCKED),
                (job.unhold, State.DELAYED),  # until it is due, as it was enqueued
                (lambda: job.reschedule(delay="1h"), State.DELAYED),
            ]:
                change()
                told.append(job.status() is expected)
            job.remove()
            with pytest.raises(JobNotFound):
                job.status()
            return told

        await mux.enqueue("t", queue="q", id="j", delay="1h")
        told = await asyncio.to_thread(script)
        assert told[0] == "j"
        assert "not due before" in str(told[1])
        assert told[2:] == [None, 50, True, True, True, True]
        await asyncio.to_thread(mux.close_blocking)

    async def test_a_queue(self, mux):
        def script() -> None:
            queue = mux.queue("default").blocking
            assert queue.counts().waiting == 120
            assert {job.arguments["n"] for job in queue.jobs("waiting")} == set(range(120))
            page = queue.page("waiting", limit=5)
            assert len(page.jobs) == 5
            assert queue.get(page.jobs[0].id) == page.jobs[0]
            queue.set_defaults(priority="low")
            queue.limit(concurrency=3)
            queue.pause()
            settings = queue.settings()
            assert (settings.paused, settings.concurrency) == (True, 3)
            queue.resume()
            assert not queue.settings().paused
            with pytest.raises(DeclarationError):
                queue.reset()

        @mux.task(name="t")
        async def numbered(n: int) -> None:
            raise NotImplementedError

        await mux.enqueue_many(numbered.bind(number) for number in range(120))
        await asyncio.to_thread(script)
        await asyncio.to_thread(mux.close_blocking)


class TestDecoded:
    async def test_what_a_job_was_given_told_and_returned(self, mux):
        told, go = asyncio.Event(), asyncio.Event()

        @mux.task()
        async def work(ctx: Context, n: int) -> dict[str, int]:
            await ctx.progress({"percent": n})
            told.set()
            await go.wait()
            return {"n": n}

        job = await work.enqueue(50)
        assert await job.progress() is None
        async with mux.worker():
            await told.wait()
            assert await job.progress() == {"percent": 50}
            go.set()
            await job.result(timeout="20s")
        (record,) = [one async for one in mux.queue("default").jobs("completed")]
        assert record.arguments == {"n": 50}
        assert record.progress_value == {"percent": 50}
        assert record.result_value == {"n": 50}
