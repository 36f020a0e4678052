"""Whatever user code raises, wherever it is called, is one failed attempt of that job alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taskmux import Context, Fail, RateLimited, Retry, Snooze, State, Taskmux
from taskmux.model.errors import JobFailed


@pytest.fixture
async def mux():
    async with Taskmux("memory://") as mux:
        yield mux


def raises(what: BaseException | type[BaseException]) -> Callable[[], Any]:
    def handler() -> None:
        raise what

    return handler


def as_task(mux: Taskmux, function: Callable[[], Any], *, sync: bool, **options: Any) -> Any:
    """Register what a handler does, as a sync or as an async one."""
    if sync:
        return mux.task(name="bad", **options)(function)

    async def handler() -> Any:
        await asyncio.sleep(0)
        return function()

    return mux.task(name="bad", **options)(handler)


class Hostile(Exception):
    """Everything that can be asked of it raises."""

    def __str__(self) -> str:
        raise SystemExit("its text")

    def __repr__(self) -> str:
        raise KeyboardInterrupt

    def __getattribute__(self, name: str) -> Any:
        raise GeneratorExit(name)


def nameless(text: str) -> BaseException:
    """Return an exception whose class cannot even be asked for its name (nor may pytest see it)."""

    class Loud(type):
        def __getattribute__(cls, name: str) -> Any:
            raise SystemExit

    class Nameless(Exception, metaclass=Loud):
        pass

    return Nameless(text)


class Elsewhere(Exception):
    __module__ = 7  # type: ignore[assignment]


class Surrogate(Exception):
    __module__ = "a\udcffb"


class Text(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise SystemExit

    def __getitem__(self, key: Any) -> str:
        raise SystemExit


class OddText(Exception):
    def __str__(self) -> str:
        return Text("odd")


class Bytes(SyntaxError):
    def __init__(self) -> None:
        super().__init__("wrong")
        self.text = b"\xff\xfe"  # type: ignore[assignment]
        self.filename = b"\xff"  # type: ignore[assignment]
        self.lineno = "three"  # type: ignore[assignment]


class ChainRaises(Exception):
    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise SystemExit

    @property
    def __context__(self) -> Any:  # type: ignore[override]
        raise SystemExit

    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise SystemExit

    @property
    def __notes__(self) -> Any:
        raise SystemExit

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise SystemExit


def circle() -> Exception:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    first.__context__, second.__context__ = second, first
    return first


def deep() -> Any:
    return deep()


class NoSuper(Retry):
    def __init__(self, code: int) -> None:
        self.code = code


ENDINGS: dict[str, Callable[[], Any]] = {
    "KeyboardInterrupt": raises(KeyboardInterrupt("real")),
    "SystemExit": raises(SystemExit("real")),
    "GeneratorExit": raises(GeneratorExit("real")),
    "CancelledError": raises(asyncio.CancelledError("real")),
    "StopIteration": raises(StopIteration("real")),
    "StopAsyncIteration": raises(StopAsyncIteration("real")),
    "RecursionError": deep,
    "hostile": raises(Hostile("real")),
    "nameless": raises(nameless("real")),
    "module a number": raises(Elsewhere("real")),
    "module a surrogate": raises(Surrogate("real")),
    "text that is no str": raises(OddText("real")),
    "bytes in a SyntaxError": raises(Bytes()),
    "chain raises": raises(ChainRaises("real")),
    "circle": raises(circle()),
    "group": raises(BaseExceptionGroup("real", [KeyboardInterrupt(), ValueError("x")])),
    "retry without super": raises(NoSuper(7)),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_it_is_one_failed_attempt_and_nobody_else_notices(mux, ending, sync):
    bad = as_task(mux, ENDINGS[ending], sync=sync, max_attempts=1)
    runs: list[int] = []

    @mux.task()
    async def innocent(number: int) -> int:
        runs.append(number)
        await asyncio.sleep(0.001)
        return number

    async with mux.worker(concurrency=2) as worker:
        bads = [await bad.enqueue() for _ in range(4)]  # more than there are lanes
        good = [await innocent.enqueue(number) for number in range(10)]
        for job in bads:
            with pytest.raises(JobFailed, match="failed 1 of 1 attempts"):
                await job.result(timeout="20s")
        assert [await job.result(timeout="20s") for job in good] == list(range(10))
        assert len(worker._crew.tasks) == 2
        assert not worker.stopping
    assert sorted(runs) == list(range(10))
    for job in bads:
        record = await job.record()
        assert (record.attempts, record.crashes, len(record.history)) == (1, 0, 1)
        assert record.error == record.history[0].error
        assert "NotEncodable" not in record.error.type
    for job in good:
        record = await job.record()
        assert (record.attempts, record.crashes, record.history) == (1, 0, ())


@pytest.mark.parametrize("ending", ["KeyboardInterrupt", "SystemExit", "GeneratorExit"])
@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_the_history_has_the_real_error(mux, ending, sync):
    bad = as_task(mux, ENDINGS[ending], sync=sync, max_attempts=1)
    async with mux.worker():
        job = await bad.enqueue()
        with pytest.raises(JobFailed):
            await job.result(timeout="20s")
    (entry,) = (await job.record()).history
    assert (entry.outcome, entry.error.type, entry.error.message) == ("failed", ending, "real")
    assert "in handler" in entry.error.traceback
    assert "invocation.py" not in entry.error.traceback  # the user's frames, not ours


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_a_backoff_function_may_raise_anything(mux, sync, witness):
    def backoff(attempt: int, error: BaseException) -> float:
        raise SystemExit

    mux = Taskmux("memory://", plugins=[witness])
    bad = as_task(mux, raises(ValueError("real")), sync=sync, max_attempts=2, backoff=backoff)
    async with mux, mux.worker():
        job = await bad.enqueue()
        record = await witness.settled(job)
    assert (record.attempts, record.error.message, record.state) == (1, "real", State.DELAYED)


class Model:
    """What the encoder asks for its JSON form."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def model_dump(self, mode: str) -> Any:
        raise self._error


@pytest.mark.parametrize(
    "error", [ValueError("real"), SystemExit("real"), KeyboardInterrupt("real")]
)
async def test_a_result_whose_encoding_raises(mux, error):
    @mux.task(max_attempts=1)
    async def odd() -> Any:
        return Model(error)

    async with mux.worker(concurrency=1):
        for _ in range(2):
            job = await odd.enqueue()
            with pytest.raises(JobFailed, match="real"):
                await job.result(timeout="20s")
    assert ((await job.record()).attempts, (await job.record()).crashes) == (1, 0)


async def test_a_result_that_is_nested_too_deeply(mux):
    @mux.task(max_attempts=5)
    async def nested() -> Any:
        value: Any = None
        for _ in range(5000):
            value = [value]
        return value

    async with mux.worker():
        job = await nested.enqueue()
        with pytest.raises(JobFailed):
            await job.result(timeout="20s")
    record = await job.record()
    assert (record.attempts, record.crashes) == (1, 0)
    assert record.error.type == "taskmux.model.errors.NotEncodable"


class Undecodable:
    @classmethod
    def model_validate(cls, value: Any) -> Any:
        if value == "bad":
            raise SystemExit("while it was read")
        return cls()


async def test_an_argument_whose_reading_raises():
    url = f"memory://{uuid4().hex}"
    mux, producer = Taskmux(url), Taskmux(url)  # one that knows the task refuses it itself

    @mux.task(name="reads")
    async def reads(value: Undecodable) -> str:
        return type(value).__name__

    async with mux, producer, mux.worker(concurrency=1):
        bad = await producer.enqueue("reads", {"value": "bad"}, max_attempts=1)
        with pytest.raises(JobFailed, match="while it was read"):
            await bad.result(timeout="20s")
        good = await producer.enqueue("reads", {"value": "good"})
        assert await good.result(timeout="20s") == "Undecodable"


async def test_a_child_task_that_fails_is_the_handlers_business(mux):
    @mux.task(max_attempts=1)
    async def parent() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60))
            group.create_task(fails())

    async def fails() -> None:
        raise ValueError("the child's")

    async with mux.worker(concurrency=1):
        for _ in range(2):
            job = await parent.enqueue()
            with pytest.raises(JobFailed):
                await job.result(timeout="20s")
    record = await job.record()
    assert record.error.type == "ExceptionGroup"
    assert "ValueError: the child's" in record.error.traceback


# -- signals in groups ---------------------------------------------------------------------------


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("together", [ValueError("beside it"), ExceptionGroup("inner", errors)])


class TestSignalsInGroups:
    @pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
    async def test_fail(self, mux, sync):
        everything = group(Snooze("1s"), Retry(after=0), RateLimited("1s"), Fail("for good"))
        bad = as_task(mux, raises(everything), sync=sync)
        async with mux.worker():
            job = await bad.enqueue()
            with pytest.raises(JobFailed, match="failed for good"):
                await job.result(timeout="20s")
        record = await job.record()
        assert record.attempts == 1
        assert "ValueError: beside it" in record.history[0].error.traceback

    async def test_retry_with_its_wait(self, mux):
        @mux.task(max_attempts=2, backoff="1h")
        async def busy(ctx: Context) -> int:
            if ctx.attempt == 1:
                raise group(Snooze("1h"), Retry(after="1ms"))
            return ctx.attempt

        async with mux.worker():
            job = await busy.enqueue()
            assert await job.result(timeout="20s") == 2
        (entry,) = (await job.record()).history
        assert entry.outcome == "retried"
        assert "ValueError: beside it" in entry.error.traceback

    async def test_snooze_spends_nothing(self, mux):
        @mux.task(max_attempts=1)
        async def patient(ctx: Context) -> int:
            if not ctx.job.history:
                raise group(Snooze("1ms", "not yet"))
            return ctx.attempt

        async with mux.worker():
            job = await patient.enqueue()
            assert await job.result(timeout="20s") == 1
        (entry,) = (await job.record()).history
        assert entry.outcome == "snoozed"
        assert "ValueError: beside it" in entry.error.traceback

    async def test_rate_limited_rests_the_queue_and_keeps_the_rest_of_the_group(self, mux):
        runs = []

        @mux.task(max_attempts=1)
        async def limited(ctx: Context) -> int:
            runs.append(ctx.id)
            if not ctx.job.history:
                raise group(RateLimited("50ms", "slower"), Snooze("1h"))
            return ctx.attempt

        async with mux.worker():
            job = await limited.enqueue()
            assert await job.result(timeout="20s") == 1
        (entry,) = (await job.record()).history
        assert entry.outcome == "rate limited"
        assert "ValueError: beside it" in entry.error.traceback


# -- generated exceptions beside innocents -------------------------------------------------------

KINDS: list[Callable[[str], BaseException]] = [
    ValueError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    asyncio.CancelledError,
    RecursionError,
    Hostile,
    nameless,
    Elsewhere,
    Surrogate,
    OddText,
    ChainRaises,
    lambda _: Bytes(),
    lambda _: circle(),
    lambda _: NoSuper(1),
]


def built(kinds: list[tuple[int, str]], shape: str) -> BaseException:
    """Return an exception made of some: alone, chained to the others, or in a group with them."""
    errors = [KINDS[kind](text) for kind, text in kinds]
    first = errors[0]
    if shape == "group":
        return BaseExceptionGroup(kinds[0][1], errors)
    for one, other in zip(errors, [*errors[1:], first], strict=True):
        if shape == "causes":
            BaseException.__dict__["__cause__"].__set__(one, other)
        if shape == "contexts":
            BaseException.__dict__["__context__"].__set__(one, other)
    return first


def odd_class(name: str, attribute: str, value: object) -> type[Exception]:
    return type(name or "E", (Exception,), {attribute: value})


errors = st.one_of(
    st.builds(
        built,
        st.lists(
            st.tuples(st.integers(0, len(KINDS) - 1), st.text(max_size=20)), min_size=1, max_size=4
        ),
        st.sampled_from(["alone", "causes", "contexts", "group"]),
    ),
    st.builds(
        lambda kind, text: kind(text),
        st.builds(
            odd_class,
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9),
            st.sampled_from(
                ["__module__", "__doc__", "args", "__notes__", "__suppress_context__", "after_ms"]
            ),
            st.one_of(st.none(), st.integers(), st.text(st.characters(codec=None)), st.binary()),
        ),
        st.text(st.characters(codec=None)),
    ),
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.tuples(errors, st.booleans()), min_size=1, max_size=5))
def test_innocent_neighbours_of_generated_exceptions_run_once(thrown):
    asyncio.run(beside(thrown))


async def beside(thrown: list[tuple[BaseException, bool]]) -> None:
    runs: list[int] = []
    mux = Taskmux("memory://")

    @mux.task(max_attempts=1)
    async def bad(number: int) -> None:
        raise thrown[number][0]

    @mux.task(max_attempts=1)
    def bad_in_a_thread(number: int) -> None:
        raise thrown[number][0]

    @mux.task(max_attempts=1, max_crashes=0)
    async def innocent(number: int) -> int:
        runs.append(number)
        await asyncio.sleep(0)
        return number

    async with mux:
        bads = [
            await (bad_in_a_thread if sync else bad).enqueue(number)
            for number, (_, sync) in enumerate(thrown)
        ]
        good = [await innocent.enqueue(number) for number in range(8)]
        async with mux.worker(concurrency=2) as worker:
            for job in bads:
                with pytest.raises(JobFailed):
                    await job.result(timeout="20s")
            assert [await job.result(timeout="20s") for job in good] == list(range(8))
            assert len(worker._crew.tasks) == 2
        for job in good:
            record = await job.record()
            assert (record.attempts, record.crashes, record.history) == (1, 0, ())
        for job in bads:
            record = await job.record()
            assert (record.attempts, record.crashes, len(record.history)) == (1, 0, 1)
    assert sorted(runs) == list(range(8))
