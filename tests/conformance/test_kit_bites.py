"""The kit can fail: each broken driver fails the case named for what it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from msgspec.structs import replace
from taskmux.conformance import Bench, DriverSuite
from taskmux.conformance.cases import limits, waiting
from taskmux.driver import Claimed, Guard, LineSettings, Place, Policy, QueueSettings, State, holds
from taskmux.memory import MemoryDriver, MemoryStore


class Suite(DriverSuite):
    """What `TestMemory` is, without being collected."""

    def __init__(self) -> None:
        self.clock = 1_700_000_000_000

    async def advance(self, ms: float) -> None:
        self.clock += max(1, round(ms))


async def run(broken: type[MemoryDriver], case: str, **params: Any) -> None:
    suite = Suite()
    driver = broken(store=MemoryStore(clock=lambda: suite.clock))
    async with Bench(driver, suite) as bench:
        await getattr(suite, case)(bench, **params)


# -- what can be broken ---------------------------------------------------------------------------


class NoFenceCheck(MemoryDriver):
    def _judge(self, one, job):
        guard = one.guard if one.guard.states else Guard(states={State.ACTIVE})
        return super()._judge(replace(one, guard=guard), job)

    def _annotate(self, note):
        stored = self._stored(note.ref)
        return super()._annotate(replace(note, fence=stored.job.fence) if stored else note)


class ForgetsPush(MemoryDriver):
    def _once(self, verb, op, do):
        return do() if verb == "push" else super()._once(verb, op, do)


class ForgetsClaim(MemoryDriver):
    def _once(self, verb, op, do):
        return do() if verb.startswith("claim") else super()._once(verb, op, do)


class ForgetsReclaim(MemoryDriver):
    def _once(self, verb, op, do):
        return do() if verb.startswith("reclaim") else super()._once(verb, op, do)


class ForgetsApply(MemoryDriver):
    async def apply(self, op, transitions):
        return [self._apply(one) for one in transitions]


class RemembersOneClaimInAll(MemoryDriver):
    def _once(self, verb, op, do):
        return super()._once(verb.partition(" ")[0], op, do)


class RepeatsWithLostLeases(MemoryDriver):
    def _still(self, job):
        return True


class WritesBeforeChecking(MemoryDriver):
    def _apply(self, one):
        stored = self._stored(one.ref)
        if stored is not None and not holds(one.guard, stored.job):
            stored.job = replace(stored.job, reason="written too soon")
        return super()._apply(one)


class PromotesEarly(MemoryDriver):
    def _promote(self, queue, now):
        super()._promote(queue, now + 86_400_000)


class PromotesWithoutBound(MemoryDriver):
    def _promote(self, queue, now):
        for _ in range(10):
            super()._promote(queue, now)


class IgnoresPause(MemoryDriver):
    def _claim(self, ask):
        queue = self.store.queue(ask.queue)
        queue.settings = replace(queue.settings, paused=False)
        return super()._claim(ask)


class KeepsFenceAtClaim(MemoryDriver):
    def _claim(self, ask):
        claimed = super()._claim(ask)
        jobs = [replace(job, fence=job.fence - 1) for job in claimed.jobs]
        for job in jobs:
            self._stored(job.ref).job = job
        return replace(claimed, jobs=jobs)


class KeepsFenceAtReclaim(MemoryDriver):
    def _reclaim(self, ask):
        claimed = super()._reclaim(ask)
        jobs = [replace(job, fence=job.fence - 1) for job in claimed.jobs]
        for job in jobs:
            self._stored(job.ref).job = replace(job, worker=ask.worker)
        return replace(claimed, jobs=jobs)


class ReclaimsEverything(MemoryDriver):
    def _reclaim(self, ask):
        clock, self.store.clock = self.store.clock, lambda: 10**14
        try:
            return super()._reclaim(ask)
        finally:
            self.store.clock = clock


class KeepsKeyWhenFinished(MemoryDriver):
    def _move(self, queue, stored, one, move):
        super()._move(queue, stored, one, move)
        if stored.job.dedup is not None:
            queue.dedup[stored.job.dedup.key] = stored.job.id


class TakesKeyOfAnother(MemoryDriver):
    def _key_taken(self, queue, job):
        return False


class IgnoresCancelRequest(MemoryDriver):
    def _judge(self, one, job):
        return super()._judge(one, job and replace(job, cancel_requested=False))


class LosesLease(MemoryDriver):
    async def claim(self, op, ask):
        claimed = await super().claim(op, ask)
        for job in claimed.jobs:
            self._stored(job.ref).job = replace(job, lease_until=None)
        return claimed


class KeepsWorkerAfterRun(MemoryDriver):
    def _move(self, queue, stored, one, move):
        worker = stored.job.worker
        super()._move(queue, stored, one, move)
        stored.job = replace(stored.job, worker=worker)


class CountsDrift(MemoryDriver):
    def _move(self, queue, stored, one, move):
        super()._move(queue, stored, one, move)
        queue.counts[State.COMPLETED] += 1


class LosesPlace(MemoryDriver):
    def _judge(self, one, job):
        return super()._judge(replace(one, place=Place.BACK), job)


class StackNotQueue(MemoryDriver):
    def _push(self, new):
        return super()._push(replace(new, job=replace(new.job, lifo=True)))


class ForgetsPolicy(MemoryDriver):
    def _push(self, new):
        return super()._push(replace(new, job=replace(new.job, policy=Policy())))


class RepeatsLogLines(MemoryDriver):
    def _annotate(self, note):
        return super()._annotate(replace(note, log_index=10**6))


class RevivesLease(MemoryDriver):
    def _extend(self, held, lease):
        stored = self._stored(held.ref)
        return super()._extend(replace(held, fence=stored.job.fence) if stored else held, lease)


class PrunesEarly(MemoryDriver):
    async def prune(self, ask):
        clock, self.store.clock = self.store.clock, lambda: 10**16
        try:
            return await super().prune(ask)
        finally:
            self.store.clock = clock


class SetsBlindly(MemoryDriver):
    async def put_settings(self, queue, settings):
        stored = await self.settings(queue)
        return await super().put_settings(queue, replace(settings, rev=stored.rev))


class NeverRests(MemoryDriver):
    async def wait(self, queues, timeout):
        return True


class RemembersTheDead(MemoryDriver):
    async def workers(self):
        return [worker for _, worker in self.store.workers.values()]


class ClaimsInTwoSteps(MemoryDriver):
    async def claim(self, op, ask):
        if ask.queue not in self.store.queues:
            return await super().claim(op, ask)
        jobs = self.store.queues[ask.queue].jobs
        seen = [one.job for one in jobs.values() if one.job.state is State.WAITING][: ask.limit]
        await asyncio.sleep(0)
        return Claimed([self._lease(ask, job) for job in seen], self.store.clock())

    def _lease(self, ask, job):
        until = self.store.clock() + ask.lease
        leased = replace(job, state=State.ACTIVE, fence=job.fence + 1, lease_until=until)
        self.store.queue(ask.queue).write(self._stored(job.ref), replace(leased, worker=ask.worker))
        return leased


class PushesInTwoSteps(MemoryDriver):
    async def push(self, op, jobs):
        free = [new for new in jobs if self._stored(new.job.ref) is None]
        await asyncio.sleep(0)
        for new in free:
            self.store.queue(new.job.queue).jobs.pop(new.job.id, None)
        return await super().push(op, jobs)


class CrossesReplies(MemoryDriver):
    """A connection that a cancelled call leaves one reply off."""

    late: tuple[Any, ...] = ()

    async def get(self, refs):
        reply = await super().get(refs)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.late = (*self.late, reply)
            raise
        if self.late:
            self.late, reply = (*self.late[1:], reply), self.late[0]
        return reply


class Tampers(MemoryDriver):
    """Stores other settings than it was given."""

    lost: ClassVar[dict[str, Any]]

    async def put_settings(self, queue, settings):
        return await super().put_settings(queue, replace(settings, **self.lost))


class IgnoresConcurrency(Tampers):
    lost: ClassVar[dict[str, Any]] = {"concurrency": None}


class IgnoresRate(Tampers):
    lost: ClassVar[dict[str, Any]] = {"rate": None}


class IgnoresSize(Tampers):
    lost: ClassVar[dict[str, Any]] = {"group_size": None}


class IgnoresLimitsOfGroups(Tampers):
    lost: ClassVar[dict[str, Any]] = {"groups": LineSettings(), "lines": {}}


class HasOneLine(MemoryDriver):
    def _push(self, new):
        return super()._push(replace(new, job=replace(new.job, group=None)))


class FavoursALine(MemoryDriver):
    def _take(self, queue, *args):
        queue.lines._ring = dict.fromkeys(sorted(queue.lines._ring, key=str))
        return super()._take(queue, *args)


class LosesParkedLines(MemoryDriver):
    def _take(self, queue, *args):
        queue.lines._parked.clear()
        return super()._take(queue, *args)


class PrefetchesAnyway(MemoryDriver):
    def _claim(self, ask):
        return super()._claim(replace(ask, prefetch=0))


class HoldsNothing(MemoryDriver):
    def _apply(self, one):
        return super()._apply(replace(one, hold=0))


class HoldsForZombies(MemoryDriver):
    def _apply(self, one):
        lines = self.store.queue(one.ref.queue).lines
        lines.queue = lines.queue.held(self.store.clock() + one.hold)
        return super()._apply(one)


class ShortensHolds(MemoryDriver):
    def _move(self, queue, *args):
        queue.lines.queue = queue.lines.queue.let_go()
        super()._move(queue, *args)


class TellsNobody(MemoryDriver):
    async def beat(self, beat):
        return replace(await super().beat(beat), commands=())


class IsDeafToRoom(MemoryDriver):
    def _move(self, queue, *args):
        queue.lines.made_room = lambda line: queue.lines.readmit(line) and False
        super()._move(queue, *args)


@dataclass(frozen=True)
class Bite:
    """A broken driver, and the case that must notice."""

    kind: type[MemoryDriver]
    case: str
    params: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.kind.__name__


BITES: Sequence[Bite] = (
    Bite(NoFenceCheck, "test_a1_a_zombie_is_refused", {"move": "complete"}),
    Bite(NoFenceCheck, "test_n1_a_zombies_note_is_refused"),
    Bite(ForgetsPush, "test_p4_a_repeat_creates_nothing"),
    Bite(ForgetsPush, "test_p4_a_repeat_is_known_after_prune"),
    Bite(ForgetsClaim, "test_c5_a_repeat_returns_the_same_jobs"),
    Bite(RemembersOneClaimInAll, "test_c5_a_repeat_is_known_in_each_queue"),
    Bite(RepeatsWithLostLeases, "test_c5_a_repeat_returns_only_what_is_still_held"),
    Bite(ForgetsApply, "test_a4_a_repeat_changes_nothing", {"move": "complete", "start": "active"}),
    Bite(ForgetsApply, "test_a4_a_repeated_redrive_revives_nothing"),
    Bite(ForgetsApply, "test_a4_lost_replies_change_no_count"),
    Bite(ForgetsReclaim, "test_r3_a_repeat_returns_the_same_jobs"),
    Bite(WritesBeforeChecking, "test_a1_a_guard_is_checked_before_anything_is_written"),
    Bite(PromotesEarly, "test_c2_a_delayed_job_waits_for_its_time"),
    Bite(PromotesEarly, "test_c2_no_job_is_claimed_before_its_time"),
    Bite(PromotesWithoutBound, "test_c2_a_claim_promotes_a_bounded_number"),
    Bite(IgnoresPause, "test_c6_a_paused_queue_gives_nothing"),
    Bite(KeepsFenceAtClaim, "test_c3_the_fence_rises_at_every_claim"),
    Bite(KeepsFenceAtReclaim, "test_r1_the_former_holder_is_refused"),
    Bite(ReclaimsEverything, "test_r1_only_lapsed_leases_are_reclaimed"),
    Bite(KeepsKeyWhenFinished, "test_a6_a_terminal_job_frees_its_key", {"state": "completed"}),
    Bite(TakesKeyOfAnother, "test_a6_a_key_owned_by_another_is_a_conflict"),
    Bite(
        IgnoresCancelRequest,
        "test_a7_a_job_asked_to_cancel_goes_nowhere_else",
        {"move": "again later"},
    ),
    Bite(LosesLease, "test_c3_a_claimed_job_is_leased"),
    Bite(LosesLease, "test_c3_no_more_than_asked"),
    Bite(
        KeepsWorkerAfterRun,
        "test_a3_every_move_from_every_state",
        {"move": "complete", "start": "active"},
    ),
    Bite(KeepsWorkerAfterRun, "test_p4_a_repeat_is_known_after_the_job_ran"),
    Bite(CountsDrift, "test_g2_counts_are_exact_after_every_operation"),
    Bite(CountsDrift, "test_o1_opening_an_open_driver_changes_nothing"),
    Bite(LosesPlace, "test_a5_keep_is_the_own_place"),
    Bite(StackNotQueue, "test_c1_first_in_first_out_within_a_priority"),
    Bite(ForgetsPolicy, "test_g1_a_policy_comes_back_equal", {"kind": "steps"}),
    Bite(RepeatsLogLines, "test_n2_a_repeat_changes_nothing"),
    Bite(RevivesLease, "test_l1_a_lease_is_lost_with_its_fence"),
    Bite(PrunesEarly, "test_t1_a_record_stays_until_then", {"state": "completed"}),
    Bite(SetsBlindly, "test_s3_another_rev_changes_nothing", {"rev": 1}),
    Bite(SetsBlindly, "test_s3_one_of_many_changes_the_settings"),
    Bite(ClaimsInTwoSteps, "test_c4_each_job_is_handed_out_once"),
    Bite(PushesInTwoSteps, "test_p2_one_of_many_creates_an_id"),
    Bite(CrossesReplies, "test_a_storm_of_cancellations_crosses_no_replies"),
    Bite(NoFenceCheck, "test_a_random_history_agrees_with_the_model", {"seed": 0}),
    Bite(NeverRests, "test_w2_it_ends_by_itself"),
    Bite(IgnoresConcurrency, "test_c9_no_more_are_active_than_allowed"),
    Bite(IgnoresConcurrency, "test_c9_many_claim_at_once"),
    Bite(IgnoresLimitsOfGroups, "test_c9_of_each_group"),
    Bite(IgnoresLimitsOfGroups, "test_c10_of_each_group"),
    Bite(IgnoresLimitsOfGroups, "test_c11_a_paused_line_lets_the_others_go"),
    Bite(IgnoresRate, "test_c10_a_rate_lets_its_burst_and_one_go"),
    Bite(IgnoresRate, "test_c10_no_window_sees_more_than_the_rate_and_its_burst"),
    Bite(IgnoresSize, "test_p8_a_full_group_takes_no_more"),
    Bite(HasOneLine, "test_c8_lines_take_turns"),
    Bite(HasOneLine, "test_g4_what_a_job_stands_behind"),
    Bite(FavoursALine, "test_c8_turns_go_on_in_the_next_claim"),
    Bite(LosesParkedLines, "test_c11_a_line_is_paused_while_it_waits"),
    Bite(
        PrefetchesAnyway,
        "test_c12_a_queue_with_limits_gives_none_to_prefetch",
        {"settings": QueueSettings(concurrency=100), "limited": True},
    ),
    Bite(HoldsNothing, "test_a11_a_hold_keeps_the_queue_back"),
    Bite(HoldsForZombies, "test_a11_a_zombie_holds_nothing"),
    Bite(ShortensHolds, "test_a11_a_shorter_hold_ends_no_longer_one"),
    Bite(TellsNobody, "test_b3_a_worker_is_told_once_and_in_order"),
    Bite(RemembersTheDead, "test_b1_a_silent_worker_is_forgotten"),
)


@pytest.mark.parametrize("bite", BITES, ids=str)
async def test_a_broken_driver_fails_the_case_named_for_it(bite: Bite) -> None:
    await run(MemoryDriver, bite.case, **bite.params)
    with pytest.raises(AssertionError):
        await run(bite.kind, bite.case, **bite.params)


class Deaf(MemoryDriver):
    async def wait(self, queues, timeout):
        await asyncio.sleep(timeout)
        return False


class ListensLate(MemoryDriver):
    """Hears nothing of what came before it began to wait."""

    async def wait(self, queues, timeout):
        self._seen = {queue: self.store.queue(queue).version for queue in queues}
        return await super().wait(queues, timeout)


@pytest.mark.parametrize(
    ("broken", "case"),
    [
        (Deaf, "test_w1_a_push_ends_the_wait"),
        (Deaf, "test_w1_it_wakes_again_and_again"),
        (ListensLate, "test_w3_what_came_between_claim_and_wait_counts"),
        (IsDeafToRoom, "test_w4_room_ends_the_wait_whatever_ended_before"),
    ],
)
async def test_a_deaf_driver_fails(
    broken: type[MemoryDriver], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(MemoryDriver, case)
    for cases in (limits, waiting):
        monkeypatch.setattr(cases, "AGES", 0.01)
    with pytest.raises(AssertionError):
        await run(broken, case)
