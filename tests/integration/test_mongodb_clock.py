"""The estimate of the server's clock: bounds that hold whatever network and clocks do."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from taskmux_mongodb import clock as module
from taskmux_mongodb.clock import REMEASURE_AFTER, Clock, Numbers

HOUR = 3_600_000
EPOCH = 1_700_000_000_000


class World:
    """A local clock and a server's, and a network between them, in milliseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, offset: float = EPOCH) -> None:
        self.local = 5_000.0
        self.offset = offset
        self.delays = itertools.repeat((0.2, 0.2))
        monkeypatch.setattr(module, "_local_ms", lambda: self.local)

    @property
    def server(self) -> float:
        return self.local + self.offset

    async def ask(self) -> int:
        there, back = next(self.delays)
        self.local += there
        told = int(self.server)
        self.local += back
        return told


@pytest.fixture
def world(monkeypatch) -> World:
    return World(monkeypatch)


@pytest.mark.parametrize("offset", [EPOCH, EPOCH + HOUR, EPOCH - HOUR, EPOCH + 0.999])
async def test_the_bounds_hold_and_are_narrow(world: World, offset: float) -> None:
    world.offset = offset
    clock = Clock(world.ask)
    await clock.fresh()
    for _ in range(100):
        assert clock.earliest() <= world.server <= clock.latest()
        assert clock.latest() - clock.earliest() <= 7
        world.local += 100


async def test_the_bounds_hold_on_a_slow_and_lopsided_network(world: World) -> None:
    rng = Random(3)
    world.delays = ((rng.expovariate(0.02), rng.expovariate(0.02)) for _ in itertools.count())
    clock = Clock(world.ask)
    last = 0
    for _ in range(200):
        await clock.fresh()
        assert clock.earliest() <= world.server <= clock.latest()
        assert clock.earliest() >= last, "time never goes back"
        last = clock.earliest()
        world.local += rng.uniform(0, REMEASURE_AFTER)


async def test_a_server_with_another_clock_is_believed_once_it_answers(world: World) -> None:
    clock = Clock(world.ask)
    await clock.fresh()
    world.offset -= HOUR
    clock.forget()
    await clock.fresh()
    assert clock.earliest() <= world.server <= clock.latest()


async def test_numbers_rise_even_when_the_clock_does_not(world: World) -> None:
    clock = Clock(world.ask)
    await clock.fresh()
    numbers = Numbers(clock)
    drawn = [numbers.next() for _ in range(5_000)]
    world.offset -= HOUR
    clock.forget()
    await clock.fresh()
    drawn += [numbers.next() for _ in range(10)]
    assert drawn == sorted(set(drawn))
    assert 0 < drawn[-1] < 2**63


async def test_numbers_of_two_instances_rise_with_time(world: World) -> None:
    clock = Clock(world.ask)
    await clock.fresh()
    one, two = Numbers(clock), Numbers(clock)
    drawn = []
    for _ in range(100):
        drawn.append((one.next(), two.next()))
        world.local += 1
    assert all(max(early) < min(late) for early, late in itertools.pairwise(drawn))
