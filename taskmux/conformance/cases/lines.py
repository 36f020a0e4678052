"""Lines: fair turns between groups, and what keeps one line back while the others go on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from taskmux.conformance.bench import LONG, Bench, needs
from taskmux.conformance.cases.moves import SPENT
from taskmux.driver import (
    BlockedCause,
    JobRecord,
    Keep,
    Lines,
    LineSettings,
    NewJob,
    PushStatus,
    QueueSettings,
    Rate,
    Ref,
    Standing,
    State,
    Transition,
    transition,
)


def _jobs(bench: Bench, names: str) -> list[JobRecord]:
    """Return a job for each name: `a1` is of group `a`, `_1` of no group."""
    return [
        bench.job(name, group=None if name.startswith("_") else name[0]) for name in names.split()
    ]


async def standing(bench: Bench, ref: Ref) -> Standing | None:
    """Ask what a job stands behind."""
    assert isinstance(bench.driver, Lines)
    return await bench.driver.standing(ref)


class LineCases:
    """C8, C11, P8 and G4."""

    @needs("lines")
    async def test_c8_lines_take_turns(self, bench: Bench) -> None:
        await bench.created(*_jobs(bench, "_1 _2 _3 a1 a2 a3 b1"))
        assert await bench.claimed_ids(10) == ["_1", "a1", "b1", "_2", "a2", "_3", "a3"]

    @needs("lines")
    async def test_c8_turns_go_on_in_the_next_claim(self, bench: Bench) -> None:
        await bench.created(*_jobs(bench, "a1 a2 a3 b1 b2 b3 c1 c2"))
        found = [await bench.claimed_ids(limit) for limit in (2, 2, 3, 5)]
        assert found == [["a1", "b1"], ["c1", "a2"], ["b2", "c2", "a3"], ["b3"]]

    @needs("lines")
    async def test_c8_a_long_line_does_not_starve_a_short_one(self, bench: Bench) -> None:
        await bench.created(*(bench.job(f"a{n}", group="a") for n in range(300)))
        await bench.created(*_jobs(bench, "b1 b2 _1"))
        assert await bench.claimed_ids(6) == ["a0", "b1", "_1", "a1", "b2", "a2"]

    @needs("lines")
    async def test_c8_priority_and_sequence_hold_within_a_line(self, bench: Bench) -> None:
        await bench.created(
            *(bench.job(f"a{n}", group="a", priority=n) for n in (3, 1, 2)),
            bench.job("b1", group="b", priority=2000),
            bench.job("a0", group="a", priority=3, lifo=True),
        )
        assert await bench.claimed_ids(10) == ["a1", "b1", "a2", "a0", "a3"]

    @needs("lines")
    async def test_c8_a_new_line_goes_behind_the_others(self, bench: Bench) -> None:
        await bench.created(*_jobs(bench, "a1 a2 b1 b2"))
        assert await bench.claimed_ids() == ["a1"]
        await bench.created(*_jobs(bench, "c1"))
        assert await bench.claimed_ids(10) == ["b1", "a2", "c1", "b2"]

    @needs("lines")
    async def test_c8_a_line_that_was_empty_goes_behind_the_others(self, bench: Bench) -> None:
        await bench.created(*_jobs(bench, "a1 b1 b2"))
        assert await bench.claimed_ids() == ["a1"]
        await bench.created(*_jobs(bench, "a2"))
        assert await bench.claimed_ids(10) == ["b1", "a2", "b2"]

    @needs("lines")
    async def test_c8_many_lines_are_served_in_order(self, bench: Bench) -> None:
        names = [f"job-{n * 7919 % 250:03}" for n in range(250)]
        await bench.created(*(bench.job(name, group=f"of-{name}") for name in names))
        found: list[str] = []
        while ids := await bench.claimed_ids(60):
            found += ids
        assert found == names

    @needs("lines")
    @pytest.mark.parametrize(
        ("start", "move"),
        {
            "delayed": "promote",
            "blocked": "unblock",
            "dead": "redrive",
            "active": "release",
            "waiting": "reprioritise",
        }.items(),
    )
    async def test_c8_a_job_comes_back_to_its_line(
        self, bench: Bench, start: str, move: str
    ) -> None:
        job = await bench.arrange(start, group="a")
        moves: dict[str, Transition] = {
            "promote": transition.promote(job.ref),
            "unblock": transition.unblock(job.ref, BlockedCause.HOLD),
            "redrive": transition.redrive(job.ref),
            "release": transition.release(job),
            "reprioritise": transition.reprioritise(job.ref, 200),
        }
        await bench.applied(moves[move])
        await bench.created(*_jobs(bench, "a2 b1"))
        expected = "a2 b1 job" if start == "waiting" else "job b1 a2"
        assert await bench.claimed_ids(10) == expected.split()

    @needs("lines")
    async def test_c8_a_due_job_comes_to_its_line(self, bench: Bench) -> None:
        await bench.created(*_jobs(bench, "a1 b1 b2"))
        due = bench.job("due", group="c", state=State.DELAYED, run_at=1_000)
        await bench.created(due)
        assert await bench.claimed_ids(10) == ["a1", "b1", "due", "b2"]

    @needs("lines")
    @pytest.mark.parametrize("move", ["hold", "cancel", "postpone", "remove"])
    async def test_c8_a_line_whose_last_job_left_is_no_line(self, bench: Bench, move: str) -> None:
        await bench.created(*_jobs(bench, "a1 b1 b2"))
        ref = Ref(bench.queue, "a1")
        moves: dict[str, Transition] = {
            "hold": transition.hold(ref),
            "cancel": transition.cancel(ref, Keep()),
            "postpone": transition.postpone(ref, LONG),
            "remove": transition.remove(ref),
        }
        await bench.applied(moves[move])
        await bench.created(*_jobs(bench, "a2"))
        assert await bench.claimed_ids(10) == ["b1", "a2", "b2"]

    @needs("lines")
    @pytest.mark.parametrize("group", [None, "x"])
    @pytest.mark.parametrize("move", ["hold", "cancel", "postpone", "remove", "reprioritise"])
    async def test_c8_a_line_keeps_its_turn_when_its_first_job_leaves(
        self, bench: Bench, move: str, group: str | None
    ) -> None:
        for job in (
            bench.job("x1", group=group),
            bench.job("a1", group="a"),
            bench.job("x2", group=group),
            bench.job("b1", group="b"),
            bench.job("x3", group=group),
        ):
            await bench.created(job)
        moves: dict[str, Callable[[Ref], Transition]] = {
            "hold": transition.hold,
            "cancel": lambda ref: transition.cancel(ref, Keep()),
            "postpone": lambda ref: transition.postpone(ref, LONG),
            "remove": transition.remove,
            "reprioritise": lambda ref: transition.reprioritise(ref, 200),
        }
        for name in ("x1", "x2"):
            await bench.applied(moves[move](Ref(bench.queue, name)))
        assert [await bench.claimed_ids() for _ in "123"] == [["x3"], ["a1"], ["b1"]]

    @needs("lines")
    @pytest.mark.parametrize("group", [None, "x"])
    async def test_c8_a_line_that_was_empty_meanwhile_has_lost_its_turn(
        self, bench: Bench, group: str | None
    ) -> None:
        await bench.created(*_jobs(bench, "a1"))
        for name in ("x1", "x2", "x3"):
            await bench.created(bench.job(name, group=group))
            if name != "x3":
                await bench.applied(transition.cancel(Ref(bench.queue, name), Keep()))
            await bench.created(*_jobs(bench, f"b{name}"))
        assert await bench.claimed_ids(10) == ["a1", "bx1", "x3", "bx2", "bx3"]

    @needs("lines")
    @pytest.mark.parametrize("group", [None, "x"])
    @pytest.mark.parametrize("how", ["urgent", "lifo"])
    async def test_c8_who_goes_before_others_of_a_line_moves_not_its_turn(
        self, bench: Bench, how: str, group: str | None
    ) -> None:
        before = bench.job("x0", group=group)
        first = replace(before, priority=1) if how == "urgent" else replace(before, lifo=True)
        await bench.created(bench.job("x1", group=group), *_jobs(bench, "a1"), first)
        assert [await bench.claimed_ids() for _ in "123"] == [["x0"], ["a1"], ["x1"]]

    @needs("lines")
    async def test_c8_records_keep_their_group(self, bench: Bench) -> None:
        await bench.created(bench.job(group="ns:a/b@c+d"), bench.job("task", group="@mail.send"))
        jobs = (await bench.claim(2)).jobs
        assert [job.group for job in jobs] == ["ns:a/b@c+d", "@mail.send"]
        await bench.applied(transition.again(jobs[0], SPENT, LONG))
        assert (await bench.record(jobs[0])).group == "ns:a/b@c+d"

    @needs("lines")
    async def test_c8_a_repeat_takes_no_turn(self, bench: Bench) -> None:
        await bench.created(*_jobs(bench, "a1 a2 b1 b2"))
        op = bench.op()
        for _ in range(2):
            assert [job.id for job in (await bench.claim(op=op)).jobs] == ["a1"]
        assert await bench.claimed_ids(10) == ["b1", "a2", "b2"]

    # -- lines that may not give ----------------------------------------------------------------

    @needs("lines")
    async def test_c11_a_paused_line_lets_the_others_go(self, bench: Bench) -> None:
        await bench.set(lines={"a": LineSettings(paused=True)})
        await bench.created(*_jobs(bench, "a1 a2 b1 _1"))
        assert await bench.claimed_ids(10) == ["b1", "_1"]
        kept = await bench.claim()
        assert (list(kept.jobs), kept.next_in, kept.blocked_by) == ([], None, "lines")
        await bench.set(lines={})
        assert await bench.claimed_ids(10) == ["a1", "a2"]

    @needs("lines")
    async def test_c11_a_line_is_paused_while_it_waits(self, bench: Bench) -> None:
        await bench.created(*_jobs(bench, "a1 a2 b1 b2"))
        assert await bench.claimed_ids() == ["a1"]
        await bench.set(lines={"b": LineSettings(paused=True)})
        assert await bench.claimed_ids(10) == ["a2"]
        await bench.created(*_jobs(bench, "b3 c1"))
        assert await bench.claimed_ids(10) == ["c1"]
        await bench.set(lines={"c": LineSettings(paused=True)})
        assert await bench.claimed_ids(10) == ["b1", "b2", "b3"]

    @needs("lines")
    async def test_c11_all_groups_but_one_are_paused(self, bench: Bench) -> None:
        await bench.set(groups=LineSettings(paused=True), lines={"b": LineSettings()})
        await bench.created(*_jobs(bench, "a1 b1 c1 _1"))
        assert await bench.claimed_ids(10) == ["b1", "_1"]

    @needs("lines")
    async def test_c11_lines_that_may_not_give_hide_none_that_may(self, bench: Bench) -> None:
        await bench.set(groups=LineSettings(paused=True), lines={"z": LineSettings()})
        await bench.created(*(bench.job(f"job-{n}", group=f"g{n}") for n in range(250)))
        await bench.created(*_jobs(bench, "z1"))
        found: list[str] = []
        for _ in range(4):  # one claim may pass over a hundred lines
            claimed = await bench.claim()
            found += [job.id for job in claimed.jobs]
            if found:
                break
            assert claimed.next_in == 0, "it gave up on the way without saying so"
        assert found == ["z1"]

    @needs("lines")
    @pytest.mark.parametrize(
        "given",
        [
            QueueSettings(concurrency=1, rate=Rate(100, 60_000, 5), group_size=3),
            QueueSettings(groups=LineSettings(concurrency=2, rate=Rate(1, 1))),
            QueueSettings(
                lines={"a:b/c@d": LineSettings(paused=True), "@task": LineSettings(declared="5")}
            ),
            QueueSettings(paused=True, defaults=b'{"max_attempts":5}'),
        ],
    )
    async def test_s1_limits_come_back_equal(self, bench: Bench, given: QueueSettings) -> None:
        assert await bench.driver.put_settings(bench.queue, given)
        assert await bench.driver.settings(bench.queue) == replace(given, rev=1)

    # -- size -------------------------------------------------------------------------------------

    @needs("lines")
    async def test_p8_a_full_group_takes_no_more(self, bench: Bench) -> None:
        await bench.set(group_size=2)
        op = bench.op()
        for _ in range(2):
            answers = await bench.push(*_jobs(bench, "a1 a2 a3 b1 _1 _2 _3"), op=op)
            refused = [answer.id for answer in answers if answer.status is PushStatus.FULL]
            assert refused == ["a3"]
        assert await bench.get(bench.job("a3")) is None
        assert await bench.claimed_ids() == ["a1"]
        await bench.created(*_jobs(bench, "a3"))

    @needs("lines")
    async def test_p8_only_waiting_jobs_count(self, bench: Bench) -> None:
        await bench.set(group_size=1)
        later = bench.job("later", group="a", state=State.DELAYED)
        await bench.created(NewJob(later, delay=LONG), *_jobs(bench, "a1"))
        (known,) = await bench.push(*_jobs(bench, "a1"))
        assert known.status is PushStatus.DUPLICATE
        assert await bench.claimed_ids() == ["a1"]
        await bench.created(*_jobs(bench, "a2"))

    # -- standing ---------------------------------------------------------------------------------

    @needs("lines")
    async def test_g4_what_a_job_stands_behind(self, bench: Bench) -> None:
        await bench.created(*_jobs(bench, "a1 a2 a3 b1 _1"))
        await bench.claim_one()
        await bench.created(bench.job("urgent", group="a", priority=0))
        before = await bench.snapshot()
        found = await standing(bench, Ref(bench.queue, "a3"))
        assert found == Standing(ahead=2, line_waiting=3, line_active=1, active=1, lines=3)
        found = await standing(bench, Ref(bench.queue, "_1"))
        assert found == Standing(ahead=0, line_waiting=1, line_active=0, active=1, lines=3)
        assert await bench.snapshot() == before

    @needs("lines")
    async def test_g4_only_waiting_jobs_stand(self, bench: Bench) -> None:
        assert await standing(bench, Ref(bench.queue, "none")) is None
        job = await bench.running(group="a")
        assert await standing(bench, job.ref) is None

    @needs("lines")
    async def test_g4_when_a_held_job_may_go(self, bench: Bench) -> None:
        await bench.set(rate=Rate(1, 2 * LONG), groups=LineSettings(rate=Rate(1, LONG)))
        await bench.created(bench.job("a1", group="a"), bench.job("a2", group="a"))
        await bench.claim_one()
        found = await standing(bench, Ref(bench.queue, "a2"))
        assert found is not None
        error = bench.hooks.clock_error_ms + 5_000
        assert abs(found.opens_in - 2 * LONG) <= error
        assert abs(found.line_opens_in - LONG) <= error
