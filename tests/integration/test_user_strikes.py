"""Strikes as users say and lift them. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from taskmux import Cause, Context, DeclarationError, State
from taskmux.api import strikes as api_strikes
from taskmux.worker import strikes as worker_strikes


def finish_often(monkeypatch) -> None:
    monkeypatch.setattr("taskmux.worker.station.LIFT_EVERY", 0.05)
    monkeypatch.setattr(worker_strikes, "LOOK_EVERY", 0)
    monkeypatch.setattr(worker_strikes, "WALKS", (0, 0.2, 0.5, 1))


HALF_WAY = """
import asyncio, sys
from taskmux import Taskmux
from taskmux.api import strikes

unblock = strikes._unblock

async def stops(*given):
    await unblock(*given)
    print("half way", flush=True)
    await asyncio.Event().wait()

async def main():
    strikes._unblock = stops
    async with Taskmux(sys.argv[1]) as mux:
        await mux.queue("mail").lift(sys.argv[2])

asyncio.run(main())
"""
"""A process that lifts a strike and hangs after its first batch."""


@pytest.fixture
def at_once(monkeypatch):
    """Let workers ask for strikes before each claim, and finish what was lifted without a rest."""
    monkeypatch.setattr(worker_strikes, "FRESH", 0)
    finish_often(monkeypatch)


async def in_state(queue, state: str, count: int) -> None:
    async with asyncio.timeout(20):
        while getattr(await queue.counts(), state) != count:
            await asyncio.sleep(0.01)


def declared(mux) -> tuple[Any, list[tuple[int, int]]]:
    ran: list[tuple[int, int]] = []

    @mux.task(name="mail", queue="mail")
    async def mail(ctx: Context, user: int, kind: str = "welcome") -> None:
        ran.append((user, ctx.attempt))

    return mail, ran


class TestStruck:
    async def test_jobs_that_match_are_set_aside_and_go_on_when_it_is_lifted(self, mux):
        mail, ran = declared(mux)
        queue = mux.queue("mail")
        strike = await queue.strike(task="mail", user=42, reason="they complained")
        jobs = await mux.enqueue_many([mail.bind(user) for user in (1, 42, 2, 42)])
        assert (await jobs[1].explain()).causes[0] is Cause.STRUCK
        async with mux.worker():
            await jobs[0].result(timeout="20s")
            await jobs[2].result(timeout="20s")
            await in_state(queue, "blocked", 2)
            record = await jobs[1].record()
            assert (record.state, record.attempts, record.started) == (State.BLOCKED, 0, False)
            assert record.reason == f"strike {strike.id}: task mail, user=42 (they complained)"
            assert "Lift that to let it go" in str(await jobs[1].explain())
            assert sorted(ran) == [(1, 1), (2, 1)]
            assert await queue.strikes() == [strike]
            assert await queue.lift(strike) == 2
            for job in (jobs[1], jobs[3]):
                await job.result(timeout="20s")
            assert await queue.strikes() == []
            assert await queue.lift(strike.id) == 0
        assert sorted(ran) == [(1, 1), (2, 1), (42, 1), (42, 1)]
        assert (await jobs[1].record()).reason is None

    async def test_a_running_worker_learns_of_it(self, mux, at_once):
        mail, ran = declared(mux)
        queue = mux.queue("mail")
        async with mux.worker():
            await (await mail.enqueue(1)).result(timeout="20s")
            await queue.strike(kind="welcome")  # the default of a call that leaves it out
            held = await mail.enqueue(2)
            await in_state(queue, "blocked", 1)
            await (await mail.enqueue(3, "bill")).result(timeout="20s")
        assert ran == [(1, 1), (3, 1)]
        assert (await held.record()).state is State.BLOCKED

    async def test_what_runs_goes_on(self, mux, at_once):
        began, go = asyncio.Event(), asyncio.Event()

        @mux.task(queue="mail")
        async def slow(user: int) -> str:
            began.set()
            await go.wait()
            return "sent"

        async with mux.worker():
            job = await slow.enqueue(1)
            await began.wait()
            await mux.queue("mail").strike(user=1)
            await in_state(mux.queue("mail"), "active", 1)
            go.set()
            assert await job.result(timeout="20s") == "sent"

    async def test_a_retry_is_set_aside_too(self, mux, at_once):
        queue = mux.queue("mail")
        struck = asyncio.Event()

        @mux.task(queue="mail", max_attempts=3, backoff=0)
        async def broken(user: int) -> None:
            if not struck.is_set():
                await queue.strike(user=user)
                struck.set()
            raise ValueError("no")

        async with mux.worker():
            job = await broken.enqueue(1)
            await struck.wait()
            await in_state(queue, "blocked", 1)
        record = await job.record()
        assert record.error is not None
        assert record.attempts >= 1

    async def test_one_held_by_hand_stays_when_a_strike_is_lifted(self, mux):
        mail, _ = declared(mux)
        queue = mux.queue("mail")
        by_hand = await mail.options(delay="1h").enqueue(42)
        await by_hand.hold()
        strike = await queue.strike(user=42)
        assert await queue.lift(strike) == 0
        assert (await by_hand.record()).state is State.BLOCKED

    async def test_two_strikes_are_two(self, mux):
        mail, _ = declared(mux)
        queue = mux.queue("mail")
        first, second = await queue.strike(user=1), await queue.strike(user=2)
        await mux.enqueue_many([mail.bind(1), mail.bind(2)])
        async with mux.worker():
            await in_state(queue, "blocked", 2)
            assert await queue.lift(first) == 1
            await in_state(queue, "completed", 1)
        assert (await queue.counts()).blocked == 1
        assert await queue.strikes() == [second]

    async def test_a_strike_that_is_not_there(self, mux):
        with pytest.raises(DeclarationError, match="no strike 'gone'"):
            await mux.queue("mail").lift("gone")


class TestLiftedHalfWay:
    async def test_a_worker_finishes_it_and_forgets_it(self, app, at_once, monkeypatch):
        """Whoever lifts it is killed between the mark and the jobs."""
        mux = app()
        mail, ran = declared(mux)
        queue = mux.queue("mail")
        strike = await queue.strike(user=42)
        await mux.enqueue_many([mail.bind(42) for _ in range(5)])
        async with mux.worker():
            await in_state(queue, "blocked", 5)

        class Killed(BaseException):
            pass

        async def killed(*_: object) -> int:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(api_strikes, "let_go", killed)
            with pytest.raises(Killed):
                await queue.lift(strike)
        assert (await queue.counts()).blocked == 5
        assert await queue.strikes() == []
        async with mux.worker():
            await in_state(queue, "completed", 5)
            async with asyncio.timeout(20):
                while (await queue.settings()).strikes is not None:
                    await asyncio.sleep(0.01)
        assert len(ran) == 5

    async def test_a_process_that_is_killed_in_the_middle(self, mux, stored):
        if stored.url.startswith("memory") or not stored.url:
            pytest.skip("this store is in one process")
        mail, ran = declared(mux)
        queue = mux.queue("mail")
        strike = await queue.strike(user=42)
        await mux.enqueue_many([mail.bind(42) for _ in range(250)])
        async with mux.worker():
            await in_state(queue, "blocked", 250)
        lifter = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HALF_WAY, stored.url, strike.id),
            stdout=asyncio.subprocess.PIPE,
        )
        assert lifter.stdout is not None
        assert await asyncio.wait_for(lifter.stdout.readline(), 60) == b"half way\n"
        lifter.kill()
        await lifter.wait()
        counts = await queue.counts()
        assert (counts.waiting, counts.blocked) == (100, 150)
        assert await queue.lift(strike) == 150
        async with mux.worker():
            await in_state(queue, "completed", 250)
        assert len(ran) == 250

    async def test_saying_it_again_goes_on(self, mux, at_once, monkeypatch):
        mail, _ = declared(mux)
        queue = mux.queue("mail")
        strike = await queue.strike(user=42)
        await mux.enqueue_many([mail.bind(42) for _ in range(5)])
        async with mux.worker():
            await in_state(queue, "blocked", 5)
        await queue.job((await queue.page("blocked", limit=1)).jobs[0].id).unhold()
        assert await queue.lift(strike) == 4
        assert (await queue.counts()).waiting == 5

    async def test_what_a_worker_sets_aside_after_the_lifting_is_let_go(self, mux, monkeypatch):
        """It had read the strike a moment before."""
        monkeypatch.setattr(worker_strikes, "FRESH", 3600)
        finish_often(monkeypatch)
        mail, ran = declared(mux)
        queue = mux.queue("mail")
        strike = await queue.strike(user=42)
        async with mux.worker():
            await (await mail.enqueue(1)).result(timeout="20s")
            read = worker_strikes.Strikes._read
            late = asyncio.Event()

            async def read_later(self, name):
                if late.is_set():
                    await read(self, name)

            monkeypatch.setattr(worker_strikes.Strikes, "_read", read_later)
            assert await queue.lift(strike) == 0
            job = await mail.enqueue(42)
            await in_state(queue, "blocked", 1)
            late.set()
            await job.result(timeout="20s")
        assert ran == [(1, 1), (42, 1)]
