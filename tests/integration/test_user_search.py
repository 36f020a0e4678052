"""Searching a queue as users do it. Runs unchanged on every backend."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from taskmux import DeclarationError, ErrorInfo, InvalidName, State
from taskmux.driver import ClaimAsk, Op, transition


async def buried(mux, driver, count: int, error: ErrorInfo, **options) -> list[str]:
    """Make dead jobs as a worker would leave them; return their ids."""
    call = options.pop("arguments", {"n": 1})
    task = options.pop("task", "mail.send")
    jobs = [
        await mux.enqueue(task, call, queue="mail", priority=0, **options) for _ in range(count)
    ]
    op, ask = Op(f"w{jobs[0].id}", 1), ClaimAsk("mail", "w", count, 60_000)
    claimed = (await driver.claim(op, ask)).jobs
    assert {job.id for job in claimed} == {job.id for job in jobs}
    changes = transition.Changes(attempts=1, error=error, reason="out of attempts")
    await driver.apply(Op(op.origin, 2), [transition.bury(job, changes) for job in claimed])
    return [job.id for job in claimed]


async def found(queue, *args, **filters) -> list[str]:
    return [job.id async for job in queue.jobs(*args, **filters)]


class TestFilters:
    async def test_by_state_task_and_tag(self, mux):
        queue = mux.queue("mail")
        a = await mux.enqueue("mail.send", queue="mail", tags=["red"])
        b = await mux.enqueue("mail.send", queue="mail", tags=["blue", "red"], delay="1h")
        c = await mux.enqueue("mail.bounce", queue="mail", tags=["blue"])
        assert await found(queue, "waiting") == [a.id, c.id]
        assert await found(queue, ["waiting", State.DELAYED]) == [b.id, a.id, c.id]
        assert await found(queue, task="mail.send") == [b.id, a.id]
        assert await found(queue, tag="red") == [b.id, a.id]
        assert await found(queue, task="mail.send", tag="blue") == [b.id]
        assert await found(queue) == [b.id, a.id, c.id]
        assert await found(queue, newest=True) == [c.id, a.id, b.id]
        assert await found(queue, task="mail") == []

    async def test_by_error_and_text(self, mux, driver):
        queue = mux.queue("mail")
        refused = ErrorInfo("smtplib.SMTPServerBusy", "Mailbox of Zoë is full")
        one = await buried(mux, driver, 1, refused, arguments={"to": 'Ann "Ä" O'})
        two = await buried(mux, driver, 1, ErrorInfo("ValueError", "bad"), task="mail.bounce")
        await mux.enqueue("mail.send", queue="mail")
        assert await found(queue, error="SMTPServerBusy") == one
        assert await found(queue, "dead", error="smtplib.SMTPServerBusy") == one
        assert await found(queue, error="ValueError") == two
        assert await found(queue, error="Busy") == []
        for text in ("ZOË", "mailbox of", 'ann "ä"', one[0]):
            assert await found(queue, text=text) == one, text
        assert await found(queue, text="bounce") == two
        assert await found(queue, text="out of attempts") == [*one, *two]

    async def test_by_time(self, mux, driver):
        queue = mux.queue("mail")
        job = await mux.enqueue("mail.send", queue="mail")
        dead = await buried(mux, driver, 2, ErrorInfo("ValueError", "bad"))
        created = (await job.record()).created_at
        at = datetime.fromtimestamp(created / 1000, UTC)
        assert await found(queue, "waiting", since=at, until=at) == [job.id]
        assert await found(queue, "waiting", until=at - timedelta(milliseconds=1)) == []
        assert await found(queue, since="1h") == [job.id, *dead]
        assert await found(queue, until="1h") == []
        assert await found(queue, "dead", since=at) == dead

    async def test_by_id(self, mux):
        queue = mux.queue("mail")
        jobs = [await mux.enqueue("mail.send", queue="mail") for _ in range(4)]
        wanted = [jobs[2].id, jobs[0].id]
        assert await found(queue, ids=[*wanted, "none"]) == wanted
        assert await found(queue, "dead", ids=wanted) == []
        assert await found(queue, ids=jobs[1].id) == [jobs[1].id]


class TestPages:
    @pytest.mark.parametrize("newest", [False, True])
    @pytest.mark.parametrize(
        "filters", [{"tag": "red"}, {"text": "needle"}, {"tag": "red", "text": "needle"}]
    )
    async def test_cursors_lead_through_all_of_it(self, mux, filters, newest):
        queue = mux.queue("mail")
        calls = [{"say": "needle" if n % 3 == 0 else "hay", "n": n} for n in range(40)]
        jobs = [
            await mux.enqueue(
                "mail.send", call, queue="mail", tags=["red"] if call["n"] % 3 == 0 else [],
                delay="1h" if call["n"] % 2 else 0,
            )
            for call in calls
        ]  # fmt: skip
        expected = await found(queue, newest=newest, **filters)
        assert sorted(expected) == sorted(job.id for n, job in enumerate(jobs) if n % 3 == 0)
        met, cursor = [], None
        while True:
            page = await queue.find(newest=newest, cursor=cursor, limit=3, **filters)
            assert len(page.jobs) <= 3
            met += [job.id for job in page.jobs]
            cursor = page.cursor
            if cursor is None:
                break
        assert met == expected

    async def test_a_rare_kind_is_found_in_few_calls(self, mux):
        queue = mux.queue("mail")
        for _ in range(30):
            await mux.enqueue("mail.send", queue="mail")
        wanted = await mux.enqueue("mail.rare", queue="mail")
        page = await queue.find(task="mail.rare", limit=1)
        assert [job.id for job in page.jobs] == [wanted.id]

    async def test_the_blocking_ones_find_the_same(self, mux):
        queue = mux.queue("mail").blocking
        a = await mux.enqueue("mail.send", queue="mail", tags=["red"])
        await mux.enqueue("mail.send", queue="mail")

        def look():
            page = queue.find("waiting", tag="red")
            return [job.id for job in page.jobs], [job.id for job in queue.jobs(tag="red")]

        assert await asyncio.to_thread(look) == ([a.id], [a.id])
        await asyncio.to_thread(mux.close_blocking)


class TestBadInput:
    @pytest.mark.parametrize(
        ("filters", "says"),
        [
            ({"colour": "red"}, "state, task, tag, error, fingerprint, text, since, until, ids"),
            ({"state": "sleeping"}, "delayed, waiting"),
            ({"state": []}, "names none"),
            ({"state": ["dead", 7]}, "no state 7"),
            ({"text": ""}, "no text"),
            ({"error": 5}, "no text"),
            ({"error": "\ud800"}, "no text"),
            ({"ids": []}, "names none"),
            ({"since": "yesterday"}, "not a duration"),
            ({"since": datetime(2026, 1, 1)}, "time zone"),
            ({"since": "1h", "until": "2h"}, "later than until"),
        ],
    )
    async def test_is_told_before_anything_is_sent(self, app, filters, says):
        queue = app(url="redis://127.0.0.1:1").queue("mail")
        with pytest.raises(DeclarationError, match=says):
            await queue.find(**filters)
        with pytest.raises(DeclarationError, match=says):
            await queue.cancel(**filters)

    async def test_names_that_no_job_can_have(self, app):
        queue = app(url="redis://127.0.0.1:1").queue("mail")
        for filters in ({"task": "a b"}, {"tag": ""}, {"ids": ["\0"]}):
            with pytest.raises(InvalidName):
                await queue.find(**filters)

    @pytest.mark.parametrize("cursor", ["x", "dead~", "waiting~x", "ids~0", 5])
    async def test_what_is_no_cursor(self, mux, cursor):
        with pytest.raises(Exception, match="is no cursor"):
            await mux.queue("mail").find("waiting", cursor=cursor)

    @pytest.mark.parametrize("limit", [0, 1001, "5", True])
    async def test_limits(self, mux, limit):
        with pytest.raises(DeclarationError, match="from 1 to 1000"):
            await mux.queue("mail").find(limit=limit)
