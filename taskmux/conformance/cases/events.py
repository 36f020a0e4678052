"""The capability `events`: what a queue's stream tells, and how it is followed."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from msgspec.structs import replace

from taskmux.conformance.bench import LONG, Bench, needs
from taskmux.conformance.cases.faulty import broken
from taskmux.conformance.faults import Fault, FaultyDriver, resend, script
from taskmux.driver import (
    EVENT_DATA,
    BlockedCause,
    ClaimAsk,
    Dedup,
    Driver,
    EventPage,
    Events,
    JobRecord,
    Keep,
    NewJob,
    Note,
    PushStatus,
    ReclaimAsk,
    Ref,
    State,
    StoreEvent,
    UnsupportedFeature,
    What,
    transition,
)

AGES = 30.0
LIFE = (
    State.ACTIVE,
    State.WAITING,
    State.ACTIVE,
    State.COMPLETED,
    State.WAITING,
    State.BLOCKED,
    State.WAITING,
    State.DELAYED,
    State.WAITING,
    State.CANCELLED,
)
Told = tuple[str, What, State | None]
"""A job's id, what happened to it, and the state it came into."""


class _Follower:
    """Reads a queue's stream from where it was when this was made."""

    def __init__(self, bench: Bench, driver: Driver, cursor: str) -> None:
        self.bench = bench
        self.driver = driver
        self.cursor = cursor
        self.marks = 0

    async def page(self, limit: int = 100, seconds: float | None = None) -> EventPage:
        """Return the next page, and go on behind it."""
        wait = AGES if seconds is None else seconds
        page = await _stream(self.driver).events(self.bench.queue, self.cursor, limit, wait)
        self.cursor = page.cursor
        return page

    async def events(self) -> list[StoreEvent]:
        """Return all events until now: those before that of a job which is pushed for that."""
        self.marks += 1
        mark = f"mark-{self.marks}"
        await self.bench.created(self.bench.job(mark))
        found: list[StoreEvent] = []
        while not any(event.id == mark for event in found):
            page = await self.page()
            assert page.events, "the event of a job that was pushed did not come"
            assert not page.gap
            found += page.events
        await self.bench.applied(transition.remove(Ref(self.bench.queue, mark)))
        assert found[-1].id == mark
        return [event for event in found if not event.id.startswith("mark-")]

    async def told(self) -> list[Told]:
        """Return what `events` tells of jobs."""
        return [(event.id, event.what, event.state) for event in await self.events()]


def _stream(driver: Driver) -> Events:
    assert isinstance(driver, Events)
    return driver


async def _follow(bench: Bench, driver: Driver | None = None) -> _Follower:
    driver = driver or bench.driver
    try:
        page = await _stream(driver).events(bench.queue, None, 10, AGES)
    except UnsupportedFeature as error:
        pytest.skip(str(error))
    assert (list(page.events), page.gap, page.kept) == ([], False, True)
    return _Follower(bench, driver, page.cursor)


def _state(job: str, state: State) -> Told:
    return job, What.STATE, state


class EventCases:
    """E1 to E4."""

    @needs("events")
    @pytest.mark.parametrize("state", [State.WAITING, State.DELAYED, State.BLOCKED])
    async def test_e1_a_pushed_job_is_added(self, bench: Bench, state: State) -> None:
        follower = await _follow(bench)
        cause = BlockedCause.HOLD if state is State.BLOCKED else None
        await bench.created(NewJob(bench.job(state=state, cause=cause), delay=LONG))
        assert await follower.told() == [("job", What.ADDED, state)]

    @needs("events")
    async def test_e1_a_job_is_told_of_in_the_order_of_its_life(self, bench: Bench) -> None:
        follower = await _follow(bench)
        job = await bench.running()
        await bench.applied(transition.release(job))
        job = await bench.claim_one()
        await bench.applied(transition.complete(job, b"1"))
        await bench.applied(transition.redrive(job.ref, {State.COMPLETED}))
        await bench.applied(transition.hold(job.ref))
        await bench.applied(transition.unblock(job.ref, BlockedCause.HOLD))
        await bench.applied(transition.postpone(job.ref, LONG))
        await bench.applied(transition.promote(job.ref))
        await bench.applied(transition.cancel(job.ref, Keep()))
        assert await follower.told() == [
            ("job", What.ADDED, State.WAITING),
            *(_state("job", state) for state in LIFE),
        ]

    @needs("events")
    async def test_e1_a_batch_tells_each_of_its_jobs(self, bench: Bench) -> None:
        follower = await _follow(bench)
        names = [f"job-{number}" for number in range(30)]
        await bench.created(*map(bench.job, names))
        jobs = (await bench.claim(30)).jobs
        await bench.applied(*(transition.complete(job, b"1") for job in jobs))
        told = await follower.told()
        for name in names:
            assert [one for one in told if one[0] == name] == [
                (name, What.ADDED, State.WAITING),
                _state(name, State.ACTIVE),
                _state(name, State.COMPLETED),
            ]
        assert len(told) == 90

    @needs("events")
    async def test_e1_a_job_that_becomes_due_is_told_of(self, bench: Bench) -> None:
        follower = await _follow(bench)
        (job,) = await bench.created(NewJob(bench.job(state=State.DELAYED), delay=5))
        await bench.reach((job.run_at or 0) + 1)
        await bench.claim_one()
        states = [State.WAITING, State.ACTIVE]
        delayed = ("job", What.ADDED, State.DELAYED)
        assert await follower.told() == [delayed, *(_state("job", state) for state in states)]

    @needs("events")
    @pytest.mark.parametrize("way", ["complete", "cancel", "release"])
    async def test_e1_a_successor_that_is_let_go_is_told_of(self, bench: Bench, way: str) -> None:
        follower = await _follow(bench)
        key = Dedup("key", latest=True)
        owner = await bench.running("owner", dedup=key)
        await bench.created(bench.job("next", dedup=key))
        if way == "complete":
            await bench.applied(transition.complete(owner, None))
        elif way == "cancel":
            await bench.applied(transition.release(owner))
            await bench.applied(transition.cancel(owner.ref, Keep(LONG)))
        else:
            await bench.driver.release_dedup(bench.queue, "key", "owner")
        told = [one for one in await follower.told() if one[0] == "next"]
        assert told == [("next", What.ADDED, State.BLOCKED), _state("next", State.WAITING)]

    @needs("events")
    @pytest.mark.parametrize("state", [State.WAITING, State.DELAYED])
    async def test_e1_a_replaced_job_tells_its_state_if_that_is_another(
        self, bench: Bench, state: State
    ) -> None:
        follower = await _follow(bench)
        key = Dedup("key", ttl=LONG, replace=True, extend=True)
        await bench.created(bench.job("owner", dedup=key))
        (answer,) = await bench.push(NewJob(bench.job("again", dedup=key, state=state), delay=LONG))
        assert answer.status is PushStatus.REPLACED
        added = ("owner", What.ADDED, State.WAITING)
        others = [] if state is State.WAITING else [_state("owner", state)]
        assert await follower.told() == [added, *others]

    @needs("events")
    async def test_e1_a_lease_taken_over_is_told_of(self, bench: Bench) -> None:
        await bench.created(bench.job())
        job = await bench.claim_one(lease=20)
        follower = await _follow(bench)
        await bench.reach(job.lease_until or 0)
        await bench.reclaim_one()
        assert await follower.told() == [("job", What.TAKEN_OVER, None)]

    @needs("events")
    @pytest.mark.parametrize("way", ["remove", "prune"])
    async def test_e1_a_removal_is_told_of(self, bench: Bench, way: str) -> None:
        job = await bench.running()
        await bench.applied(transition.complete(_kept_for_nothing(job), b"1"))
        follower = await _follow(bench)
        if way == "remove":
            await bench.applied(transition.remove(job.ref))
        else:
            await bench.reach(await bench.now() + 1)
            assert await bench.prune() == 1
        assert await follower.told() == [("job", What.REMOVED, None)]

    @needs("events")
    async def test_e1_progress_is_told_with_what_it_is(self, bench: Bench) -> None:
        job = await bench.running()
        follower = await _follow(bench)
        large = b'"%s"' % (b"x" * EVENT_DATA)
        for note in (
            Note(ref=job.ref, fence=job.fence, progress=b'{"done":7}'),
            Note(ref=job.ref, fence=job.fence, log="no progress", steps={"a": b"1"}),
            Note(ref=job.ref, fence=job.fence, progress=large),
        ):
            await bench.driver.annotate([note])
        events = await follower.events()
        assert [(event.id, event.what) for event in events] == [("job", What.PROGRESS)] * 2
        assert [event.data for event in events] == [b'{"done":7}', None]

    @needs("events")
    async def test_e1_what_a_transition_tells_is_passed_on(self, bench: Bench) -> None:
        jobs = await bench.created(*map(bench.job, "abc"))
        await bench.claim(3)
        follower = await _follow(bench)
        held = [await bench.record(job) for job in jobs]
        tells = [b'{"why":"first"}', None, b'{"why":"third"}']
        await bench.applied(
            *(
                replace(transition.complete(job, b"1"), tells=told)
                for job, told in zip(held, tells, strict=True)
            )
        )
        data = {event.id: event.data for event in await follower.events()}
        assert data == dict(zip("abc", tells, strict=True))

    @needs("events")
    async def test_e1_a_pause_is_told_of(self, bench: Bench) -> None:
        follower = await _follow(bench)
        for paused, concurrency in ((False, 1), (True, 1), (True, 2), (False, 2)):
            await bench.set(paused=paused, concurrency=concurrency)
        assert await follower.told() == [("", What.PAUSED, None), ("", What.RESUMED, None)]

    @needs("events")
    async def test_e1_a_queue_tells_of_its_own_jobs_only(self, bench: Bench) -> None:
        follower = await _follow(bench)
        others = [bench.another_queue(), f"{bench.queue}x", f"{bench.queue}.x"]
        await bench.created(
            *(bench.job(f"of-{at}", queue=name) for at, name in enumerate(others)), bench.job()
        )
        assert await follower.told() == [("job", What.ADDED, State.WAITING)]

    @needs("events")
    async def test_e1_an_event_has_the_time_of_the_store(self, bench: Bench) -> None:
        follower, since = await _follow(bench), await bench.now()
        await bench.created(bench.job())
        (event,) = await follower.events()
        error = bench.hooks.clock_error_ms + 1000  # a log's own times may be of whole seconds
        assert since - error <= event.at <= await bench.now() + error

    # -- following ------------------------------------------------------------------------------

    @needs("events")
    async def test_e2_none_is_from_now_on(self, bench: Bench) -> None:
        await _follow(bench)
        await bench.created(bench.job("before"))
        follower = await _follow(bench)
        await bench.created(bench.job("after"))
        assert [told[0] for told in await follower.told()] == ["after"]

    @needs("events")
    async def test_e2_an_empty_cursor_is_the_beginning(self, bench: Bench) -> None:
        await bench.set(events=10)
        await bench.created(*map(bench.job, "ab"))
        await _follow(bench)
        found: list[str] = []
        follower = _Follower(bench, bench.driver, "")
        while found[-2:] != ["a", "b"]:
            page = await follower.page()
            assert page.events
            assert not page.gap
            found += [event.id for event in page.events]

    @needs("events")
    async def test_e2_an_event_ends_the_wait(self, bench: Bench) -> None:
        other = await bench.fork()
        follower = await _follow(bench)
        page = asyncio.create_task(follower.page())
        await asyncio.sleep(0)  # it begins to wait
        await bench.push(bench.job(), by=other)
        assert [event.id for event in (await page).events] == ["job"]

    @needs("events")
    async def test_e2_it_ends_by_itself(self, bench: Bench) -> None:
        follower = await _follow(bench)
        page = await follower.page(seconds=0.05)
        assert (list(page.events), page.gap) == ([], False)
        await bench.created(bench.job())
        assert [told[0] for told in await follower.told()] == ["job"]

    @needs("events")
    async def test_e2_pages_tell_each_event_once(self, bench: Bench) -> None:
        follower = await _follow(bench)
        names = [f"job-{number}" for number in range(10)]
        await bench.created(*map(bench.job, names))
        found: list[str] = []
        cursors = [follower.cursor]
        while len(found) < len(names):
            page = await follower.page(limit=3)
            assert 1 <= len(page.events) <= 3
            found += [event.id for event in page.events]
            cursors += [event.cursor for event in page.events]
        assert found == names
        for number, cursor in enumerate(cursors[:-1]):  # each event is a place to go on behind
            again = await _Follower(bench, bench.driver, cursor).page(limit=100)
            assert [event.id for event in again.events][:1] == [names[number]]

    @needs("events")
    async def test_e2_several_follow_at_once(self, bench: Bench) -> None:
        followers = [await _follow(bench, driver) for driver in (bench.driver, await bench.fork())]
        followers.append(_Follower(bench, bench.driver, followers[0].cursor))
        pages = [asyncio.create_task(follower.page()) for follower in followers]
        await bench.created(bench.job())
        for page in pages:
            assert [event.id for event in (await page).events] == ["job"]

    @needs("events")
    @pytest.mark.parametrize("cursor", ["no cursor", "999999999999", "-1", "\0", "9" * 99])
    async def test_e2_what_is_no_cursor_is_a_gap(self, bench: Bench, cursor: str) -> None:
        await _follow(bench)
        follower = _Follower(bench, bench.driver, cursor)
        assert (await follower.page(seconds=0.05)).gap
        assert await follower.told() == []  # and from there on it goes on

    # -- what is kept ---------------------------------------------------------------------------

    @needs("events")
    async def test_e3_the_newest_are_kept_and_lost_ones_are_told_of(self, bench: Bench) -> None:
        follower = await _follow(bench)
        await bench.set(events=20)
        names = [f"job-{number:03}" for number in range(600)]
        for first in range(0, len(names), 20):
            await bench.created(*map(bench.job, names[first : first + 20]))
        found: list[str] = []
        gaps = 0
        while names[-1] not in found:
            page = await follower.page()
            assert page.events or page.gap
            gaps += page.gap
            found += [event.id for event in page.events]
        assert len(found) >= 20
        assert found == names[-len(found) :]
        assert gaps == (len(found) < len(names))

    @needs("events")
    async def test_e3_none_are_kept_if_none_are_wanted(self, bench: Bench) -> None:
        follower = await _follow(bench)
        await bench.created(bench.job("before"))
        await bench.set(events=0)
        await bench.created(bench.job("meanwhile"))
        page = await _stream(bench.driver).events(bench.queue, None, 10, 0)
        assert (list(page.events), page.kept) == ([], False)
        page = await _Follower(bench, bench.driver, follower.cursor).page(seconds=0.05)
        assert (list(page.events), page.kept) == ([], False)
        await bench.set(events=10)
        again = await _follow(bench)
        await bench.created(bench.job("after"))
        assert [told[0] for told in await again.told()] == ["after"]

    # -- what makes none ------------------------------------------------------------------------

    @needs("events")
    async def test_e4_what_is_refused_makes_no_event(self, bench: Bench) -> None:
        job = await bench.running()
        await bench.applied(transition.release(job))
        follower = await _follow(bench)
        (answer,) = await bench.push(bench.job())
        assert answer.status is PushStatus.DUPLICATE
        await bench.apply(
            transition.complete(job, b"late"),
            transition.promote(job.ref),
            transition.remove(bench.job("none").ref),
        )
        await bench.driver.annotate([Note(ref=job.ref, fence=job.fence, progress=b"1")])
        await bench.applied(transition.reprioritise(job.ref, 7))
        assert await follower.told() == []

    @needs("events")
    @broken
    async def test_e4_an_operation_sent_again_makes_no_event(
        self, bench: Bench, faults: list[Fault]
    ) -> None:
        follower = await _follow(bench)
        verbs = ("push", "claim", "reclaim", "apply")
        driver = FaultyDriver(bench.driver, script(dict.fromkeys(verbs, faults)))
        op = bench.op()
        await resend(partial(driver.push, op, [NewJob(bench.job())]))
        op, ask = bench.op("worker"), ClaimAsk(bench.queue, "worker", 1, 20)
        (job,) = (await resend(partial(driver.claim, op, ask))).jobs
        await bench.reach(job.lease_until or 0)
        op, again = bench.op("rescuer"), ReclaimAsk(bench.queue, "rescuer", 1, LONG)
        (job,) = await resend(partial(driver.reclaim, op, again))
        op = bench.op()
        await resend(partial(driver.apply, op, [transition.complete(job, b"1")]))
        assert await follower.told() == [
            ("job", What.ADDED, State.WAITING),
            _state("job", State.ACTIVE),
            ("job", What.TAKEN_OVER, None),
            _state("job", State.COMPLETED),
        ]


def _kept_for_nothing(job: JobRecord) -> JobRecord:
    """Return the job as one that need not be kept when it is finished."""
    return replace(job, policy=replace(job.policy, completed=Keep(0)))
