"""Get, find, counts and queues."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from taskmux.conformance.bench import LONG, Bench
from taskmux.driver import (
    BlockedCause,
    ConfigError,
    CorruptRecord,
    ErrorInfo,
    FindAsk,
    JobRecord,
    NewJob,
    QueueSettings,
    Ref,
    State,
    transition,
)


async def _five(bench: Bench, state: State) -> list[str]:
    """Bring five jobs into a state; return their ids in the order that `find` promises."""
    names = [f"job-{n}" for n in range(5)]
    jobs = [
        bench.job(name, tags=("even",), task="kit.even") if n % 2 == 0 else bench.job(name)
        for n, name in enumerate(names)
    ]
    match state:
        case State.WAITING:
            order = (2, 0, 4, 1, 3)
            jobs = [replace(jobs[n], priority=place) for place, n in enumerate(order)]
            names = [names[n] for n in order]
        case State.DELAYED:
            order = (1, 4, 2, 0, 3)
            jobs = [replace(jobs[n], state=state, run_at=10**13 + i) for i, n in enumerate(order)]
            names = [names[n] for n in order]
            jobs.sort(key=lambda job: job.id)
        case State.BLOCKED:
            jobs = [replace(job, state=state) for job in jobs]
    for job in jobs:
        await bench.created(job)
        await bench.reach(await bench.now() + 1)
    await _finish(bench, state, await _claimed(bench, state))
    return names


async def _claimed(bench: Bench, state: State) -> list[JobRecord]:
    if state in {State.WAITING, State.DELAYED, State.BLOCKED, State.CANCELLED}:
        return []
    jobs: list[JobRecord] = []
    for _ in range(5):
        jobs += (await bench.claim()).jobs
        await bench.reach(await bench.now() + 1)
    return jobs


async def _finish(bench: Bench, state: State, jobs: list[JobRecord]) -> None:
    waiting = await bench.walk(State.WAITING) if state is State.CANCELLED else []
    for job in jobs or waiting:
        match state:
            case State.COMPLETED:
                await bench.applied(transition.complete(job, None))
            case State.DEAD:
                await bench.applied(transition.bury(job, transition.Changes(attempts=1)))
            case State.CANCELLED:
                await bench.applied(transition.cancel(job.ref, job.policy.cancelled))
        await bench.reach(await bench.now() + 1)


LISTED = [state for state in State if state is not State.MOVED]
HISTORIC = [state for state in LISTED if state not in {State.WAITING, State.DELAYED}]


class ReadingCases:
    """G1 to G3, F1 to F6."""

    async def test_g1_get_answers_in_the_order_asked(self, bench: Bench) -> None:
        other = bench.another_queue()
        await bench.created(bench.job("a"), bench.job("b"), bench.job("a", queue=other))
        refs = [
            Ref(bench.queue, "b"),
            Ref(bench.queue, "none"),
            Ref(other, "a"),
            Ref(bench.queue, "a"),
            Ref("kit-never", "a"),
            Ref(bench.queue, "b"),
        ]
        found = await bench.driver.get(refs)
        assert [job and job.ref for job in found] == [
            None if ref.id == "none" or ref.queue == "kit-never" else ref for ref in refs
        ]

    async def test_g1_get_of_nothing_answers_nothing(self, bench: Bench) -> None:
        assert list(await bench.driver.get([])) == []

    async def test_g2_counts_are_exact_after_every_operation(self, bench: Bench) -> None:
        counted = dict.fromkeys(State, 0)
        assert await bench.driver.counts(bench.queue) == counted

        async def now_in(**states: int) -> None:
            expected = counted | {State(name): number for name, number in states.items()}
            assert await bench.driver.counts(bench.queue) == expected

        await bench.created(*map(bench.job, "abcd"))
        await now_in(waiting=4)
        a, b, c = (await bench.claim(3)).jobs
        await now_in(waiting=1, active=3)
        await bench.applied(transition.complete(a, None), transition.release(c))
        await now_in(waiting=2, active=1, completed=1)
        await bench.applied(transition.again(b, transition.Changes(attempts=1), LONG))
        await now_in(waiting=2, delayed=1, completed=1)
        await bench.applied(transition.hold(c.ref), transition.remove(Ref(bench.queue, "d")))
        await now_in(blocked=1, delayed=1, completed=1)
        await bench.applied(transition.cancel(b.ref, b.policy.cancelled))
        await now_in(blocked=1, cancelled=1, completed=1)
        await bench.applied(transition.remove(a.ref))
        await now_in(blocked=1, cancelled=1)

    async def test_g2_counts_are_of_one_queue(self, bench: Bench) -> None:
        await bench.created(bench.job("a"), bench.job("b", queue=bench.another_queue()))
        assert sum((await bench.driver.counts(bench.queue)).values()) == 1

    async def test_g3_a_queue_appears_with_its_first_job(self, bench: Bench) -> None:
        assert bench.queue not in await bench.driver.queues()
        other = bench.another_queue()
        await bench.created(bench.job(), bench.job("delayed", queue=other, state=State.DELAYED))
        names = list(await bench.driver.queues())
        assert names == sorted(names)
        assert {bench.queue, other} <= set(names)

    async def test_g3_a_queue_appears_with_its_first_setting(self, bench: Bench) -> None:
        assert await bench.driver.put_settings(bench.queue, QueueSettings(paused=True))
        assert bench.queue in await bench.driver.queues()

    async def test_g3_a_queue_without_jobs_or_settings_is_none(self, bench: Bench) -> None:
        await bench.claim()
        job = await bench.arrange("completed")
        assert bench.queue in await bench.driver.queues()
        await bench.applied(transition.remove(job.ref))
        assert bench.queue not in await bench.driver.queues()

    @pytest.mark.parametrize("state", LISTED)
    async def test_f1_pages_are_in_order_and_complete(self, bench: Bench, state: State) -> None:
        expected = await _five(bench, state)
        for limit in (2, 5, 100):
            found = await bench.walk(state, limit=limit)
            assert [job.id for job in found] == expected
            assert found == [await bench.record(job) for job in found], "find: not as stored"

    @pytest.mark.parametrize("state", HISTORIC)
    async def test_f1_newest_first_is_the_reverse(self, bench: Bench, state: State) -> None:
        expected = (await _five(bench, state))[::-1]
        assert [job.id for job in await bench.walk(state, limit=2, newest=True)] == expected

    async def test_f1_jobs_that_stay_put_appear_once(self, bench: Bench) -> None:
        await bench.created(*(bench.job(f"job-{n}") for n in range(9)))
        ask = FindAsk(queue=bench.queue, state=State.WAITING, limit=3)
        page = await bench.driver.find(ask)
        found = [job.id for job in page.jobs]
        await bench.claim(4)
        await bench.created(bench.job("urgent", priority=0), bench.job("late"))
        while page.cursor is not None:
            page = await bench.driver.find(
                FindAsk(queue=bench.queue, state=State.WAITING, limit=3, cursor=page.cursor)
            )
            found += [job.id for job in page.jobs]
        assert len(found) == len(set(found)), "a job appeared twice"
        assert {f"job-{n}" for n in range(4, 9)} <= set(found)

    async def test_f1_jobs_of_one_instant_are_all_there(self, bench: Bench) -> None:
        names = {f"job-{n:02}" for n in range(30)}
        await bench.created(*map(bench.job, names))
        jobs = (await bench.claim(30)).jobs
        await bench.applied(*(transition.complete(job, None) for job in jobs))
        oldest = [job.id for job in await bench.walk(State.COMPLETED, limit=7)]
        newest = [job.id for job in await bench.walk(State.COMPLETED, limit=7, newest=True)]
        assert len(oldest) == len(names)
        assert set(oldest) == names
        assert newest == oldest[::-1]

    @pytest.mark.parametrize("state", LISTED)
    async def test_f2_a_tag_filters(self, bench: Bench, state: State) -> None:
        expected = [name for name in await _five(bench, state) if int(name[-1]) % 2 == 0]
        for limit in (1, 2, 100):
            found = await bench.walk(state, limit=limit, tag="even")
            assert [job.id for job in found] == expected
        assert await bench.walk(state, tag="eve") == []

    @pytest.mark.parametrize("state", LISTED)
    async def test_f2_a_task_filters(self, bench: Bench, state: State) -> None:
        expected = [name for name in await _five(bench, state) if int(name[-1]) % 2 == 0]
        for limit in (1, 2, 100):
            found = await bench.walk(state, limit=limit, task="kit.even")
            assert [job.id for job in found] == expected
        assert await bench.walk(state, task="kit.eve") == []

    async def test_f2_a_cause_filters(self, bench: Bench) -> None:
        causes = [BlockedCause.HOLD, BlockedCause.CHILDREN, None, BlockedCause.HOLD]
        await bench.created(
            *(
                bench.job(f"job-{n}", state=State.BLOCKED, cause=cause)
                for n, cause in enumerate(causes)
            )
        )
        for limit in (1, 100):
            found = await bench.walk(State.BLOCKED, limit=limit, cause=BlockedCause.HOLD)
            assert {job.id for job in found} == {"job-0", "job-3"}
        assert await bench.walk(State.BLOCKED, cause=BlockedCause.DEDUP) == []

    async def test_f2_an_error_filters(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abcd"))
        errors = [
            ErrorInfo("ValueError", "bad"),
            ErrorInfo("app.ValueError", "bad"),
            ErrorInfo("KeyError", "ValueError", "ValueError: bad"),
            None,
        ]
        for job, error in zip((await bench.claim(4)).jobs, errors, strict=True):
            changes = transition.Changes(attempts=1, error=error)
            await bench.applied(transition.bury(job, changes))
        for limit in (1, 100):
            found = await bench.walk(State.DEAD, limit=limit, error="ValueError")
            assert {job.id for job in found} == {"a", "b"}
        found = await bench.walk(State.DEAD, error="app.ValueError")
        assert [job.id for job in found] == ["b"]
        assert await bench.walk(State.DEAD, error="Error") == []

    async def test_f2_what_a_payload_says_is_no_filter(self, bench: Bench) -> None:
        words = b'{"task": "kit.other", "tag": "red", "cause": "hold"}\xa1t\xa9kit.other\xa3red'
        await bench.created(bench.job("a", payload=words), bench.job("b", state=State.BLOCKED))
        assert await bench.walk(State.WAITING, task="kit.other") == []
        assert await bench.walk(State.WAITING, tag="red") == []
        assert await bench.walk(State.BLOCKED, cause=BlockedCause.HOLD) == []

    async def test_f2_filters_hold_together(self, bench: Bench) -> None:
        await bench.created(
            bench.job("neither"),
            bench.job("task", task="kit.wanted"),
            bench.job("tag", tags=("red",)),
            bench.job("both", task="kit.wanted", tags=("blue", "red")),
        )
        found = await bench.walk(State.WAITING, limit=1, task="kit.wanted", tag="red")
        assert [job.id for job in found] == ["both"]

    @pytest.mark.parametrize("newest", [False, True])
    async def test_f2_a_page_looks_at_so_many_and_no_more(
        self, bench: Bench, *, newest: bool
    ) -> None:
        await bench.created(
            *(bench.job(f"job-{n:02}", tags=("red",) if n % 10 == 5 else ()) for n in range(40))
        )
        ask = FindAsk(
            queue=bench.queue, state=State.WAITING, tag="red", limit=2, scan=10, newest=newest
        )
        pages: list[list[str]] = []
        while True:
            page = await bench.driver.find(ask)
            pages.append([job.id for job in page.jobs])
            if page.cursor is None:
                break
            ask = replace(ask, cursor=page.cursor)
        found = ["job-05", "job-15", "job-25", "job-35"]
        assert [name for page in pages for name in page] == (found[::-1] if newest else found)
        assert len(pages[0]) == 1, "not as many records were looked at as asked"

    async def test_f3_a_page_is_never_longer_than_asked(self, bench: Bench) -> None:
        await bench.created(*(NewJob(bench.job(f"job-{n}")) for n in range(7)))
        page = await bench.driver.find(FindAsk(queue=bench.queue, state=State.WAITING, limit=3))
        assert len(page.jobs) == 3
        assert page.cursor is not None
        assert await bench.walk(State.WAITING, limit=1) == await bench.walk(State.WAITING)

    async def test_f3_an_empty_state_is_one_empty_page(self, bench: Bench) -> None:
        for state in State:
            page = await bench.driver.find(FindAsk(queue=bench.queue, state=state))
            assert (list(page.jobs), page.cursor) == ([], None)

    @pytest.mark.parametrize("text", ["", "x", "x:y", "1", ":", "9" * 400, "\0:\0"])
    async def test_f4_what_is_no_cursor_is_told(self, bench: Bench, text: str) -> None:
        await bench.created(bench.job())
        ask = FindAsk(queue=bench.queue, state=State.WAITING, cursor=text)
        (answer,) = await asyncio.gather(bench.driver.find(ask), return_exceptions=True)
        assert isinstance(answer, ConfigError), f"{text!r} was taken for a cursor"

    @pytest.mark.parametrize("newest", [False, True])
    @pytest.mark.parametrize("state", [one for one in HISTORIC if one is not State.CANCELLED])
    async def test_f6_a_page_starts_at_an_instant(
        self, bench: Bench, state: State, *, newest: bool
    ) -> None:
        names = await _five(bench, state)
        stored = [await bench.record(Ref(bench.queue, name)) for name in names]
        instants = [one.finished_at or one.created_at for one in stored]
        for at, instant in enumerate(instants):
            expected = names[at::-1] if newest else names[at:]
            for limit in (2, 100):
                found = await bench.walk(state, limit=limit, newest=newest, start=instant)
                assert [job.id for job in found] == expected
        beyond = instants[0] - 1 if newest else instants[-1] + 1
        assert await bench.walk(state, newest=newest, start=beyond) == []

    async def test_f6_other_orders_have_no_instant_to_start_at(self, bench: Bench) -> None:
        await bench.created(bench.job("a"), bench.job("b", state=State.DELAYED, run_at=5))
        for state in (State.WAITING, State.DELAYED):
            assert len(await bench.walk(state, start=2**50)) == 1

    async def test_f5_a_page_tells_the_time_of_the_store(self, bench: Bench) -> None:
        before = await bench.now()
        page = await bench.driver.find(FindAsk(queue=bench.queue, state=State.MOVED, limit=1))
        assert before <= page.now <= await bench.now()

    async def test_a_corrupt_record_is_set_aside(self, bench: Bench) -> None:
        await bench.created(bench.job("bad"), bench.job("good"))
        bad = Ref(bench.queue, "bad")
        if not await bench.hooks.damage(bench.driver, bad):
            pytest.skip("no way to damage a record: `damage` is not overridden")
        assert await bench.claimed_ids(10) == ["good"]
        assert (await bench.driver.counts(bench.queue))[State.WAITING] == 0
        assert await bench.walk(State.WAITING) == []
        with pytest.raises(CorruptRecord):
            await bench.driver.get([bad])
