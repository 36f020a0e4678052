"""Following what happens, as users do it. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from taskmux import (
    Context,
    DeclarationError,
    Event,
    EventStream,
    Fail,
    Fixed,
    InvalidName,
    JobNotFound,
    State,
    UnsupportedFeature,
)

PATIENCE = 30.0


@asynccontextmanager
async def following(mux, queue=None, after=None):
    """Follow from now on; the test is skipped where the store cannot tell."""
    events = mux.events(queue, after=after)
    try:
        await events.__aenter__()
    except UnsupportedFeature as error:
        pytest.skip(str(error))
    try:
        yield events
    finally:
        await events.aclose()


async def until(events: EventStream, kind: str, number: int = 1) -> list[Event]:
    """Return the events up to the one of this kind that comes as that number."""
    found = []
    async with asyncio.timeout(PATIENCE):
        async for event in events:
            found.append(event)
            number -= event.kind == kind
            if not number:
                return found
    raise AssertionError(f"it ended after {found}")


def kinds(events: list[Event], job=None) -> list[str]:
    return [event.kind for event in events if job is None or event.id == job.id]


class TestEvents:
    async def test_a_job_from_beginning_to_end(self, mux):
        @mux.task(queue="email")
        async def send(ctx: Context, number: int) -> int:
            await ctx.progress({"done": number})
            return number

        async with following(mux, "email") as events, mux.worker():
            job = await send.enqueue(7)
            assert await job.result(timeout="20s") == 7
            told = await until(events, "completed")
        assert kinds(told) == ["added", "active", "progress", "completed"]
        assert {(event.queue, event.id) for event in told} == {("email", job.id)}
        assert [event.data for event in told] == [{"state": "waiting"}, {}, {"done": 7}, {}]
        assert len({event.cursor for event in told}) == 4
        assert all(event.at > 1_700_000_000_000 for event in told)

    async def test_why_a_job_failed_and_died(self, mux):
        @mux.task(queue="email", max_attempts=2, backoff=Fixed("1h", jitter=0))
        async def send(ctx: Context) -> None:
            raise (ValueError if ctx.attempt == 1 else Fail)("no\x1b[31m server")

        async with following(mux, "email") as events, mux.worker():
            job = await send.enqueue()
            failed = (await until(events, "failed"))[-1]
            await job.promote()
            dead = (await until(events, "dead"))[-1]
        assert failed.data == {
            "reason": "attempt 1 of 2 failed",
            "error": "ValueError: no\x1b[31m server",
            "attempt": 1,
        }
        assert (dead.data["reason"], dead.data["attempt"]) == (
            "failed for good: no\x1b[31m server",
            2,
        )

    async def test_what_is_done_to_jobs_and_queues(self, mux):
        @mux.task(queue="email")
        async def send() -> None:
            raise NotImplementedError

        async with following(mux, "email") as events:
            job = await send.options(delay="1h").enqueue()
            await job.hold()
            await job.unhold()
            await mux.queue("email").pause()
            await job.cancel()
            await job.remove()
            await mux.queue("email").resume()
            told = await until(events, "resumed")
        assert kinds(told) == [
            "added",
            "blocked",
            "delayed",
            "paused",
            "cancelled",
            "removed",
            "resumed",
        ]
        assert told[0].data == {"state": "delayed"}
        assert told[4].data == {"reason": "on request"}
        assert [event.id for event in told if event.kind in {"paused", "resumed"}] == ["", ""]

    async def test_it_goes_on_behind_a_cursor(self, mux, app):
        @mux.task(queue="email")
        async def send(number: int) -> None:
            raise NotImplementedError

        async with following(mux, "email") as events:
            for number in range(3):
                await send.options(id=f"job-{number}").enqueue(number)
            first = (await until(events, "added"))[0]
        await send.options(id="job-3").enqueue(3)
        another = app()
        async with following(another, "email", after=first.cursor) as events:
            told = await until(events, "added", 3)
        assert [event.id for event in told] == ["job-1", "job-2", "job-3"]

    async def test_lost_events_are_told_of(self, mux):
        @mux.task(queue="email")
        async def send() -> None:
            raise NotImplementedError

        async with following(mux, "email", after="of another store") as events:
            assert kinds([await anext(events)]) == ["gap"]
            await send.enqueue()
            assert kinds(await until(events, "added")) == ["added"]

    async def test_behind_a_gap_it_goes_on_with_what_is_left(self, mux):
        @mux.task(queue="email")
        async def send() -> None:
            raise NotImplementedError

        await mux.queue("email").keep_events(2)
        async with following(mux, "email") as events:
            await send.enqueue()
            (first,) = await until(events, "added")
        for _ in range(200):
            await send.enqueue()
        async with following(mux, "email", after=first.cursor) as events:
            gap, left = await anext(events), await anext(events)
        if gap.kind != "gap":
            pytest.skip("this store keeps more than was asked for")
        async with following(mux, "email", after=gap.cursor) as events:
            assert left in await until(events, "added", 1)

    async def test_of_all_queues_and_of_new_ones(self, mux):
        async with following(mux) as events:
            jobs = [await mux.enqueue("none", queue=name) for name in ("email", "reports")]
            told = await until(events, "added", 2)
            assert {(event.queue, event.id) for event in told} == {
                (job.queue, job.id) for job in jobs
            }
            job = await mux.enqueue("none", queue="email")
            assert (await until(events, "added"))[-1].id == job.id

    async def test_closing_the_app_ends_it(self, app):
        mux = app()
        async with following(mux, "email") as events:
            waiting = asyncio.ensure_future(until(events, "never"))
            await asyncio.sleep(0)
            await mux.close()
            with pytest.raises(AssertionError, match=r"it ended after \[\]"):
                await waiting
            with pytest.raises(StopAsyncIteration):
                await anext(events)

    async def test_a_queue_that_keeps_none_says_so(self, mux):
        async with following(mux, "email"):
            pass
        await mux.queue("email").keep_events(0)
        with pytest.raises(UnsupportedFeature, match="keep_events"):
            await anext(mux.events("email"))
        await mux.queue("email").keep_events(10)
        async with following(mux, "email") as events:
            await mux.enqueue("none", queue="email")
            assert kinds(await until(events, "added")) == ["added"]

    @pytest.mark.parametrize("count", [-1, 1_000_001, True, 1.5, "10"])
    async def test_a_wrong_count_is_refused(self, mux, count):
        with pytest.raises(DeclarationError, match="is not a number from 0 to 1000000"):
            await mux.queue("email").keep_events(count)

    async def test_wrong_arguments_are_refused_at_once(self, mux):
        with pytest.raises(InvalidName):
            mux.events("no queue")
        with pytest.raises(DeclarationError, match="give queue="):
            mux.events(after="1")
        with pytest.raises(DeclarationError, match="is no cursor"):
            mux.events("email", after=7)


class TestWatching:
    async def test_state_and_progress_until_the_end(self, mux):
        gates = [asyncio.Event() for _ in range(3)]

        @mux.task(queue="email")
        async def send(ctx: Context) -> None:
            for number, gate in enumerate(gates):
                await gate.wait()
                await ctx.progress(number)

        seen = []
        async with mux.worker(), asyncio.timeout(PATIENCE):
            job = await send.enqueue()
            async for update in job.watch():
                seen.append((update.state, update.progress))
                for gate in gates[: max(0, len(seen) - 1 + (seen[0][0] == State.ACTIVE))]:
                    gate.set()
        assert seen[-1] == (State.COMPLETED, 2)
        assert (State.ACTIVE, 0) in seen
        assert len(seen) == len(set(seen))
        assert update.job.id == job.id

    async def test_a_finished_job_is_seen_once(self, mux):
        job = await mux.enqueue("none")
        await job.cancel()
        assert [update.state async for update in job.watch()] == [State.CANCELLED]

    async def test_a_job_that_goes_away(self, mux):
        job = await mux.enqueue("none")
        with pytest.raises(JobNotFound):
            async with asyncio.timeout(PATIENCE):
                async for update in job.watch():
                    assert update.state is State.WAITING
                    await job.remove()

    async def test_closing_the_app_ends_it(self, app):
        mux = app()
        job = await mux.enqueue("none")
        seen = []
        async with asyncio.timeout(PATIENCE):
            async for update in job.watch():
                seen.append(update.state)
                await mux.close()
        assert seen == [State.WAITING]


class TestResults:
    async def test_many_wait_for_jobs_of_many_queues(self, mux):
        queues = [f"queue-{number}" for number in range(20)]

        @mux.task()
        async def double(number: int) -> int:
            return 2 * number

        jobs = [
            await double.options(queue=queue).enqueue(number) for number, queue in enumerate(queues)
        ]
        async with asyncio.timeout(PATIENCE):
            waiting = [asyncio.ensure_future(job.result()) for job in jobs]
            async with mux.worker(queues):
                assert await asyncio.gather(*waiting) == [2 * number for number in range(20)]

    async def test_a_waiter_is_told_by_a_queue_that_keeps_no_events(self, mux):
        @mux.task(queue="email")
        async def send() -> str:
            return "sent"

        await mux.queue("email").keep_events(0)
        job = await send.enqueue()
        waiting = asyncio.ensure_future(job.result(timeout="20s"))
        await asyncio.sleep(0)
        async with mux.worker():
            assert await waiting == "sent"

    async def test_a_waiter_whose_job_is_removed_is_told(self, mux):
        job = await mux.enqueue("none")
        waiting = asyncio.ensure_future(job.result(timeout="20s"))
        await asyncio.sleep(0)
        await job.remove()
        with pytest.raises(JobNotFound):
            await waiting
