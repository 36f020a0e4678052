"""Dead letters as an on-call engineer works with them. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise

import pytest
from taskmux import (
    DeclarationError,
    InvalidArguments,
    JobConflict,
    JobFailed,
    JobNotFound,
    JobRecord,
    State,
    Taskmux,
)
from taskmux.driver import Attempt, ClaimAsk, Dedup, Driver, ErrorInfo, NewJob, Op
from taskmux.model import transition
from taskmux.model.transition import Changes

QUEUE = "email"
_numbers = count(1)


def job(job_id: str, task: str = "send", **fields: object) -> JobRecord:
    return JobRecord(queue=QUEUE, id=job_id, task=task, **fields)


async def die(driver: Driver, jobs: Sequence[JobRecord], error: ErrorInfo | None = None) -> None:
    """Let jobs die, as a worker would write it."""
    op = Op("test", next(_numbers))
    await driver.push(op, [NewJob(one) for one in jobs])
    claimed = await driver.claim(op, ClaimAsk(QUEUE, "w", len(jobs), 60_000))
    assert len(claimed.jobs) == len(jobs)
    history = (Attempt(1, 1, "w", "failed", error=error),)
    changes = Changes(
        attempts=3, crashes=1, error=error, history=history, reason="failed 3 of 3 attempts"
    )
    await driver.apply(op, [transition.bury(one, changes) for one in claimed.jobs])


@pytest.fixture
async def six(driver: Driver) -> None:
    """Six dead jobs of two tasks, that failed in three ways."""
    await die(driver, [job("a1"), job("a2")], ErrorInfo("ValueError", "no user 17"))
    await die(driver, [job("b", tags=("vip",))], ErrorInfo("smtplib.SMTPServerBusy", "later"))
    await die(driver, [job("c1", "bill"), job("c2", "bill")], ErrorInfo("ValueError", "no user 5"))
    await die(driver, [job("d", "bill")])


@pytest.mark.usefixtures("six")
class TestReading:
    async def test_the_last_to_die_comes_first(self, mux: Taskmux) -> None:
        page = await mux.queue(QUEUE).dead.find(limit=2)
        assert [one.id for one in page.jobs][:1] == ["d"]
        assert page.cursor is not None
        rest = await mux.queue(QUEUE).dead.find(limit=10, cursor=page.cursor)
        assert {one.id for one in (*page.jobs, *rest.jobs)} == {"a1", "a2", "b", "c1", "c2", "d"}

    async def test_filters_are_those_of_every_search(self, mux: Taskmux) -> None:
        dead = mux.queue(QUEUE).dead
        assert [
            one.id async for one in dead.jobs(newest=False, error="ValueError", task="send")
        ] == [
            "a1",
            "a2",
        ]
        assert [one.id async for one in dead.jobs(error="SMTPServerBusy")] == ["b"]
        assert await dead.count() == 6

    async def test_statistics_say_what_went_wrong_and_when(self, mux: Taskmux) -> None:
        told: list[tuple[int, int | None]] = []
        stats = await mux.queue(QUEUE).dead.stats(
            on_progress=lambda done, total: told.append((done, total))
        )
        groups = {(one.task, one.error): one for one in stats.groups}
        assert stats.total == 6
        assert groups["send", "ValueError"].count == 2
        assert groups["send", "ValueError"].pattern == "no user <number>"
        assert groups["send", "ValueError"].sample in {"a1", "a2"}
        assert groups["bill", "failed <number> of <number> attempts"].count == 1
        assert stats.errors["ValueError"] == {
            "1h": 4,
            "3h": 4,
            "24h": 4,
            "3d": 4,
            "7d": 4,
            "all": 4,
        }
        assert told[-1] == (6, 6)
        record = await mux.queue(QUEUE).get("a1")
        first = groups["send", "ValueError"].first_at
        assert record.finished_at is not None
        assert first <= record.finished_at <= stats.at

    async def test_statistics_take_filters(self, mux: Taskmux) -> None:
        stats = await mux.queue(QUEUE).dead.stats(tag="vip")
        assert [one.sample for one in stats.groups] == ["b"]

    @pytest.mark.parametrize("verb", ["stats", "find"])
    async def test_their_state_is_no_filter(self, mux: Taskmux, verb: str) -> None:
        with pytest.raises(DeclarationError, match="leave state= out"):
            await getattr(mux.queue(QUEUE).dead, verb)(state="waiting")

    async def test_a_way_of_failing_is_a_filter(self, mux: Taskmux) -> None:
        dead = mux.queue(QUEUE).dead
        for group in (await dead.stats()).groups:
            found = [one.id async for one in dead.jobs(fingerprint=group.fingerprint)]
            assert len(found) == group.count
            assert group.sample in found


@pytest.mark.usefixtures("six")
class TestRedriving:
    async def test_those_that_are_meant_wait_again_with_all_they_had(self, mux: Taskmux) -> None:
        queue = mux.queue(QUEUE)
        result = await queue.dead.redrive(error="ValueError", task="send")
        assert (result.matched, result.done) == (2, 2)
        record = await queue.get("a1")
        assert (record.state, record.attempts, record.crashes) == (State.WAITING, 0, 0)
        assert (record.error, record.reason, len(record.history)) == (None, None, 1)
        assert await queue.dead.count() == 4

    async def test_attempts_that_were_spent_stay_spent_on_request(self, mux: Taskmux) -> None:
        await mux.queue(QUEUE).dead.redrive(ids=["a1"], reset_attempts=False)
        record = await mux.queue(QUEUE).get("a1")
        assert (record.state, record.attempts, record.crashes) == (State.WAITING, 3, 1)

    async def test_a_rate_spreads_them_over_time(self, mux: Taskmux) -> None:
        queue = mux.queue(QUEUE)
        assert (await queue.dead.redrive(all=True, rate="1/h")).done == 6
        assert (await queue.counts()).waiting == 1
        due = sorted([one.run_at async for one in queue.jobs(State.DELAYED)])
        steps = [later - sooner for sooner, later in pairwise(due)]
        assert len(due) == 5
        assert all(abs(step - 3_600_000) < 60_000 for step in steps)

    async def test_counting_changes_nothing(self, mux: Taskmux) -> None:
        result = await mux.queue(QUEUE).dead.redrive(all=True, dry_run=True)
        assert (result.matched, result.done) == (6, 0)
        assert await mux.queue(QUEUE).dead.count() == 6

    async def test_a_second_call_goes_on_where_the_first_one_ended(self, mux: Taskmux) -> None:
        dead = mux.queue(QUEUE).dead
        assert (await dead.redrive(all=True, limit=4)).done == 4
        assert (await dead.redrive(all=True)).done == 2
        assert (await dead.redrive(all=True)).matched == 0

    async def test_it_runs(self, app) -> None:
        mux, ran = app(), []

        @mux.task(name="send", queue=QUEUE)
        async def send() -> None:
            ran.append(1)

        await mux.queue(QUEUE).dead.redrive(task="send")
        async with mux.worker():
            for job_id in ("a1", "a2", "b"):
                await mux.queue(QUEUE).job(job_id).result(timeout="20s")
        assert len(ran) == 3

    async def test_one_that_dies_again_is_not_redriven_for_ever(self, app) -> None:
        mux = app()

        @mux.task(name="send", queue=QUEUE)
        async def send() -> None:
            raise ValueError("still no user")

        dead = mux.queue(QUEUE).dead
        async with mux.worker():
            result = await dead.redrive(task="send", reset_attempts=False)
            assert result.done == 3
            with pytest.raises(JobFailed, match="still no user"):
                await mux.queue(QUEUE).job("a1").result(timeout="20s")
        assert len((await mux.queue(QUEUE).get("a1")).history) == 2

    async def test_one_whose_key_is_taken_stays_dead(self, mux: Taskmux, driver: Driver) -> None:
        await die(driver, [job("old", dedup=Dedup("k"))], ErrorInfo("E", "x"))
        await mux.enqueue("send", queue=QUEUE, id="new", dedup="k")
        result = await mux.queue(QUEUE).dead.redrive(error="E")
        assert (result.done, dict(result.skipped)) == (0, {"conflict": 1})
        assert (await mux.queue(QUEUE).get("old")).state is State.DEAD

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({}, "all=True"),
            ({"state": "waiting"}, "waiting"),
            ({"colour": "red"}, "colour"),
            ({"all": True, "rate": "fast"}, "rate"),
            ({"all": True, "limit": 0}, "limit"),
            ({"all": True, "reset_attempts": "no"}, "reset_attempts"),
        ],
    )
    async def test_what_makes_no_sense_is_refused_and_nothing_is_done(
        self, mux: Taskmux, options: dict[str, object], words: str
    ) -> None:
        with pytest.raises(DeclarationError, match=words):
            await mux.queue(QUEUE).dead.redrive(**options)
        assert await mux.queue(QUEUE).dead.count() == 6


@pytest.mark.usefixtures("six")
class TestMending:
    async def test_arguments_are_changed_before_it_runs_again(self, app) -> None:
        mux, got = app(), []

        @mux.task(name="send", queue=QUEUE)
        async def send(user: int = 0) -> None:
            got.append(user)

        dead = mux.queue(QUEUE).dead
        await dead.edit("a1", {"user": 18})
        record = await mux.queue(QUEUE).get("a1")
        assert (record.state, record.arguments, len(record.history)) == (
            State.DEAD,
            {"user": 18},
            1,
        )
        await dead.redrive(ids=["a1"])
        async with mux.worker():
            await mux.queue(QUEUE).job("a1").result(timeout="20s")
        assert got == [18]

    async def test_what_the_task_cannot_take_is_refused(self, app) -> None:
        mux = app()

        @mux.task(name="send", queue=QUEUE)
        async def send(user: int = 0) -> None: ...

        with pytest.raises(InvalidArguments, match="user"):
            await mux.queue(QUEUE).dead.edit("a1", {"user": "many"})
        with pytest.raises(InvalidArguments, match="other"):
            await mux.queue(QUEUE).dead.edit("a1", {"other": 1})
        assert (await mux.queue(QUEUE).get("a1")).arguments == {}

    async def test_a_job_that_is_waiting_can_be_edited_and_keeps_its_place(self, mux) -> None:
        first = await mux.enqueue("t", {"n": 1}, queue="plain")
        await mux.enqueue("t", {"n": 2}, queue="plain")
        await first.edit({"n": 3})
        waiting = [one.arguments async for one in mux.queue("plain").jobs("waiting")]
        assert waiting == [{"n": 3}, {"n": 2}]

    async def test_what_is_not_named_stays_unless_all_is_replaced(self, mux) -> None:
        job = await mux.enqueue("t", {"n": 1, "text": "a"}, queue="plain")
        await job.edit({"n": 2})
        assert (await job.record()).arguments == {"n": 2, "text": "a"}
        await job.edit({"text": "b"}, replace=True)
        assert (await job.record()).arguments == {"text": "b"}

    async def test_one_that_has_completed_keeps_what_it_ran_with(self, mux, driver) -> None:
        job = await mux.enqueue("t", {"n": 1}, queue="plain")
        claimed = await driver.claim(Op("x", 1), ClaimAsk("plain", "w", 1, 60_000))
        await driver.apply(Op("x", 2), [transition.complete(claimed.jobs[0], b"1")])
        with pytest.raises(JobConflict, match="completed"):
            await job.edit({"n": 2})

    async def test_one_that_runs_or_is_not_there_cannot(self, mux, driver) -> None:
        running = await mux.enqueue("t", queue="plain")
        await driver.claim(Op("x", 1), ClaimAsk("plain", "w", 1, 60_000))
        with pytest.raises(JobConflict, match="active"):
            await running.edit({"n": 1})
        with pytest.raises(JobNotFound):
            await mux.queue(QUEUE).dead.edit("nobody", {})

    async def test_purged_ones_are_gone(self, mux: Taskmux) -> None:
        dead = mux.queue(QUEUE).dead
        assert (await dead.purge(error="ValueError")).done == 4
        assert {one.id async for one in dead.jobs()} == {"b", "d"}
        long_ago = datetime.now(UTC) - timedelta(days=1)
        assert (await dead.purge(until=long_ago)).done == 0


@pytest.mark.usefixtures("six")
async def test_the_same_without_an_event_loop(mux: Taskmux, stored) -> None:
    if not stored.url:
        pytest.skip("a client that was handed in belongs to its own event loop")

    def scripted() -> None:
        with_blocking = Taskmux(stored.url)
        dead = with_blocking.queue(QUEUE).blocking.dead
        try:
            assert dead.count() == 6
            assert dead.stats().total == 6
            assert len(dead.find(limit=4).jobs) == 4
            assert len(list(dead.jobs(error="ValueError"))) == 4
            dead.edit("d", {"n": 1})
            with_blocking.queue(QUEUE).blocking.job("d").edit({"n": 2})
            assert dead.redrive(ids=["d"]).done == 1
            assert dead.purge(all=True).done == 5
        finally:
            with_blocking.close_blocking()

    await asyncio.to_thread(scripted)
    assert (await mux.queue(QUEUE).get("d")).arguments == {"n": 2}
