"""The capability `presence`: the registry of live workers."""

from __future__ import annotations

from msgspec.structs import replace

from taskmux.conformance.bench import LONG, Bench, needs
from taskmux.driver import Beat, Command, HeldLease, Keep, Presence, WorkerInfo, transition

WORKER = WorkerInfo(
    id="worker-1",
    host="host",
    pid=4321,
    queues=("a", "b"),
    tasks=("mail.send", "$weird.name"),
    concurrency=20,
    running=3,
    started_at=1_700_000_000_000,
)


def _registry(bench: Bench) -> Presence:
    assert isinstance(bench.driver, Presence)
    return bench.driver


async def _listed(bench: Bench) -> list[str]:
    return [worker.id for worker in await _registry(bench).workers()]


class PresenceCases:
    """B1 to B3."""

    @needs("presence")
    async def test_b1_a_worker_is_listed_as_it_told(self, bench: Bench) -> None:
        assert await _listed(bench) == []
        since = await bench.now()
        reply = await _registry(bench).beat(Beat(WORKER, (), LONG))
        assert (list(reply.cancel), list(reply.commands)) == ([], [])
        (found,) = await _registry(bench).workers()
        error = bench.hooks.clock_error_ms
        assert since - error <= found.seen_at <= await bench.now() + error
        assert replace(found, seen_at=0) == WORKER

    @needs("presence")
    async def test_b1_a_later_beat_replaces_an_earlier(self, bench: Bench) -> None:
        registry = _registry(bench)
        await registry.beat(Beat(WORKER, (), LONG))
        (first,) = await registry.workers()
        await bench.reach(first.seen_at + 2)
        await registry.beat(Beat(replace(WORKER, running=7), (), LONG))
        (second,) = await registry.workers()
        assert second.running == 7
        assert second.seen_at > first.seen_at

    @needs("presence")
    async def test_b1_workers_are_listed_by_id(self, bench: Bench) -> None:
        for name in ("c", "a", "b"):
            await _registry(bench).beat(Beat(replace(WORKER, id=name), (), LONG))
        assert await _listed(bench) == ["a", "b", "c"]

    @needs("presence")
    async def test_b1_a_silent_worker_is_forgotten(self, bench: Bench) -> None:
        for name, ttl in {"silent": 40, "alive": LONG}.items():
            await _registry(bench).beat(Beat(replace(WORKER, id=name), (), ttl))
        await bench.reach(await bench.now() + 40)
        assert await _listed(bench) == ["alive"]

    @needs("presence")
    async def test_b1_the_last_beat_takes_the_worker_off(self, bench: Bench) -> None:
        for last in (False, True, True):
            await _registry(bench).beat(Beat(WORKER, (), LONG, last=last))
        assert await _listed(bench) == []

    @needs("presence")
    async def test_b2_jobs_asked_to_cancel_come_back(self, bench: Bench) -> None:
        await bench.created(*map(bench.job, "abc"))
        a, b, c = (await bench.claim(3)).jobs
        held = [HeldLease(job.ref, job.fence) for job in (a, b, c)]
        assert list((await _registry(bench).beat(Beat(WORKER, held, LONG))).cancel) == []
        await bench.apply(*(transition.cancel(job.ref, Keep()) for job in (a, c)))
        reply = await _registry(bench).beat(Beat(WORKER, held, LONG))
        assert list(reply.cancel) == [held[0], held[2]]

    @needs("presence")
    async def test_b2_a_lost_lease_is_not_asked(self, bench: Bench) -> None:
        zombie = await bench.running()
        await bench.applied(transition.release(zombie))
        holder = await bench.claim_one()
        await bench.apply(transition.cancel(holder.ref, Keep()))
        held = [HeldLease(zombie.ref, zombie.fence), HeldLease(bench.job("gone").ref, 1)]
        assert list((await _registry(bench).beat(Beat(WORKER, held, LONG))).cancel) == []

    @needs("presence")
    async def test_b3_a_worker_is_told_once_and_in_order(self, bench: Bench) -> None:
        registry = _registry(bench)
        for name in ("worker-1", "worker-2"):
            await registry.beat(Beat(replace(WORKER, id=name), (), LONG))
        commands = [Command("pause"), Command("concurrency", 7), Command("resume")]
        for command in commands:
            assert await registry.tell("worker-1", command)
        other = Beat(replace(WORKER, id="worker-2"), (), LONG)
        assert list((await registry.beat(other)).commands) == []
        assert list((await registry.beat(Beat(WORKER, (), LONG))).commands) == commands
        assert list((await registry.beat(Beat(WORKER, (), LONG))).commands) == []

    @needs("presence")
    async def test_b3_nobody_is_told_who_is_not_there(self, bench: Bench) -> None:
        assert not await _registry(bench).tell("nobody", Command("stop"))
        await _registry(bench).beat(Beat(WORKER, (), LONG))
        assert await _registry(bench).tell(WORKER.id, Command("stop"))
        await _registry(bench).beat(Beat(WORKER, (), LONG, last=True))
        assert not await _registry(bench).tell(WORKER.id, Command("stop"))
        reply = await _registry(bench).beat(Beat(WORKER, (), LONG))
        assert list(reply.commands) == []
