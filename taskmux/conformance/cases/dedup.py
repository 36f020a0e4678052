"""Deduplication keys: how long one is owned, what a second job does, and who comes next."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from taskmux.conformance.bench import LONG, Bench, needs
from taskmux.conformance.cases.moves import SPENT
from taskmux.conformance.faults import FaultyDriver, lost, resend, script
from taskmux.conformance.model import pushed, replaced
from taskmux.driver import (
    ApplyStatus,
    BlockedCause,
    Dedup,
    JobRecord,
    Keep,
    LineSettings,
    NewJob,
    Note,
    Policy,
    Pushed,
    PushStatus,
    Ref,
    State,
    transition,
)

SOON = 40
"""A time to own a key, in milliseconds, that passes within a test."""

PLAIN = Dedup("key")
THROTTLE = Dedup("key", ttl=LONG)
REPLACE = Dedup("key", replace=True)
DEBOUNCE = Dedup("key", ttl=LONG, replace=True, extend=True)
LATEST = Dedup("key", latest=True)
MODES = {
    "plain": PLAIN,
    "throttle": THROTTLE,
    "replace": REPLACE,
    "debounce": DEBOUNCE,
    "latest": LATEST,
}
FINISHED = ("completed", "dead", "cancelled")

CREATED, DEDUPLICATED, REPLACED = PushStatus.CREATED, PushStatus.DEDUPLICATED, PushStatus.REPLACED


def _second(bench: Bench, dedup: Dedup, id: str = "second", **fields: Any) -> JobRecord:  # noqa: A002 - as in `Bench`
    """Return a job that differs from the first in all that it says."""
    content = {"task": "another", "payload": b'{"n":2}', "headers": {"a": "b"}, "tags": ("new",)}
    policy = Policy(max_attempts=7, timeout_ms=9, completed=Keep(LONG, 3))
    said = content | {"policy": policy, "priority": 7, "dedup": dedup}
    return bench.job(id, **said | fields)


async def _answer(bench: Bench, new: JobRecord | NewJob) -> tuple[PushStatus, str]:
    (answer,) = await bench.push(new)
    return answer.status, answer.id


async def _followed(bench: Bench, **fields: Any) -> tuple[JobRecord, JobRecord]:
    """Return a running owner and the job that waits for its end."""
    owner = await bench.running("owner", dedup=fields.pop("owner", LATEST))
    assert await _answer(bench, _second(bench, LATEST, **fields)) == (CREATED, "second")
    return owner, await bench.record(bench.job("second"))


async def _owner(bench: Bench) -> str | None:
    return await bench.driver.dedup_owner(bench.queue, "key")


class DedupCases:
    """P3, P9 to P11, A6, D1 and D2."""

    # -- how long a key is owned ------------------------------------------------------------------

    @pytest.mark.parametrize("state", FINISHED)
    async def test_p3_a_ttl_outlives_its_job(self, bench: Bench, state: str) -> None:
        owner = await bench.arrange(state, dedup=THROTTLE)
        for mode in MODES.values():
            assert await _answer(bench, _second(bench, mode)) == (DEDUPLICATED, "job")
        assert await bench.record(owner) == owner
        assert await _owner(bench) == "job"

    @pytest.mark.parametrize("state", ["waiting", "delayed", "blocked", "active", "completed"])
    async def test_p3_a_ttl_ends_by_the_stores_clock(self, bench: Bench, state: str) -> None:
        owner = await bench.arrange(state, dedup=replace(THROTTLE, ttl=SOON))
        answer, number = await _answer(bench, _second(bench, PLAIN)), 0
        while answer == (DEDUPLICATED, "job"):
            number += 1
            await bench.reach(await bench.now() + SOON // 8)
            answer = await _answer(bench, _second(bench, PLAIN, f"second-{number}"))
        assert answer[0] is CREATED
        assert await bench.now() >= owner.created_at + SOON, "the key was free too early"
        assert await bench.record(owner) == owner
        assert await _owner(bench) == answer[1]

    @pytest.mark.parametrize("state", ["waiting", "delayed", "blocked", *FINISHED])
    async def test_p3_a_removal_ends_a_ttl(self, bench: Bench, state: str) -> None:
        owner = await bench.arrange(state, dedup=THROTTLE)
        await bench.applied(transition.remove(owner.ref))
        assert await _owner(bench) is None
        await bench.created(_second(bench, THROTTLE))

    async def test_p3_a_ttl_outlives_the_record(self, bench: Bench) -> None:
        keep = Keep(0)
        owner = await bench.arrange("completed", dedup=THROTTLE, policy=Policy(completed=keep))
        assert await bench.prune() == 1
        assert await bench.get(owner) is None
        for mode in MODES.values():
            assert await _answer(bench, _second(bench, mode)) == (DEDUPLICATED, "job")
        assert await _owner(bench) == "job"
        if bench.queue in await bench.driver.queues():
            raise AssertionError("a queue goes with its last job, whatever is owned there")
        assert await bench.driver.release_dedup(bench.queue, "key", "job")
        await bench.created(_second(bench, THROTTLE))

    async def test_p3_a_ttl_ends_after_the_record(self, bench: Bench) -> None:
        dedup = replace(THROTTLE, ttl=SOON)
        await bench.arrange("completed", dedup=dedup, policy=Policy(completed=Keep(0)))
        await bench.prune()
        await bench.reach(await bench.now() + SOON)
        await bench.prune()
        assert await _owner(bench) is None
        await bench.created(_second(bench, PLAIN))

    @pytest.mark.parametrize("mode", MODES)
    async def test_p3_an_owner_that_is_set_aside_owns_nothing(
        self, bench: Bench, mode: str
    ) -> None:
        await bench.created(bench.job("bad", dedup=MODES[mode]), bench.job("good"))
        if not await bench.hooks.damage(bench.driver, Ref(bench.queue, "bad")):
            pytest.skip("no way to damage a record: `damage` is not overridden")
        assert await bench.claimed_ids(10) == ["good"]
        await bench.created(_second(bench, MODES[mode]))
        assert await _owner(bench) == "second"

    @pytest.mark.parametrize("mode", MODES)
    async def test_p3_a_mode_comes_back_equal(self, bench: Bench, mode: str) -> None:
        job = await bench.arrange("dead", dedup=MODES[mode])
        assert job.dedup == MODES[mode]
        assert (await bench.walk(State.DEAD))[0].dedup == MODES[mode]

    async def test_a6_a_job_whose_time_is_over_goes_on(self, bench: Bench) -> None:
        first = await bench.running("first", dedup=replace(THROTTLE, ttl=SOON))
        await bench.reach(first.created_at + 2 * SOON)
        await bench.created(bench.job("second", dedup=THROTTLE))
        await bench.applied(
            transition.again(first, SPENT, 0),
            transition.hold(first.ref),
            transition.cancel(first.ref, Keep()),
        )
        assert await _owner(bench) == "second"
        (answer,) = await bench.apply(transition.redrive(first.ref, {State.CANCELLED}))
        assert answer.status is ApplyStatus.CONFLICT

    async def test_a6_a_redriven_job_has_a_whole_ttl_again(self, bench: Bench) -> None:
        job = await bench.arrange("dead", dedup=replace(THROTTLE, ttl=4 * SOON))
        await bench.reach(await bench.now() + 4 * SOON)
        assert await _owner(bench) is None
        since = await bench.now()
        await bench.applied(transition.redrive(job.ref))
        assert await _owner(bench) == "job" or await bench.now() >= since + 4 * SOON

    # -- replacing --------------------------------------------------------------------------------

    @pytest.mark.parametrize("mode", ["replace", "debounce", "latest"])
    @pytest.mark.parametrize("state", ["waiting", "delayed"])
    @pytest.mark.parametrize("first", ["plain", "throttle"])
    async def test_p9_an_owner_gets_the_new_content(
        self, bench: Bench, state: str, first: str, mode: str
    ) -> None:
        owner = await bench.arrange(state, dedup=MODES[first], group=None)
        new = _second(bench, MODES[mode], lifo=True)
        since = await bench.now()
        assert await _answer(bench, new) == (REPLACED, "job")
        await bench.stored_as(owner, partial(replaced, owner, NewJob(new)), since)
        assert await bench.get(new) is None
        assert await _owner(bench) == "job"

    @pytest.mark.parametrize("run_at", [None, 4_102_444_800_000])
    @pytest.mark.parametrize("state", ["waiting", "delayed"])
    async def test_p9_extend_begins_the_delay_anew(
        self, bench: Bench, state: str, run_at: int | None
    ) -> None:
        owner = await bench.arrange(state, dedup=DEBOUNCE)
        new = NewJob(_second(bench, DEBOUNCE, state=State.DELAYED, run_at=run_at), delay=2 * LONG)
        since = await bench.now()
        assert await _answer(bench, new) == (REPLACED, "job")
        await bench.stored_as(owner, partial(replaced, owner, new), since)
        assert await bench.claimed_ids() == []

    async def test_p9_without_extend_the_time_stays(self, bench: Bench) -> None:
        owner = await bench.arrange("delayed", dedup=REPLACE)
        new = NewJob(_second(bench, REPLACE, state=State.DELAYED), delay=1)
        since = await bench.now()
        assert await _answer(bench, new) == (REPLACED, "job")
        await bench.stored_as(owner, partial(replaced, owner, new), since)

    async def test_p9_nothing_of_the_former_content_is_left(self, bench: Bench) -> None:
        owner = await bench.running("job", dedup=REPLACE)
        note = Note(ref=owner.ref, fence=owner.fence, progress=b"5", steps={"a": b"1"}, log="x")
        await bench.driver.annotate([note])
        await bench.applied(transition.again(owner, SPENT, 0))
        before, new = await bench.record(owner), _second(bench, REPLACE)
        assert await _answer(bench, new) == (REPLACED, "job")
        assert await bench.record(owner) == replaced(before, NewJob(new), 0)
        held = await bench.claim_one()
        assert (held.id, held.payload, held.steps) == ("job", new.payload, {})

    async def test_p9_an_owner_keeps_its_place_or_moves_to_a_priority(self, bench: Bench) -> None:
        await bench.created(*(bench.job(name, dedup=Dedup(name)) for name in "abcd"))
        for name, priority in (("b", 100), ("d", 1)):
            dedup = Dedup(name, replace=True)
            new = bench.job("new", dedup=dedup, priority=priority, payload=b"[2]")
            assert await _answer(bench, new) == (REPLACED, name)
        jobs = (await bench.claim(10)).jobs
        assert [job.id for job in jobs] == ["d", "a", "b", "c"]
        assert [job.payload for job in jobs] == [b"[2]", b"{}", b"[2]", b"{}"]

    @needs("lines")
    @pytest.mark.parametrize("group", [None, "other"])
    async def test_p9_an_owner_stays_in_its_line(self, bench: Bench, group: str | None) -> None:
        (owner,) = await bench.created(bench.job("job", dedup=REPLACE, group="its own"))
        new = _second(bench, REPLACE, group=group)
        assert await _answer(bench, new) == (REPLACED, "job")
        assert (await bench.record(owner)).group == "its own"
        await bench.set(groups=LineSettings(paused=True))
        assert await bench.claimed_ids() == []

    @pytest.mark.parametrize("state", ["blocked", "active", "asked to cancel"])
    @pytest.mark.parametrize("mode", ["replace", "debounce"])
    async def test_p9_an_owner_that_does_not_wait_is_untouched(
        self, bench: Bench, state: str, mode: str
    ) -> None:
        owner = await bench.arrange(state, dedup=PLAIN)
        assert await _answer(bench, _second(bench, MODES[mode])) == (DEDUPLICATED, "job")
        assert await bench.record(owner) == owner

    @pytest.mark.parametrize("mode", ["replace", "latest"])
    async def test_p9_a_blocked_job_replaces_nothing(self, bench: Bench, mode: str) -> None:
        owner = await bench.arrange("waiting", dedup=MODES[mode])
        staged = {"state": State.BLOCKED, "cause": BlockedCause.STAGED}
        assert await _answer(bench, _second(bench, MODES[mode], **staged)) == (DEDUPLICATED, "job")
        assert await bench.record(owner) == owner

    async def test_p9_a_ttl_begins_anew(self, bench: Bench) -> None:
        owner = await bench.arrange("delayed", dedup=replace(DEBOUNCE, ttl=SOON))
        if await _answer(bench, _second(bench, DEBOUNCE)) == (CREATED, "second"):
            return  # a slow machine: the ttl is over
        await bench.reach(owner.created_at + 2 * SOON)
        assert await _answer(bench, _second(bench, PLAIN, "third")) == (DEDUPLICATED, "job")

    async def test_p9_a_ttl_ends_where_the_new_content_has_none(self, bench: Bench) -> None:
        owner = await bench.arrange("waiting", dedup=THROTTLE)
        assert await _answer(bench, _second(bench, REPLACE)) == (REPLACED, "job")
        assert await _owner(bench) == owner.id
        await bench.finish(await bench.claim_one())
        assert await _owner(bench) is None

    async def test_p9_of_one_batch_the_last_content_stays(self, bench: Bench) -> None:
        batch = [bench.job(name, dedup=REPLACE, payload=name.encode()) for name in "abc"]
        answers = await bench.push(*batch, bench.job("d"))
        assert list(answers) == [
            Pushed(CREATED, "a"),
            Pushed(REPLACED, "a"),
            Pushed(REPLACED, "a"),
            Pushed(CREATED, "d"),
        ]
        assert [job.payload for job in (await bench.claim(9)).jobs] == [b"c", b"{}"]

    @pytest.mark.parametrize("mode", ["replace", "debounce", "latest"])
    async def test_p4_a_repeat_replaces_nothing_again(self, bench: Bench, mode: str) -> None:
        await bench.arrange("waiting", dedup=PLAIN)
        op, new = bench.op(), _second(bench, MODES[mode])
        first = await bench.push(new, op=op)
        third = _second(bench, REPLACE, payload=b"[3]")
        assert await bench.push(third, op=bench.op("another")) == [Pushed(REPLACED, "job")]
        before = await bench.snapshot()
        assert list(await bench.push(new, op=op)) == list(first) == [Pushed(REPLACED, "job")]
        assert await bench.snapshot() == before

    @pytest.mark.parametrize("end", ["complete", "remove"])
    async def test_p4_a_replacement_is_known_after_its_job_ended(
        self, bench: Bench, end: str
    ) -> None:
        await bench.arrange("waiting", dedup=PLAIN)
        op, new = bench.op(), _second(bench, REPLACE)
        first = await bench.push(new, op=op)
        job = await bench.claim_one()
        assert job.payload == new.payload
        one = transition.complete(job, None)
        await bench.driver.apply(bench.op("worker"), [one])
        if end == "remove":
            await bench.driver.apply(bench.op("worker"), [transition.remove(job.ref)])
        assert list(await bench.push(new, op=op)) == list(first)
        assert await bench.get(new) is None
        assert await bench.claimed_ids() == []

    async def test_p4_a_lost_replacement_is_sent_again(self, bench: Bench) -> None:
        await bench.arrange("waiting", dedup=PLAIN)
        driver = FaultyDriver(bench.driver, script({"push": [lost, lost]}))
        op, news = bench.op(), [NewJob(_second(bench, REPLACE)), NewJob(bench.job("c"))]
        answers = await resend(partial(driver.push, op, news))
        assert list(answers) == [Pushed(REPLACED, "job"), Pushed(CREATED, "c")]

    # -- the latest -------------------------------------------------------------------------------

    @pytest.mark.parametrize("first", MODES)
    async def test_p10_behind_a_running_owner_one_waits(self, bench: Bench, first: str) -> None:
        since = await bench.now()
        owner, _ = await _followed(bench, owner=MODES[first])
        new = NewJob(_second(bench, LATEST, state=State.BLOCKED, cause=BlockedCause.DEDUP))
        fence = (await bench.record(new.job)).fence
        await bench.stored_as(new.job, partial(pushed, new, fence=fence), since)
        assert await bench.record(owner) == owner
        assert await _owner(bench) == "owner"
        assert await bench.claimed_ids() == []

    async def test_p10_a_delayed_one_knows_when_it_is_due(self, bench: Bench) -> None:
        await bench.running("owner", dedup=PLAIN)
        since = await bench.now()
        await bench.push(NewJob(_second(bench, LATEST, state=State.DELAYED), delay=LONG))
        stored = await bench.record(bench.job("second"))
        assert (stored.state, stored.cause) == (State.BLOCKED, BlockedCause.DEDUP)
        assert (stored.run_at or 0) >= since + LONG - bench.hooks.clock_error_ms

    @pytest.mark.parametrize("state", ["active", "delayed"])
    async def test_p10_a_later_one_replaces_the_successor(self, bench: Bench, state: str) -> None:
        owner, successor = await _followed(bench)
        if state == "delayed":
            await bench.applied(transition.again(owner, SPENT, LONG))
            owner = await bench.record(owner)
        new = bench.job("third", dedup=LATEST, payload=b"[3]", priority=3)
        assert await _answer(bench, new) == (REPLACED, "second")
        assert await bench.record(successor) == replaced(successor, NewJob(new), 0)
        assert await bench.record(owner) == owner
        assert await bench.get(new) is None

    async def test_p10_other_modes_leave_the_successor_alone(self, bench: Bench) -> None:
        _, successor = await _followed(bench)
        for mode in (PLAIN, THROTTLE, REPLACE, DEBOUNCE):
            assert await _answer(bench, bench.job("third", dedup=mode)) == (DEDUPLICATED, "owner")
        assert await bench.record(successor) == successor

    @pytest.mark.parametrize("way", ["remove", "cancel"])
    async def test_p10_a_successor_that_went_is_succeeded(self, bench: Bench, way: str) -> None:
        owner, successor = await _followed(bench)
        move = {
            "remove": transition.remove(successor.ref),
            "cancel": transition.cancel(successor.ref, Keep()),
        }[way]
        await bench.applied(move)
        assert await _answer(bench, _second(bench, LATEST, "third")) == (CREATED, "third")
        await bench.applied(transition.complete(owner, None))
        await bench.prune()
        assert await bench.claimed_ids(9) == ["third"]
        assert await _owner(bench) == "third"

    async def test_p4_a_repeat_makes_no_second_successor(self, bench: Bench) -> None:
        await bench.running("owner", dedup=PLAIN)
        ops = [bench.op(), bench.op("another")]
        news = [_second(bench, LATEST), _second(bench, LATEST, "third", payload=b"[3]")]
        answers = [await bench.push(new, op=op) for new, op in zip(news, ops, strict=True)]
        assert answers == [[Pushed(CREATED, "second")], [Pushed(REPLACED, "second")]]
        before = await bench.snapshot()
        again = [await bench.push(new, op=op) for new, op in zip(news, ops, strict=True)]
        assert again == answers
        assert await bench.snapshot() == before

    @pytest.mark.parametrize("end", ["complete", "bury", "cancelled", "remove", "release"])
    @pytest.mark.parametrize("first", ["plain", "throttle", "latest"])
    async def test_p11_a_successor_waits_when_its_owner_ended(
        self, bench: Bench, first: str, end: str
    ) -> None:
        owner, successor = await _followed(bench, owner=MODES[first], priority=100)
        await bench.created(bench.job("before"))
        match end:
            case "complete":
                await bench.applied(transition.complete(owner, None))
            case "bury":
                await bench.applied(transition.bury(owner, SPENT))
            case "cancelled":
                await bench.applied(transition.cancelled(owner, SPENT))
            case "remove":
                await bench.applied(transition.again(owner, SPENT, LONG))
                await bench.applied(transition.remove(owner.ref))
            case _:
                assert await bench.driver.release_dedup(bench.queue, "key", "owner")
        await bench.prune()
        stored = await bench.record(successor)
        assert stored == replace(successor, state=State.WAITING, cause=None)
        assert await _owner(bench) == "second"
        assert await bench.claimed_ids(9) == ["before", "second"]

    async def test_p11_a_successor_waits_when_a_ttl_is_over(self, bench: Bench) -> None:
        owner = await bench.running("owner", dedup=replace(THROTTLE, ttl=4 * SOON))
        answer = await _answer(bench, _second(bench, LATEST))
        assert answer == (CREATED, "second")
        await bench.reach(owner.created_at + 5 * SOON)
        await bench.prune()
        assert await bench.claimed_ids(9) == ["second"]
        assert await _owner(bench) == "second"

    async def test_p11_a_retry_of_the_owner_ends_nothing(self, bench: Bench) -> None:
        owner, successor = await _followed(bench)
        await bench.applied(transition.again(owner, SPENT, 0))
        await bench.prune()
        assert await bench.record(successor) == successor
        assert await bench.claimed_ids(9) == ["owner"]

    async def test_p11_a_successor_is_never_early(self, bench: Bench) -> None:
        owner = await bench.running("owner", dedup=PLAIN)
        await bench.push(NewJob(_second(bench, LATEST, state=State.DELAYED), delay=LONG))
        successor = await bench.record(bench.job("second"))
        await bench.applied(transition.complete(owner, None))
        await bench.prune()
        stored = await bench.record(successor)
        assert stored == replace(successor, state=State.DELAYED, cause=None)
        assert await bench.claimed_ids() == []

    async def test_p11_a_key_goes_from_successor_to_successor(self, bench: Bench) -> None:
        owner, _ = await _followed(bench)
        for number in range(3):
            await bench.applied(transition.complete(owner, None))
            await bench.prune()
            owner = await bench.claim_one()
            answer = await _answer(bench, _second(bench, LATEST, f"next-{number}"))
            assert answer == (CREATED, f"next-{number}")
        assert await _owner(bench) == "next-1"

    async def test_p11_a_new_job_comes_after_the_successor(self, bench: Bench) -> None:
        owner, _ = await _followed(bench)
        await bench.applied(transition.complete(owner, None))
        assert await _answer(bench, bench.job("third", dedup=LATEST, payload=b"[3]")) == (
            REPLACED,
            "second",
        )
        await bench.prune()
        held = await bench.claim_one()
        assert (held.id, held.payload) == ("second", b"[3]")

    # -- asked, and released ----------------------------------------------------------------------

    @pytest.mark.parametrize("mode", MODES)
    async def test_d1_the_owner_is_known_while_it_owns(self, bench: Bench, mode: str) -> None:
        assert await _owner(bench) is None
        job = await bench.arrange("active", dedup=MODES[mode])
        assert await _owner(bench) == "job"
        assert await bench.driver.dedup_owner(bench.another_queue(), "key") is None
        await bench.applied(transition.complete(job, None))
        assert await _owner(bench) == ("job" if MODES[mode].ttl else None)

    @pytest.mark.parametrize("state", ["waiting", "delayed", "blocked", "active"])
    @pytest.mark.parametrize("mode", MODES)
    async def test_d2_a_released_key_is_free(self, bench: Bench, mode: str, state: str) -> None:
        job, driver = await bench.arrange(state, dedup=MODES[mode]), bench.driver
        assert not await driver.release_dedup(bench.queue, "key", "another")
        assert await _owner(bench) == "job"
        assert await driver.release_dedup(bench.queue, "key", "job")
        assert not await driver.release_dedup(bench.queue, "key", "job"), "a repeat frees nothing"
        assert await _owner(bench) is None
        assert await bench.record(job) == job
        await bench.created(_second(bench, MODES[mode]))
        assert not await driver.release_dedup(bench.queue, "key", "job")
        assert await _owner(bench) == "second"

    async def test_d2_a_job_takes_a_released_key_when_it_is_redriven(self, bench: Bench) -> None:
        job = await bench.arrange("active", dedup=PLAIN)
        await bench.driver.release_dedup(bench.queue, "key", "job")
        await bench.applied(transition.bury(job, SPENT))
        assert await _owner(bench) is None
        await bench.applied(transition.redrive(job.ref))
        assert await _owner(bench) == "job"

    # -- races ------------------------------------------------------------------------------------

    @pytest.mark.parametrize("mode", MODES)
    async def test_p3_of_many_producers_one_owns_each_key(self, bench: Bench, mode: str) -> None:
        forks = [await bench.fork() for _ in range(4)]
        for number in range(3):
            dedup = replace(MODES[mode], key=f"key-{number}")

            async def produce(name: str, at: int, dedup: Dedup = dedup) -> Pushed:
                new, op = [NewJob(bench.job(name, dedup=dedup))], bench.op(name)
                (answer,) = await resend(partial(forks[at % 4].push, op, new))
                return answer

            names = [f"job-{number}-{at}" for at in range(16)]
            answers = await asyncio.gather(*map(produce, names, range(16)))
            assert len({answer.id for answer in answers}) == 1, "all know the owner"
            assert [answer.status for answer in answers].count(CREATED) == 1
        assert (await bench.driver.counts(bench.queue))[State.WAITING] == 3

    async def test_p10_of_many_producers_one_follows(self, bench: Bench) -> None:
        forks = [await bench.fork() for _ in range(4)]
        await bench.running("owner", dedup=PLAIN)

        async def produce(at: int) -> Pushed:
            new, op = [NewJob(bench.job(f"job-{at}", dedup=LATEST))], bench.op(f"job-{at}")
            (answer,) = await resend(partial(forks[at % 4].push, op, new))
            return answer

        answers = await asyncio.gather(*map(produce, range(16)))
        assert len({answer.id for answer in answers}) == 1
        assert [answer.status for answer in answers].count(CREATED) == 1
        assert (await bench.driver.counts(bench.queue))[State.BLOCKED] == 1

    async def test_p11_none_is_lost_while_owners_end(self, bench: Bench) -> None:
        producer, worker = await bench.fork(), await bench.fork()
        created: set[str] = set()

        async def produce() -> None:
            for at in range(20):
                new, op = [NewJob(bench.job(f"job-{at}", dedup=LATEST))], bench.op("producer")
                (answer,) = await resend(partial(producer.push, op, new))
                created.add(answer.id)
                await asyncio.sleep(0)

        async def work(*, until_idle: bool) -> None:
            while True:
                jobs = (await bench.claim(by=worker)).jobs
                assert len(jobs) <= 1
                if not jobs and (until_idle or producing.done()):
                    return
                for job in jobs:
                    await asyncio.sleep(0)  # a job comes while this one runs
                    one = [transition.complete(job, None)]
                    await resend(partial(worker.apply, bench.op("worker"), one))
                await asyncio.sleep(0)

        producing = asyncio.create_task(produce())
        await work(until_idle=False)
        await producing
        for _ in range(2):
            await bench.prune(memory=600_000)
            await work(until_idle=True)
        counts = await bench.driver.counts(bench.queue)
        assert counts[State.COMPLETED] == len(created) == sum(counts.values())
        assert await _owner(bench) is None
