"""Every operation from every state: the answer, and the whole record as stored afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from taskmux.conformance.bench import LONG, Bench
from taskmux.conformance.model import answer, moved
from taskmux.driver import (
    TERMINAL,
    Applied,
    ApplyStatus,
    BlockedCause,
    Changes,
    Dedup,
    JobRecord,
    State,
    Transition,
    transition,
)

__all__ = ["FENCED", "LEGAL", "MOVES", "SPENT", "STARTS", "MoveCases"]

STARTS = (
    "waiting",
    "delayed",
    "blocked",
    "active",
    "asked to cancel",
    "completed",
    "dead",
    "cancelled",
)

SPENT = Changes(attempts=2, reason="it broke")

MOVES: dict[str, Callable[[JobRecord], Transition]] = {
    "start": transition.start,
    "complete": lambda job: transition.complete(job, b'{"ok":true}'),
    "again later": lambda job: transition.again(job, SPENT, LONG),
    "again now": lambda job: transition.again(job, SPENT, 0),
    "release": transition.release,
    "bury": lambda job: transition.bury(job, SPENT),
    "set aside": lambda job: transition.set_aside(job, "strike x: task t"),
    "cancelled": lambda job: transition.cancelled(job, SPENT),
    "cancel": lambda job: transition.cancel(job.ref, job.policy.cancelled),
    "redrive": lambda job: transition.redrive(job.ref, TERMINAL),
    "redrive the dead": lambda job: transition.redrive(job.ref),
    "promote": lambda job: transition.promote(job.ref),
    "postpone": lambda job: transition.postpone(job.ref, LONG),
    "postpone until": lambda job: transition.postpone(job.ref, run_at=4_102_444_800_000),
    "reprioritise": lambda job: transition.reprioritise(job.ref, 7),
    "hold": lambda job: transition.hold(job.ref),
    "unblock": lambda job: transition.unblock(job.ref, BlockedCause.HOLD),
    "remove": lambda job: transition.remove(job.ref),
}

FENCED = (
    "start",
    "complete",
    "again later",
    "again now",
    "release",
    "bury",
    "set aside",
    "cancelled",
)
"""The moves of a running job's holder."""

LEGAL = dict.fromkeys(FENCED, "active") | {
    "cancel": "waiting",
    "redrive": "cancelled",
    "redrive the dead": "dead",
    "promote": "delayed",
    "postpone": "waiting",
    "postpone until": "delayed",
    "reprioritise": "waiting",
    "hold": "delayed",
    "unblock": "blocked",
    "remove": "completed",
}
"""For every move a state from which it is applied."""


class MoveCases:
    """A1, A3, A7, A8 and A9 for every named transition."""

    @pytest.mark.parametrize("start", STARTS)
    @pytest.mark.parametrize("move", MOVES)
    async def test_a3_every_move_from_every_state(
        self, bench: Bench, start: str, move: str
    ) -> None:
        job = await bench.arrange(start, dedup=Dedup("key"), tags=("a",), headers={"k": "v"})
        one = MOVES[move](job)
        since = await bench.now()
        (given,) = await bench.apply(one)
        assert given == answer(job, one)
        if moved(job, one, since) is None:
            assert await bench.get(job) is None
        else:
            await bench.stored_as(job, lambda now: moved(job, one, now) or job, since)

    @pytest.mark.parametrize("to", [State.WAITING, State.DELAYED, State.BLOCKED])
    @pytest.mark.parametrize("start", ["completed", "dead", "cancelled"])
    async def test_a3_every_way_out_of_a_terminal_state(
        self, bench: Bench, start: str, to: State
    ) -> None:
        job = await bench.arrange(start, dedup=Dedup("key"))
        cause = BlockedCause.STAGED if to is State.BLOCKED else None
        one = transition.redrive(job.ref, {job.state})
        one = replace(one, to=to, delay=LONG, changes=replace(one.changes, cause=cause))
        since = await bench.now()
        (given,) = await bench.apply(one)
        assert given == Applied(ApplyStatus.APPLIED, to)
        await bench.stored_as(job, lambda now: moved(job, one, now) or job, since)
        assert (await bench.record(job)).finished_at is None
