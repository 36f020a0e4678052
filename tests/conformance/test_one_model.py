"""One model, every driver: whatever is done to the reference and to another, both tell the same.

A state machine looks for a history on which they differ; a trace, longer than it would try, is
replayed on each. Both are the same in every run, unless TASKMUX_TEST_SEED is set to a number.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from taskmux.conformance import Hooks
from taskmux.driver import Driver, Lines
from taskmux.memory import MemoryDriver, MemoryStore
from tests import mongo_servers, servers
from tests.conformance import broken, steps
from tests.conformance.player import Player

from taskmux_mongodb import MongoDriver
from taskmux_redis import RedisDriver
from taskmux_sqlite import SQLiteDriver

SEED = int(os.environ.get("TASKMUX_TEST_SEED", "0"))
LENGTH = 250
"""Steps of a trace."""
EXAMPLES = Path(__file__).parents[2] / "examples"

Clock = Callable[[], int]


class Virtual(Hooks):
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.clock = 1_700_000_000_000

    def now(self) -> int:
        return self.clock

    async def advance(self, ms: float) -> None:
        self.clock += max(1, round(ms))


class Estimated(Hooks):
    """A clock that the driver estimates."""

    clock_error_ms: ClassVar[int] = 10


# -- the drivers ----------------------------------------------------------------------------------


class Subject:
    """Where drivers on empty stores come from.

    `jumps`: an hour may pass at once on their clock. `effort`: how much to try in some seconds;
    on a server each step takes real time. `lines`: they have groups and limits.
    """

    def __init__(
        self,
        start: Callable[[], tuple[Driver, Hooks]],
        *,
        jumps: bool = True,
        effort: int = 10,
        lines: bool | None = None,
    ) -> None:
        self.start = start
        self.jumps = jumps
        self.effort = effort
        self._lines = lines

    @cached_property
    def lines(self) -> bool:
        return isinstance(self.start()[0], Lines) if self._lines is None else self._lines

    async def player(self) -> Player:
        driver, hooks = self.start()
        player = Player(driver, hooks, jumps=self.jumps, lines=self.lines)
        await player.bench.open(driver)
        return player

    def reference(self) -> Subject:
        """Return the memory driver under the same conditions."""
        start = partial(start_in_memory, MemoryDriver)
        return Subject(start, jumps=self.jumps, lines=self.lines)


def start_in_memory(kind: type[MemoryDriver]) -> tuple[Driver, Hooks]:
    hooks = Virtual()
    return kind(store=MemoryStore(clock=hooks.now)), hooks


@contextmanager
def clocked(make: Callable[[Path, Clock], Driver], effort: int) -> Iterator[Subject]:
    """Drivers on local paths that take a clock."""
    with tempfile.TemporaryDirectory() as place:

        def start() -> tuple[Driver, Hooks]:
            hooks = Virtual()
            return make(Path(tempfile.mkdtemp(dir=place)) / "jobs", hooks.now), hooks

        yield Subject(start, effort=effort)


@contextmanager
def served(
    variable: str,
    program: str | None,
    running: Callable[[], AbstractContextManager[servers.RedisServer | mongo_servers.MongoServer]],
    make: Callable[[str], tuple[Driver, Hooks]],
    effort: int,
) -> Iterator[Subject]:
    """Drivers on a server: the one that the environment names, or one of our own."""
    given = os.environ.get(variable)
    if given:
        yield Subject(lambda: make(given), jumps=False, effort=effort)
    elif program is None:
        pytest.skip(f"no server: install one, or set {variable}")
    else:
        with running() as server:
            yield Subject(lambda: make(server.url), jumps=False, effort=effort)


def sqlite(place: Path, clock: Clock) -> Driver:
    return SQLiteDriver(f"sqlite:///{place}.db?synchronous=normal", clock=clock)


def files(place: Path, clock: Clock) -> Driver:
    from taskmux_files import FilesDriver  # noqa: PLC0415 - an example, not installed here

    return FilesDriver(f"files://{place}", clock=clock)


def redis() -> AbstractContextManager[Subject]:
    return served(
        "TASKMUX_TEST_REDIS_URL",
        servers.redis_program(),
        servers.running,
        lambda url: (RedisDriver(url), Hooks()),
        effort=4,
    )


def mongodb() -> AbstractContextManager[Subject]:
    return served(
        "TASKMUX_TEST_MONGODB_URL",
        mongo_servers.mongod_program(),
        mongo_servers.running,
        lambda url: (MongoDriver(url), Estimated()),
        effort=1,
    )


SUBJECTS: dict[str, Callable[[], AbstractContextManager[Subject]]] = {
    "sqlite": partial(clocked, sqlite, effort=10),
    "files": partial(clocked, files, effort=4),
    "redis": redis,
    "mongodb": mongodb,
}


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with pytest.MonkeyPatch.context() as patch, SUBJECTS[request.param]() as subject:
        patch.syspath_prepend(EXAMPLES / "third_party_driver")
        yield subject


# -- the state machine ----------------------------------------------------------------------------


@st.composite
def one(draw: st.DrawFn, kind: type[steps.Chosen]) -> steps.Chosen:
    return kind.chosen(lambda options: draw(st.sampled_from(options)))


class OneModel(RuleBasedStateMachine):
    """The reference and another driver, side by side."""

    subject: ClassVar[Subject]

    def __init__(self) -> None:
        super().__init__()
        self.differ = False
        self.runner = asyncio.Runner()
        self.reference = self.runner.run(self.subject.reference().player())
        self.other = self.runner.run(self.subject.player())

    def both(self, step: steps.Chosen) -> None:
        self.differ = True
        expected = self.runner.run(self.reference.play(step))
        found = self.runner.run(self.other.play(step))
        assert found == expected, f"TASKMUX_TEST_SEED={SEED}"
        self.differ = False

    def teardown(self) -> None:
        failed = AssertionError if self.differ else None  # then only close
        try:
            for player in (self.reference, self.other):
                self.runner.run(player.bench.__aexit__(failed, None, None))
        finally:
            self.runner.close()

    @rule(step=one(steps.Push))
    def push(self, step: steps.Push) -> None:
        self.both(step)

    @rule(step=one(steps.Claim))
    def claim(self, step: steps.Claim) -> None:
        self.both(step)

    @rule(step=one(steps.Reclaim))
    def reclaim(self, step: steps.Reclaim) -> None:
        self.both(step)

    @rule(step=one(steps.Apply))
    def apply(self, step: steps.Apply) -> None:
        self.both(step)

    @rule(step=one(steps.Annotate))
    def annotate(self, step: steps.Annotate) -> None:
        self.both(step)

    @rule(step=one(steps.Extend))
    def extend(self, step: steps.Extend) -> None:
        self.both(step)

    @rule(step=one(steps.Resend))
    def resend(self, step: steps.Resend) -> None:
        self.both(step)

    @rule(step=one(steps.PutSettings))
    def put_settings(self, step: steps.PutSettings) -> None:
        self.both(step)

    @rule(step=one(steps.Prune))
    def prune(self, step: steps.Prune) -> None:
        self.both(step)

    @rule(step=one(steps.Restart))
    def restart(self, step: steps.Restart) -> None:
        self.both(step)

    @rule(step=one(steps.Advance))
    def advance(self, step: steps.Advance) -> None:
        self.both(step)


def search(subject: Subject, *, shrink: bool) -> None:
    """Look for a history on which the subject differs from the reference."""
    machine = type("OneModel", (OneModel,), {"subject": subject})
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    run_state_machine_as_test(
        seed(SEED)(machine) if SEED else machine,
        settings=settings(
            max_examples=3 * subject.effort,
            stateful_step_count=60,
            phases=phases,
            derandomize=not SEED,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_it_agrees_with_the_reference(subject: Subject) -> None:
    search(subject, shrink=subject.jumps)  # in real time a shorter history is not worth the wait


@pytest.mark.parametrize(
    "broken",
    [
        broken.NoFenceCheck,
        broken.ForgetsApply,
        broken.ForgetsClaim,
        broken.IgnoresPause,
        broken.KeepsFenceAtReclaim,
        broken.RevivesLease,
    ],
)
def test_a_broken_driver_is_found(broken: type[MemoryDriver]) -> None:
    with pytest.raises(AssertionError):
        search(Subject(partial(start_in_memory, broken), effort=50), shrink=False)


# -- the trace ------------------------------------------------------------------------------------


def trace(number: int) -> list[steps.Chosen]:
    """Return the recorded history of this number: the same one in every run."""
    rng = Random(number)
    kinds = rng.choices(list(steps.KINDS), list(steps.KINDS.values()), k=LENGTH)
    return [kind.chosen(rng.choice) for kind in kinds]


async def replay(subject: Subject, recorded: list[steps.Chosen]) -> list[dict[str, object]]:
    player = await subject.player()
    async with player.bench:
        return [await player.play(step) for step in recorded]


async def compare(subject: Subject, number: int) -> None:
    """Replay a trace on the reference and on the subject, and compare what they tell."""
    recorded = trace(number)
    expected = await replay(subject.reference(), recorded)
    found = await replay(subject, recorded)
    for at, step in enumerate(recorded):
        assert found[at] == expected[at], f"TASKMUX_TEST_SEED={number}, step {at + 1}: {step}"


async def test_a_trace_tells_the_same_on_all(subject: Subject) -> None:
    for number in range(SEED, SEED + subject.effort):
        await compare(subject, number)


@pytest.mark.parametrize(
    "broken",
    [
        broken.LosesPlace,
        broken.TakesKeyOfAnother,
        broken.KeepsKeyWhenFinished,
        broken.IgnoresCancelRequest,
        broken.RepeatsLogLines,
        broken.PrunesEarly,
        broken.FavoursALine,
        broken.HoldsForZombies,
        broken.PrefetchesAnyway,
    ],
)
async def test_a_broken_driver_differs_on_some_trace(broken: type[MemoryDriver]) -> None:
    with pytest.raises(AssertionError):
        for number in range(50):
            await compare(Subject(partial(start_in_memory, broken)), number)
