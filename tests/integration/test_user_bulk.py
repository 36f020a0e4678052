"""One verb over many jobs, as users do it. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio

import pytest
from taskmux import DeclarationError, Fail, JobCancelled, JobConflict, State
from taskmux.driver import ClaimAsk, Op, transition


async def waiting(mux, count: int = 1, **options) -> list[str]:
    jobs = [await mux.enqueue("mail.send", queue="mail", **options) for _ in range(count)]
    return [job.id for job in jobs]


async def running(driver, count: int):
    return (await driver.claim(Op("w", 1), ClaimAsk("mail", "w", count, 60_000))).jobs


async def states(mux) -> dict[str, int]:
    counts = await mux.queue("mail").counts()
    listed = {state: getattr(counts, state) for state in State}
    return {state: count for state, count in listed.items() if count}


class TestVerbs:
    async def test_cancel_by_tag_in_every_state(self, mux, driver):
        active = await waiting(mux, 2, tags=["red"])
        await running(driver, 2)
        await waiting(mux, 3, tags=["red"])
        await waiting(mux, 2, tags=["red"], delay="1h")
        others = await waiting(mux, 2)
        result = await mux.queue("mail").cancel(tag="red", reason="campaign stopped")
        assert (result.done, result.requested, result.skipped) == (5, 2, {})
        assert await states(mux) == {"cancelled": 5, "active": 2, "waiting": 2}
        for job in await driver.get([mux.job("mail", one).ref for one in active]):
            assert (job.cancel_requested, job.reason) == (True, "campaign stopped")
        async for job in mux.queue("mail").jobs("cancelled"):
            assert job.reason == "campaign stopped"
        again = await mux.queue("mail").cancel(tag="red")
        assert (again.matched, again.done, again.requested) == (0, 0, 0)
        assert [job.id async for job in mux.queue("mail").jobs("waiting")] == others

    async def test_retry_the_dead_oldest_first(self, mux, driver):
        ids = await waiting(mux, 4)
        jobs = await running(driver, 4)
        changes = transition.Changes(attempts=3)
        for number, job in enumerate(jobs):
            one = transition.bury(job, changes) if number else transition.complete(job, None)
            await driver.apply(Op("w", 2 + number), [one])
        result = await mux.queue("mail").retry(task="mail.send")
        assert result.done == 3
        assert await states(mux) == {"completed": 1, "waiting": 3}
        retried = [job async for job in mux.queue("mail").jobs("waiting")]
        assert [job.id for job in retried] == ids[1:]
        assert {job.attempts for job in retried} == {0}

    async def test_a_retried_job_that_dies_again_is_not_retried_for_ever(self, mux):
        runs = []

        @mux.task(name="mail.send", queue="mail", max_attempts=1)
        async def send(n: int) -> None:
            runs.append(n)
            raise Fail("never works")

        async def dead(count: int) -> None:
            while (await mux.queue("mail").counts()).dead < count:
                await asyncio.sleep(0.01)

        async with mux.worker(queues=["mail"], concurrency=8):
            await mux.enqueue_many([send.bind(n) for n in range(30)])
            async with asyncio.timeout(20):
                await dead(30)
            assert (await mux.queue("mail").retry(state="dead")).done == 30
            async with asyncio.timeout(20):
                await dead(30)
        assert len(runs) == 60

    async def test_promote_hold_and_unhold(self, mux):
        queue = mux.queue("mail")
        late = await waiting(mux, 2, delay="2h")
        soon = await waiting(mux, 1, delay="1h")
        now = await waiting(mux, 1)
        assert (await queue.hold(all=True)).done == 4
        assert await states(mux) == {"blocked": 4}
        assert (await queue.unhold(ids=now)).done == 1
        assert (await queue.unhold(all=True)).done == 3
        assert await states(mux) == {"waiting": 1, "delayed": 3}
        assert (await queue.promote(all=True)).done == 3
        later = await waiting(mux, 2, delay="1h", tags=["red"])
        assert (await queue.promote(tag="red")).done == 2
        order = [job.id async for job in queue.jobs("waiting")]
        assert order == [*now, *soon, *late, *later]

    async def test_reprioritise_changes_each_once(self, mux):
        queue = mux.queue("mail")
        ids = await waiting(mux, 5, priority=50)
        await waiting(mux, 3, priority=1000)
        await waiting(mux, 1, delay="1h")
        seen = []
        result = await queue.reprioritise(
            1000, all=True, on_progress=lambda done, total: seen.append((done, total))
        )
        assert (result.matched, result.done) == (6, 6)
        assert seen[-1][0] == 6
        assert {job.priority async for job in queue.jobs()} == {1000}
        assert (await queue.reprioritise("low", ids=ids[:2])).done == 2
        assert [job.id async for job in queue.jobs("waiting")][:2] == ids[:2]

    async def test_remove_leaves_running_jobs(self, mux, driver):
        await waiting(mux, 2, tags=["red"])
        await running(driver, 1)
        await waiting(mux, 1, tags=["red"], delay="1h")
        assert (await mux.queue("mail").remove(tag="red")).done == 2
        assert await states(mux) == {"active": 1}

    async def test_more_than_one_batch(self, mux):
        @mux.task(queue="mail")
        async def send(n: int) -> None: ...

        await mux.enqueue_many([send.bind(n) for n in range(1201)])
        told = []
        result = await mux.queue("mail").hold(
            state="waiting", on_progress=lambda done, total: told.append((done, total))
        )
        assert (result.done, result.skipped) == (1201, {})
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert told[-1] == (1201, 1201)
        assert await states(mux) == {"blocked": 1201}


class TestLimits:
    async def test_a_dry_run_counts_and_changes_nothing(self, mux):
        await waiting(mux, 5, tags=["red"])
        await waiting(mux, 2)
        result = await mux.queue("mail").cancel(tag="red", dry_run=True)
        assert (result.matched, result.done) == (5, 0)
        assert await states(mux) == {"waiting": 7}

    async def test_a_limit_ends_it(self, mux):
        ids = await waiting(mux, 5)
        queue = mux.queue("mail")
        assert (await queue.cancel(task="mail.send", limit=2)).done == 2
        assert [job.id async for job in queue.jobs("cancelled")] == ids[:2]
        assert (await queue.cancel(task="mail.send", limit=2, dry_run=True)).matched == 2
        assert (await queue.cancel(task="mail.send", limit=9)).done == 3

    async def test_jobs_that_are_asked_to_stop_count_for_a_limit(self, mux, driver):
        await waiting(mux, 3)
        await running(driver, 3)
        result = await mux.queue("mail").cancel(state="active", limit=2)
        assert (result.matched, result.requested) == (2, 2)

    async def test_a_conflict_is_skipped_and_told(self, mux):
        await waiting(mux, 1, dedup="k")
        await waiting(mux, 1)
        queue = mux.queue("mail")
        await queue.cancel(all=True)
        await waiting(mux, 1, dedup="k")
        result = await queue.retry(state="cancelled")
        assert (result.done, result.skipped) == (1, {"conflict": 1})

    async def test_what_a_callback_raises_ends_the_call(self, mux):
        await waiting(mux, 3)

        def stop(done, total):
            raise KeyError(done)

        with pytest.raises(KeyError):
            await mux.queue("mail").cancel(all=True, on_progress=stop)
        assert (await mux.queue("mail").cancel(all=True)).done == 0


class TestBadInput:
    @pytest.mark.parametrize("verb", ["retry", "cancel", "promote", "remove", "hold", "unhold"])
    async def test_without_a_filter_all_is_needed(self, app, verb):
        queue = app(url="redis://127.0.0.1:1").queue("mail")
        for filters in ({}, {"tag": None}, {"all": False}):
            with pytest.raises(DeclarationError, match="all=True"):
                await getattr(queue, verb)(**filters)

    @pytest.mark.parametrize(
        ("verb", "filters", "says"),
        [
            ("promote", {"state": "dead"}, "nothing with dead jobs: delayed"),
            ("retry", {"state": ["dead", "waiting"]}, "nothing with waiting jobs"),
            ("remove", {"state": "active"}, "nothing with active jobs"),
            ("cancel", {"all": "yes"}, "neither True nor False"),
            ("cancel", {"tag": "red", "limit": 0}, "number from 1"),
            ("cancel", {"tag": "red", "reason": ""}, "no text"),
            ("cancel", {"tag": "red", "dry_run": 1}, "neither True nor False"),
            ("cancel", {"tag": "red", "on_progress": 5}, "cannot be called"),
            ("strike", {"task": "t", "reason": 5}, "no text"),
            ("strike", {"task": "t", "arguments": [1]}, "no mapping"),
        ],
    )
    async def test_is_told_before_anything_is_sent(self, app, verb, filters, says):
        queue = app(url="redis://127.0.0.1:1").queue("mail")
        with pytest.raises(DeclarationError, match=says):
            await getattr(queue, verb)(**filters)


class TestTimes:
    async def test_what_was_held_is_still_due_at_its_time(self, mux):
        queue = mux.queue("later")
        one = await mux.enqueue("t", queue="later", delay="1h")
        other = await mux.enqueue("t", queue="later", delay="2h")
        due = [(await job.record()).run_at for job in (one, other)]
        assert (await queue.hold(all=True)).done == 2
        await one.unhold()
        assert (await queue.unhold(all=True)).done == 1
        records = [await job.record() for job in (one, other)]
        assert [record.state for record in records] == [State.DELAYED] * 2
        assert [record.run_at for record in records] == due

    async def test_no_age_is_not_every_age(self, mux):
        job = await mux.enqueue("t", queue="old")
        await job.cancel()
        with pytest.raises(DeclarationError, match="no age"):
            await mux.queue("old").clean(None)
        assert (await mux.queue("old").counts()).cancelled == 1

    async def test_what_apps_declare_outlives_an_obliteration(self, app):
        mux = app()

        @mux.task(name="one", queue="kept", concurrency=1)
        async def one() -> None: ...

        queue = mux.queue("kept", defaults={"max_attempts": 7})
        async with mux.worker(["kept"]):
            await one.enqueue()
            await queue.limit(concurrency=5)
            await queue.obliterate(force=True)
            settings = await queue.settings()
            assert (settings.concurrency, settings.paused) == (None, False)
            assert settings.line("@one").concurrency == 1
            record = await (await one.enqueue()).record()
        assert record.policy.max_attempts == 7


class TestEmptying:
    async def test_drain(self, mux, driver):
        await waiting(mux, 3)
        await running(driver, 1)
        await waiting(mux, 2, delay="1h")
        queue = mux.queue("mail")
        assert (await queue.drain()).done == 2
        assert await states(mux) == {"active": 1, "delayed": 2}
        assert (await queue.drain(delayed=True)).done == 2
        assert await states(mux) == {"active": 1}

    async def test_clean(self, mux, driver):
        await waiting(mux, 5)
        jobs = await running(driver, 4)
        await driver.apply(Op("w", 2), [transition.complete(job, None) for job in jobs[:2]])
        await driver.apply(
            Op("w", 3), [transition.bury(job, transition.Changes()) for job in jobs[2:]]
        )
        queue = mux.queue("mail")
        assert (await queue.clean("1h")).done == 0
        assert (await queue.clean(0, state="dead", limit=1)).done == 1
        assert (await queue.clean(0)).done == 3
        assert await states(mux) == {"waiting": 1}
        assert (await queue.clean(0, state="waiting")).done == 1
        with pytest.raises(DeclarationError, match="active"):
            await queue.clean(0, state="active")
        with pytest.raises(DeclarationError, match="not a duration"):
            await queue.clean("long ago")

    async def test_obliterate(self, mux, driver):
        queue = mux.queue("mail")
        await waiting(mux, 3)
        (job,) = await running(driver, 1)
        await waiting(mux, 2, delay="1h")
        await queue.limit(concurrency=3)
        with pytest.raises(JobConflict, match="1 jobs of queue 'mail' are running"):
            await queue.obliterate()
        assert await states(mux) == {"active": 1, "waiting": 2, "delayed": 2}
        assert not (await queue.settings()).paused
        result = await queue.obliterate(force=True)
        assert result.done == 5
        assert await states(mux) == {}
        settings = await queue.settings()
        assert (settings.paused, settings.concurrency) == (False, None)
        (late,) = await driver.apply(Op("w", 2), [transition.complete(job, None)])
        assert late.status == "gone"


class TestCancellingOne:
    async def test_the_reason_is_told(self, mux):
        (one,) = await waiting(mux)
        job = mux.job("mail", one)
        assert await job.cancel(reason="wrong recipient") is State.CANCELLED
        with pytest.raises(JobCancelled, match="was cancelled: wrong recipient"):
            await job.result()

    async def test_waiting_for_a_running_one_to_end(self, app):
        mux = app()
        started = asyncio.Event()

        @mux.task(queue="mail")
        async def slow() -> None:
            started.set()
            await asyncio.Event().wait()

        async with mux.worker(lease="1h"):
            job = await slow.enqueue()
            await started.wait()
            other = app().job("mail", job.id)
            assert await other.cancel(reason="wrong recipient", wait="20s") is State.CANCELLED
        with pytest.raises(JobCancelled, match="wrong recipient"):
            await job.result()

    async def test_one_that_goes_on_is_still_active(self, mux, driver):
        (one,) = await waiting(mux)
        (job,) = await running(driver, 1)
        handle = mux.job("mail", one)
        assert await handle.cancel(reason="too late", wait="50ms") is State.ACTIVE
        await driver.apply(Op("w", 2), [transition.complete(job, b"1")])
        assert await handle.result() == 1
        assert (await handle.record()).reason is None

    async def test_bad_input(self, mux):
        (one,) = await waiting(mux)
        for wrong in ({"reason": ""}, {"reason": 5}, {"wait": "soon"}):
            with pytest.raises(DeclarationError):
                await mux.job("mail", one).cancel(**wrong)
        assert await mux.job("mail", one).status() is State.WAITING


class TestBlocking:
    async def test_the_same_verbs(self, mux):
        await waiting(mux, 3, tags=["red"])
        (one,) = await waiting(mux)
        queue = mux.queue("mail").blocking

        def work():
            yield queue.hold(tag="red").done
            yield queue.unhold(tag="red").done
            yield queue.reprioritise(5, tag="red").done
            yield queue.job(one).cancel(reason="no")
            yield queue.cancel(tag="red").done
            yield queue.retry(state="cancelled", limit=1).done
            yield queue.drain().done
            yield queue.promote(all=True).done
            yield queue.remove(all=True).done
            yield queue.clean("1h").done
            yield queue.obliterate().done

        told = await asyncio.to_thread(lambda: list(work()))
        await asyncio.to_thread(mux.close_blocking)
        assert told == [3, 3, 3, State.CANCELLED, 3, 1, 1, 0, 3, 0, 0]
