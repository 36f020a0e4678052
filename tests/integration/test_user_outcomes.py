"""How runs end, as users see it. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from taskmux import Context, Fail, Fixed, Limits, Retry, Snooze, State
from taskmux.model.errors import JobFailed, NotDecodable

AT_ONCE = Fixed("0s")


class SMTPServerBusy(Exception):
    """What a user's library raises."""


class TestRetries:
    async def test_it_is_tried_again_until_it_succeeds(self, mux):
        @mux.task(max_attempts=5, backoff=AT_ONCE)
        async def flaky(ctx: Context) -> int:
            if ctx.attempt < 3:
                raise SMTPServerBusy(f"attempt {ctx.attempt}")
            return ctx.attempt

        async with mux.worker():
            job = await flaky.enqueue()
            assert await job.result(timeout="20s") == 3
        record = await job.record()
        assert (record.attempts, record.error, record.reason) == (3, None, None)
        assert [(entry.number, entry.outcome) for entry in record.history] == [
            (1, "failed"),
            (2, "failed"),
        ]

    async def test_it_waits_as_long_as_its_backoff_says(self, mux, witness):
        @mux.task(max_attempts=3, backoff=Fixed("1h", jitter=0))
        async def flaky(ctx: Context) -> int:
            if ctx.attempt == 1:
                raise SMTPServerBusy
            return ctx.attempt

        async with mux.worker():
            job = await flaky.enqueue()
            record = await witness.settled(job)
            assert (record.state, record.reason) == (State.DELAYED, "attempt 1 of 3 failed")
            assert record.run_at >= record.created_at + 3_600_000
            await job.promote()
            assert await job.result(timeout="20s") == 2

    async def test_a_calls_backoff_wins_over_the_tasks(self, mux):
        @mux.task(max_attempts=2, backoff="1h")
        async def flaky(ctx: Context) -> int:
            if ctx.attempt == 1:
                raise SMTPServerBusy
            return ctx.attempt

        async with mux.worker():
            job = await flaky.options(backoff=AT_ONCE).enqueue()
            assert await job.result(timeout="20s") == 2

    async def test_retry_chooses_its_own_wait_and_spends_an_attempt(self, mux, witness):
        @mux.task(max_attempts=2, backoff="1d")
        async def busy(ctx: Context) -> int:
            if ctx.attempt == 1:
                raise Retry("server busy", after="1ms")
            return ctx.attempt

        async with mux.worker():
            job = await busy.enqueue()
            assert await job.result(timeout="20s") == 2
        (entry,) = (await job.record()).history
        assert (entry.outcome, entry.error.message) == ("retried", "server busy")

    async def test_snooze_spends_no_attempt(self, mux):
        runs = []

        @mux.task(max_attempts=1)
        async def patient(ctx: Context) -> int:
            runs.append(ctx.attempt)
            if len(runs) < 4:
                raise Snooze("1ms", "not yet")
            return ctx.attempt

        async with mux.worker():
            job = await patient.enqueue()
            assert await job.result(timeout="20s") == 1
        assert runs == [1, 1, 1, 1]
        record = await job.record()
        assert record.attempts == 1
        assert [entry.outcome for entry in record.history] == ["snoozed"] * 3

    async def test_a_backoff_function_is_asked_on_the_worker(self, mux):
        asked: list[tuple[int, str]] = []

        def backoff(attempt: int, error: BaseException) -> float:
            asked.append((attempt, str(error)))
            return 0

        @mux.task(max_attempts=3, backoff=backoff)
        async def flaky(ctx: Context) -> None:
            raise SMTPServerBusy(f"{ctx.attempt}")

        async with mux.worker():
            job = await flaky.enqueue()
            with pytest.raises(JobFailed):
                await job.result(timeout="20s")
        assert asked == [(1, "1"), (2, "2")]


class TestWhatResultSays:
    async def test_a_retry_without_a_message_is_named_without_one(self, mux):
        @mux.task(max_attempts=1)
        async def again() -> None:
            raise Retry(after=0)

        async with mux.worker():
            job = await again.enqueue()
            with pytest.raises(JobFailed, match=r"Last error: taskmux\.Retry$"):
                await job.result(timeout="20s")

    async def test_a_handle_by_id_gives_the_type_of_a_task_that_the_app_knows(self, mux):
        @mux.task()
        async def noon() -> datetime:
            return datetime(2026, 1, 2, 12, tzinfo=UTC)

        async with mux.worker():
            job = await noon.enqueue()
            typed = await job.result(timeout="20s")
            assert await mux.job("default", job.id).result() == typed
            assert await mux.queue("default").job(job.id).result() == typed


class TestDeadLetters:
    async def test_it_is_dead_when_its_attempts_are_spent_and_says_why(self, mux):
        @mux.task(max_attempts=3, backoff=AT_ONCE)
        async def broken() -> None:
            raise SMTPServerBusy("421 try later")

        async with mux.worker() as worker:
            job = await broken.enqueue()
            with pytest.raises(JobFailed, match=r"failed 3 of 3 attempts.*421 try later"):
                await job.result(timeout="20s")
            name = worker.name
        record = await job.record()
        assert record.state is State.DEAD
        assert record.reason == "failed 3 of 3 attempts"
        assert record.error.type.endswith("SMTPServerBusy")
        assert record.error.message == "421 try later"
        assert "in broken" in record.error.traceback
        assert [entry.number for entry in record.history] == [1, 2, 3]
        assert {entry.worker for entry in record.history} == {name}
        fences = [entry.fence for entry in record.history]
        assert fences == sorted(set(fences))
        assert all(entry.started_at <= entry.finished_at for entry in record.history)

    async def test_fail_is_dead_at_once(self, mux):
        @mux.task(max_attempts=10)
        async def hopeless() -> None:
            raise Fail("no such user")

        async with mux.worker():
            job = await hopeless.enqueue()
            with pytest.raises(JobFailed, match="failed for good: no such user"):
                await job.result(timeout="20s")
        assert (await job.record()).attempts == 1

    async def test_one_attempt_means_one(self, mux):
        runs = []

        @mux.task(max_attempts=1, max_crashes=0)
        async def once() -> None:
            runs.append(1)
            raise SMTPServerBusy

        async with mux.worker():
            job = await once.enqueue()
            with pytest.raises(JobFailed):
                await job.result(timeout="20s")
        assert runs == [1]

    async def test_arguments_that_no_longer_fit_wait_for_who_may_know_better(self, app, witness):
        mux, producer = app(), app()

        @mux.task(name="charge")
        async def charge(order: int) -> None:
            raise NotImplementedError

        async with mux.worker():
            job = await producer.enqueue("charge", {"order": 7, "extra": 1})
            record = await witness.settled(job)
        assert (record.state, record.attempts) == (State.DELAYED, 1)
        assert record.history[-1].outcome == "undecodable"

    async def test_arguments_that_no_longer_fit_are_dead_when_attempts_are_used_up(self, app):
        mux, producer = app(), app()  # one that knows the task refuses them itself

        @mux.task(name="charge")
        async def charge(order: int) -> None:
            raise NotImplementedError

        wrong: list[dict[str, Any]] = [{}, {"order": "seven"}, {"order": 7, "extra": 1}]
        async with mux.worker():
            for arguments in wrong:
                job = await producer.enqueue("charge", arguments, max_attempts=1)
                with pytest.raises(JobFailed, match=r"The payload does not fit task 'charge'"):
                    await job.result(timeout="20s")
                record = await job.record()
                assert record.reason == "failed 1 of 1 attempts"
                assert record.history[-1].outcome == "undecodable"

    @pytest.mark.parametrize("value", [object(), {1j: 1}, "\udcff", [set], "x" * 2000])
    async def test_a_result_that_cannot_be_stored(self, app, value):
        mux = app(limits=Limits(result=1000))

        @mux.task(max_attempts=5)
        async def odd() -> object:
            return value

        async with mux.worker():
            job = await odd.enqueue()
            with pytest.raises(JobFailed, match="The result of task"):
                await job.result(timeout="20s")
        record = await job.record()
        assert record.attempts == 1
        assert record.reason.startswith("failed for good: The result of task")

    async def test_a_result_that_does_not_fit_its_annotation(self, mux):
        @mux.task()
        async def wrong() -> int:
            return "text"  # type: ignore[return-value]

        async with mux.worker():
            job = await wrong.enqueue()
            with pytest.raises(NotDecodable, match="does not fit int"):
                await job.result(timeout="20s")

    async def test_an_error_with_text_that_is_not_valid(self, mux):
        @mux.task(max_attempts=1)
        async def hostile() -> None:
            raise OSError(2, "No such file", "/tmp/\udcff\x00")

        async with mux.worker():
            job = await hostile.enqueue()
            with pytest.raises(JobFailed):
                await job.result(timeout="20s")
        assert "\\udcff" in (await job.record()).error.message


class TestUnknownTasks:
    async def test_the_job_is_kept_and_explained(self, app, witness):
        mux = app()
        async with mux.worker() as worker:
            job = await mux.enqueue("nosuch", {"a": 1})
            record = await witness.settled(job)
            name = worker.name
        assert (record.state, record.attempts, record.history) == (State.DELAYED, 0, ())
        assert (
            record.reason == f"worker {name} has no task 'nosuch': start a worker that imports it"
        )

        late = app()

        @late.task(name="nosuch")
        async def known(a: int) -> int:
            return a

        await job.promote()
        async with late.worker():
            assert await job.result(timeout="20s") == 1


class TestTimeouts:
    async def test_an_async_handler_is_cancelled(self, mux):
        seen = []

        @mux.task(timeout="50ms", max_attempts=1)
        async def slow() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        async with mux.worker():
            job = await slow.enqueue()
            with pytest.raises(JobFailed, match="timeout of 50ms and was cancelled"):
                await job.result(timeout="20s")
        assert seen == ["cancelled"]
        record = await job.record()
        assert (record.error.type, record.history[-1].outcome) == ("TimeoutError", "timed out")

    async def test_a_timeout_is_retried_like_any_failure(self, mux):
        @mux.task(timeout="50ms", max_attempts=2, backoff=AT_ONCE)
        async def slow_at_first(ctx: Context) -> int:
            if ctx.attempt == 1:
                await asyncio.Event().wait()
            return ctx.attempt

        async with mux.worker():
            assert await (await slow_at_first.enqueue()).result(timeout="20s") == 2

    async def test_a_sync_handler_is_told_and_never_runs_beside_its_retry(self, mux):
        running, together = 0, []

        @mux.task(timeout="50ms", max_attempts=2, backoff=0)
        def slow(ctx: Context) -> None:
            nonlocal running
            running += 1
            together.append(running)
            while not ctx.cancel_requested:
                threading.Event().wait(0.01)
            threading.Event().wait(0.2)  # a retry that did not wait for the thread would be here
            running -= 1

        async with mux.worker():
            job = await slow.enqueue()
            with pytest.raises(JobFailed, match="could not be stopped in its thread"):
                await job.result(timeout="20s")
        assert together == [1, 1]

    async def test_a_handlers_own_timeout_error_is_a_failure_like_others(self, mux):
        @mux.task(timeout="1h", max_attempts=1)
        async def impatient() -> None:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()

        async with mux.worker():
            job = await impatient.enqueue()
            with pytest.raises(JobFailed):
                await job.result(timeout="20s")
        record = await job.record()
        assert record.history[-1].outcome == "failed"
        assert "ran longer" not in record.error.message


class TestSyncHandlers:
    async def test_they_run_in_threads_beside_each_other(self, mux):
        barrier = threading.Barrier(3, timeout=20)

        @mux.task()
        def meet(number: int) -> bool:
            barrier.wait()  # only passes when three run at once
            return threading.current_thread() is not threading.main_thread()

        async with mux.worker(concurrency=3):
            jobs = [await meet.enqueue(number) for number in range(3)]
            assert [await job.result(timeout="20s") for job in jobs] == [True] * 3

    async def test_their_failures_are_kept_with_a_traceback(self, mux):
        @mux.task(max_attempts=1)
        def broken() -> None:
            raise SMTPServerBusy("no")

        async with mux.worker():
            job = await broken.enqueue()
            with pytest.raises(JobFailed, match="no"):
                await job.result(timeout="20s")
        assert "in broken" in (await job.record()).error.traceback

    async def test_they_may_raise_what_async_ones_may(self, mux):
        @mux.task(max_attempts=2)
        def sync(ctx: Context) -> int:
            if not ctx.job.history:
                raise Snooze("1ms")
            if ctx.attempt == 1:
                raise Retry(after="1ms")
            return ctx.attempt

        async with mux.worker():
            assert await (await sync.enqueue()).result(timeout="20s") == 2


class TestOddEndings:
    """What a handler can raise beside exceptions must not take the worker along."""

    class Own(BaseException):
        """Not an `Exception`, as some test frameworks raise."""

    @pytest.mark.parametrize("kind", [SystemExit, Own, asyncio.CancelledError])
    @pytest.mark.parametrize("sync", [False, True])
    async def test_it_is_a_failure_and_the_lanes_go_on(self, mux, kind, sync):
        if sync:

            @mux.task(name="odd", max_attempts=1)
            def odd() -> None:
                raise kind("gone")

        else:

            @mux.task(name="odd", max_attempts=1)
            async def odd() -> None:
                raise kind("gone")

        @mux.task()
        async def fine(number: int) -> int:
            return number

        async with mux.worker(concurrency=2):
            jobs = [await odd.enqueue() for _ in range(4)]  # more than there are lanes
            for job in jobs:
                with pytest.raises(JobFailed, match=r"failed 1 of 1 attempts.*gone"):
                    await job.result(timeout="20s")
            results = [await fine.enqueue(number) for number in range(4)]
            assert [await job.result(timeout="20s") for job in results] == [0, 1, 2, 3]

    async def test_a_handler_that_awaits_a_cancelled_task(self, mux):
        @mux.task(max_attempts=1)
        async def unlucky() -> None:
            task = asyncio.ensure_future(asyncio.Event().wait())
            task.cancel()
            await task

        async with mux.worker(concurrency=1):
            for _ in range(2):
                job = await unlucky.enqueue()
                with pytest.raises(JobFailed, match="CancelledError"):
                    await job.result(timeout="20s")
