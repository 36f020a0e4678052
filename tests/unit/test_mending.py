"""Outcomes of a damaged queue: when they are tried again, and which are not kept."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from taskmux.driver import Applied, ApplyStatus, Op
from taskmux.model import transition
from taskmux.model.errors import CorruptRecord
from taskmux.model.job import JobRecord, State
from taskmux.worker.held import Held
from taskmux.worker.mending import FIRST_PAUSE, LONGEST_PAUSE, Mending
from taskmux.worker.sending import Entry, Sender

DAMAGE = CorruptRecord("the record cannot be read")


class Damaged:
    """A sender whose store takes nothing so many times."""

    def __init__(self, times: float) -> None:
        self.left = times

    async def send(self, _op: Op, entries: Sequence[Entry]) -> Sequence[Any]:
        self.left -= 1
        return [DAMAGE if self.left >= 0 else Applied(ApplyStatus.APPLIED)] * len(entries)

    async def reconcile(self, _entries: Sequence[Entry], replies: Sequence[Any]) -> Sequence[Any]:
        return replies


@pytest.fixture
async def pauses(monkeypatch):
    """Let no time pass between two tries; return how much would have."""
    found: list[float] = []
    loop = asyncio.get_running_loop()

    def soon(delay: float, call: Callable[[], object]) -> asyncio.Handle:
        found.append(delay)
        return loop.call_soon(call)

    monkeypatch.setattr(loop, "call_later", soon)
    return found


def entry(name: str = "a") -> Entry:
    job = JobRecord(queue="q", id=name, task="t", state=State.ACTIVE, fence=1)
    held = Held(job, cast("Any", None), 0.0)
    held.outcome = transition.complete(job, None)
    return Entry(held, held.outcome)


def mending(times: float, told: list[Any]) -> Mending:
    return Mending(
        "q",
        cast("Sender", Damaged(times)),
        lambda one, reply: told.append((one.held.job.id, reply)),
        told.append,
    )


async def test_the_pause_grows_up_to_the_longest(pauses):
    told: list[Any] = []
    apart = mending(6, told)
    apart.put(entry())
    await apart.flush()
    assert pauses == [FIRST_PAUSE, 1.0, 2.0, 4.0, LONGEST_PAUSE, LONGEST_PAUSE]
    assert told == [("a", Applied(ApplyStatus.APPLIED)), "q"]
    assert len(apart) == 0


async def test_an_outcome_whose_lease_is_lost_is_not_kept(pauses):
    told: list[Any] = []
    apart, one = mending(1, told), entry()
    one.held.until = -math.inf
    apart.put(one)
    await apart.flush()
    assert pauses == []
    assert told == [("a", DAMAGE), "q"]
