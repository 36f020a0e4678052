"""A driver that fails on purpose: lost replies, refusals and delays, scripted or at random.

```python
driver = FaultyDriver(MemoryDriver(), script({"push": [lost, refused]}))
answers = await resend(lambda: driver.push(op, jobs))  # sent three times, created once
```

A *fault* is a coroutine function around one call; a *plan* picks the fault for each call. Both are
plain functions, so that a test can bring its own.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Protocol, Self, TypeVar

from taskmux.driver import (
    CAPABILITIES,
    Applied,
    ClaimAsk,
    Claimed,
    Driver,
    Extended,
    FindAsk,
    HeldLease,
    JobRecord,
    NewJob,
    Note,
    Op,
    Page,
    PruneAsk,
    Pushed,
    QueueSettings,
    ReclaimAsk,
    Ref,
    State,
    StoreUnavailable,
    Transition,
)

__all__ = [
    "Fault",
    "FaultyDriver",
    "Plan",
    "chance",
    "held",
    "lost",
    "refused",
    "resend",
    "script",
    "slow",
]

T = TypeVar("T")


class Fault(Protocol):
    """What happens to one call; `send` makes the call."""

    async def __call__(self, send: Callable[[], Awaitable[T]]) -> T:
        """Answer as the store would, or raise what a broken connection raises."""
        ...


Plan = Callable[[str], Fault | None]
"""Given a verb's name, the fault for this call of it, or None."""


async def refused(send: Callable[[], Awaitable[T]]) -> T:  # noqa: ARG001 - it is not sent
    """Fail before anything is executed."""
    raise StoreUnavailable("Refused on purpose: nothing was executed. Send it again.")


async def lost(send: Callable[[], Awaitable[T]]) -> T:
    """Execute, and lose the reply."""
    await send()
    raise StoreUnavailable("The reply was lost on purpose: it was executed. Send it again.")


def held(gate: asyncio.Event) -> Fault:
    """Return a fault that executes only after the gate has opened."""

    async def fault(send: Callable[[], Awaitable[T]]) -> T:
        await gate.wait()
        return await send()

    return fault


def slow(seconds: float) -> Fault:
    """Return a fault that executes after so many seconds."""

    async def fault(send: Callable[[], Awaitable[T]]) -> T:
        await asyncio.sleep(seconds)
        return await send()

    return fault


def script(faults: Mapping[str, Sequence[Fault | None]]) -> Plan:
    """Return a plan that lists, by verb, the faults of its calls in turn; then there are none."""
    left = {verb: deque(listed) for verb, listed in faults.items()}

    def plan(verb: str) -> Fault | None:
        return left[verb].popleft() if left.get(verb) else None

    return plan


def chance(seed: int, rates: Mapping[Fault, float], verbs: Sequence[str] | None = None) -> Plan:
    """Return a plan that draws faults at random, the same ones for the same seed.

    Args:
        seed: makes the draw repeatable.
        rates: how likely each fault is, from 0 to 1; the rest of the calls go well.
        verbs: which calls may fail; all of them if not given.
    """
    rng = Random(seed)  # noqa: S311 - repeatable on purpose

    def plan(verb: str) -> Fault | None:
        if verbs is not None and verb not in verbs:
            return None
        drawn = rng.random()
        for fault, rate in rates.items():
            drawn -= rate
            if drawn < 0:
                return fault
        return None

    return plan


async def resend(send: Callable[[], Awaitable[T]], tries: int = 100) -> T:
    """Send until the store answers, as the core does; the op must be the same every time.

    Raises:
        StoreUnavailable: it failed every time.
    """
    for _ in range(tries - 1):
        with suppress(StoreUnavailable):
            return await send()
    return await send()


class FaultyDriver(Driver):
    """Wraps a driver and strikes its calls as the plan says.

    It has the capabilities of the driver it wraps, under the same plan; forks share the plan.
    `close` never fails, so that tests can clean up. `struck` counts by verb the calls that met a
    fault: a test that relies on faults can check that there were some.
    """

    def __init__(self, wrapped: Driver, plan: Plan, struck: Counter[str] | None = None) -> None:
        self.wrapped = wrapped
        self.plan = plan
        self.struck: Counter[str] = Counter() if struck is None else struck
        for kind in CAPABILITIES.values():
            if isinstance(wrapped, kind):
                self._take_over(kind)

    def _take_over(self, kind: type) -> None:
        # Set on the instance: a protocol is recognised by attributes that are really there.
        for verb in (name for name in vars(kind) if not name.startswith("_")):
            method = getattr(self.wrapped, verb)
            faulty = inspect.iscoroutinefunction(method)
            setattr(self, verb, self._struck(verb, method) if faulty else method)

    def _struck(
        self, verb: str, method: Callable[..., Awaitable[object]]
    ) -> Callable[..., Awaitable[object]]:
        async def call(*args: object, **kwargs: object) -> object:
            return await self._send(verb, lambda: method(*args, **kwargs))

        return call

    async def _send(self, verb: str, send: Callable[[], Awaitable[T]]) -> T:
        fault = self.plan(verb)
        if fault is None:
            return await send()
        self.struck[verb] += 1
        return await fault(send)

    @property
    def url(self) -> str:
        """The wrapped driver's URL."""
        return self.wrapped.url

    async def open(self) -> None:
        """See `Driver.open`."""
        await self._send("open", self.wrapped.open)

    async def close(self) -> None:
        """See `Driver.close`. Never struck."""
        await self.wrapped.close()

    def fork(self) -> Self:
        """Return another instance on the same store, under the same plan."""
        return type(self)(self.wrapped.fork(), self.plan, self.struck)

    async def push(self, op: Op, jobs: Sequence[NewJob]) -> Sequence[Pushed]:
        """See `Driver.push`."""
        return await self._send("push", lambda: self.wrapped.push(op, jobs))

    async def claim(self, op: Op, ask: ClaimAsk) -> Claimed:
        """See `Driver.claim`."""
        return await self._send("claim", lambda: self.wrapped.claim(op, ask))

    async def apply(self, op: Op, transitions: Sequence[Transition]) -> Sequence[Applied]:
        """See `Driver.apply`."""
        return await self._send("apply", lambda: self.wrapped.apply(op, transitions))

    async def annotate(self, notes: Sequence[Note]) -> Sequence[Applied]:
        """See `Driver.annotate`."""
        return await self._send("annotate", lambda: self.wrapped.annotate(notes))

    async def extend(self, leases: Sequence[HeldLease], lease: int) -> Sequence[Extended]:
        """See `Driver.extend`."""
        return await self._send("extend", lambda: self.wrapped.extend(leases, lease))

    async def reclaim(self, op: Op, ask: ReclaimAsk) -> Sequence[JobRecord]:
        """See `Driver.reclaim`."""
        return await self._send("reclaim", lambda: self.wrapped.reclaim(op, ask))

    async def get(self, refs: Sequence[Ref]) -> Sequence[JobRecord | None]:
        """See `Driver.get`."""
        return await self._send("get", lambda: self.wrapped.get(refs))

    async def find(self, ask: FindAsk) -> Page:
        """See `Driver.find`."""
        return await self._send("find", lambda: self.wrapped.find(ask))

    async def counts(self, queue: str) -> dict[State, int]:
        """See `Driver.counts`."""
        return await self._send("counts", lambda: self.wrapped.counts(queue))

    async def queues(self) -> Sequence[str]:
        """See `Driver.queues`."""
        return await self._send("queues", self.wrapped.queues)

    async def prune(self, ask: PruneAsk) -> int:
        """See `Driver.prune`."""
        return await self._send("prune", lambda: self.wrapped.prune(ask))

    async def dedup_owner(self, queue: str, key: str) -> str | None:
        """See `Driver.dedup_owner`."""
        return await self._send("dedup_owner", lambda: self.wrapped.dedup_owner(queue, key))

    async def release_dedup(self, queue: str, key: str, owner: str) -> bool:
        """See `Driver.release_dedup`."""
        return await self._send(
            "release_dedup", lambda: self.wrapped.release_dedup(queue, key, owner)
        )

    async def settings(self, queue: str) -> QueueSettings:
        """See `Driver.settings`."""
        return await self._send("settings", lambda: self.wrapped.settings(queue))

    async def put_settings(self, queue: str, settings: QueueSettings) -> bool:
        """See `Driver.put_settings`."""
        return await self._send("put_settings", lambda: self.wrapped.put_settings(queue, settings))

    async def wait(self, queues: Sequence[str], timeout: float) -> bool:  # noqa: ASYNC109
        """See `Driver.wait`."""
        return await self._send("wait", lambda: self.wrapped.wait(queues, timeout))
