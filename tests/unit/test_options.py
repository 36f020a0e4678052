from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskmux import Context, Exponential, Fixed, Taskmux
from taskmux.api.call import Call, Terms
from taskmux.api.options import _PARSERS, JobOptions, Parsed, parse_call, parse_options
from taskmux.model import job as model
from taskmux.model.errors import (
    DeclarationError,
    InvalidArguments,
    InvalidName,
    TaskmuxError,
)
from taskmux.model.job import Keep, State

MIDNIGHT = datetime(2030, 1, 1, tzinfo=UTC)
GOOD: dict[str, tuple[Any, dict[str, Any]]] = {
    "queue": ("email", {"queue": "email"}),
    "id": ("welcome:42", {"id": "welcome:42"}),
    "delay": ("10m", {"delay": 600_000}),
    "run_at": (MIDNIGHT, {"run_at": 1_893_456_000_000}),
    "priority": ("high", {"priority": 50}),
    "lifo": (True, {"lifo": True}),
    "max_attempts": (1, {"max_attempts": 1}),
    "max_crashes": (0, {"max_crashes": 0}),
    "backoff": ("1s", {"backoff": Fixed("1s")}),
    "timeout": ("30s", {"timeout": 30_000}),
    "expires": ("10m", {"expires": 600_000}),
    "deadline": (datetime(2030, 1, 1, tzinfo=UTC), {"deadline": 1_893_456_000_000}),
    "keep_result": (False, {"keep_result": False}),
    "retention": (
        {"completed": "1h", "completed_count": 5},
        {"completed": Keep(3_600_000, 5)},
    ),
    "tags": (["a", "b"], {"tags": ("a", "b")}),
    "headers": ({"traceparent": "00-1"}, {"headers": {"traceparent": "00-1"}}),
    "group": ("acme", {"group": "acme"}),
    "supersede": (True, {"supersede": True}),
    "on_duplicate": ("raise", {"on_duplicate": "raise"}),
    "session": ("a transaction", {"session": "a transaction"}),
    "enqueue_timeout": ("5s", {"enqueue_timeout": 5_000}),
}
WRONG = [
    ("queue", "a b"),
    ("id", ""),
    ("delay", -1),
    ("run_at", datetime(2030, 1, 1)),
    ("run_at", "tomorrow"),
    ("priority", 2048),
    ("lifo", 1),
    ("max_attempts", 0),
    ("max_attempts", True),
    ("max_attempts", 10**5000),
    ("max_crashes", -1),
    ("backoff", "soon"),
    ("backoff", None),
    ("timeout", 0),
    ("timeout", "0s"),
    ("enqueue_timeout", 0),
    ("enqueue_timeout", "soon"),
    ("expires", 0),
    ("deadline", datetime(2030, 1, 1)),
    ("deadline", "1h"),
    ("keep_result", "no"),
    ("retention", "1d"),
    ("retention", {"blocked": "1d"}),
    ("retention", {"dead": "x"}),
    ("retention", {"dead_count": -1}),
    ("tags", "urgent"),
    ("tags", 5),
    ("tags", ["a"] * 33),
    ("tags", ["a b"]),
    ("headers", ["a"]),
    ("headers", {"a": 1}),
    ("headers", {"a b": "x"}),
    ("headers", {"a": "\udcff"}),
    ("headers", {"a": "b\0"}),
    ("tags", ["a\0"]),
    ("headers", {"a": "x" * 8192}),
    ("group", "@task"),
    ("dedup", "a\x00"),
    ("dedup", 7),
    ("dedup", model.Dedup("k")),
    ("supersede", 1),
    ("on_duplicate", "ignore"),
    ("colour", "red"),
]


class TestParsing:
    @pytest.mark.parametrize("name", GOOD)
    def test_each_option_in_its_working_form(self, name):
        value, parsed = GOOD[name]
        assert parse_options({name: value}) == Parsed(**parsed)

    def test_every_option_is_tried_here_and_typed(self):
        assert set(_PARSERS) == set(JobOptions.__annotations__)
        assert set(_PARSERS) - set(GOOD) == {"dedup"}
        assert parse_options({"dedup": "k"}).dedup.key == "k"

    @pytest.mark.parametrize(("name", "value"), WRONG, ids=range(len(WRONG)))
    def test_a_wrong_one_is_a_typed_error(self, name, value):
        with pytest.raises((DeclarationError, InvalidName)):
            parse_options({name: value})

    def test_two_words_on_time_exclude_each_other(self):
        with pytest.raises(DeclarationError, match="exclude each other"):
            parse_options({"delay": 1, "run_at": MIDNIGHT})

    @given(
        st.sampled_from(sorted(_PARSERS)),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ),
    )
    def test_any_value_is_taken_or_a_typed_error(self, name, value):
        try:
            parse_options({name: value})
        except TaskmuxError:
            return


class TestPrecedence:
    def test_the_later_word_wins_and_the_rest_is_kept(self):
        base = parse_options({"queue": "a", "priority": 1})
        said = parse_options({"priority": 2}).over(base)
        assert (said.queue, said.priority) == ("a", 2)

    def test_false_and_none_are_words_too(self):
        base = parse_options({"lifo": True, "timeout": "1s"})
        said = parse_options({"lifo": False, "timeout": None}).over(base)
        assert (said.lifo, said.timeout) == (False, None)

    @pytest.mark.parametrize(
        ("first", "then"),
        [({"delay": 1}, {"run_at": MIDNIGHT}), ({"run_at": MIDNIGHT}, {"delay": 1})],
    )
    def test_a_later_word_on_time_replaces_the_earlier(self, first, then):
        assert parse_options(then).over(parse_options(first)) == parse_options(then)

    def test_call_over_task_over_app(self):
        mux = Taskmux(
            "memory://", defaults={"priority": 1, "max_attempts": 7, "queue": "of-the-app"}
        )

        @mux.task(priority=2, queue="of-the-task")
        def work() -> None:
            raise NotImplementedError

        job = work.options(priority=3).bind().new_job().job
        assert (job.priority, job.queue, job.policy.max_attempts) == (3, "of-the-task", 7)
        assert work.bind().new_job().job.priority == 2  # options() changes nothing of the task

    def test_only_a_calls_backoff_is_stored(self):
        mux = Taskmux("memory://", defaults={"backoff": "1s"})

        @mux.task(backoff="2s")
        def work() -> None:
            raise NotImplementedError

        assert work.bind().new_job().job.policy.backoff is None
        assert work.backoff == Fixed("2s")
        own = work.options(backoff=Exponential("3s")).bind().new_job().job
        assert own.policy.backoff == Exponential("3s")

    def test_a_backoff_function_cannot_be_a_calls(self):
        with pytest.raises(DeclarationError, match="cannot be stored"):
            parse_call({"backoff": lambda attempt, error: 1})

    @pytest.mark.parametrize("name", ["id", "run_at", "dedup", "supersede", "session"])
    def test_what_only_a_call_can_say(self, name):
        value: Any = MIDNIGHT if name == "run_at" else "x"
        with pytest.raises(DeclarationError, match="single call"):
            Taskmux("memory://").task(**{name: value})
        with pytest.raises(DeclarationError, match="single call"):
            Taskmux("memory://", defaults={name: value})


class TestCalls:
    def call(self, **options: Any) -> Call[Any]:
        said = parse_options(options)
        return Call("t", b"{}", Terms.settled(said, Parsed()))

    def test_defaults(self):
        new = self.call().new_job()
        assert (new.job.queue, new.job.priority, new.job.state) == ("default", 100, State.WAITING)
        assert new.delay == 0

    def test_a_delay_and_an_instant_make_a_delayed_job(self):
        new = self.call(delay="1s").new_job()
        assert (new.job.state, new.delay, new.job.run_at) == (State.DELAYED, 1000, None)
        new = self.call(run_at=MIDNIGHT).new_job()
        assert (new.job.state, new.job.run_at) == (State.DELAYED, 1_893_456_000_000)

    def test_no_delay_is_no_wait(self):
        assert self.call(delay=0).new_job().job.state is State.WAITING

    def test_each_job_has_an_id_of_its_own_and_ids_sort_by_time(self):
        call = self.call()
        ids = [call.new_job().job.id for _ in range(1000)]
        assert len(set(ids)) == 1000
        stamps = [one[:11] for one in ids]
        assert stamps == sorted(stamps)


class TestTasks:
    def test_without_parentheses_it_says_what_is_wrong(self):
        with pytest.raises(DeclarationError, match="parentheses"):

            @Taskmux("memory://").task
            def work() -> None:
                raise NotImplementedError

    def test_two_functions_of_one_name_are_refused(self):
        mux = Taskmux("memory://")
        mux.task(name="work")(lambda: None)
        with pytest.raises(DeclarationError, match="Two functions"):
            mux.task(name="work")(lambda: None)

    def test_the_same_function_may_be_registered_again(self):
        mux = Taskmux("memory://")

        def work() -> None:
            raise NotImplementedError

        assert mux.task()(work).name == mux.task()(work).name
        assert len(mux.tasks.names()) == 1

    def test_what_is_no_function_is_refused(self):
        class Callable:
            def __call__(self) -> None:
                raise NotImplementedError

        with pytest.raises(DeclarationError):
            Taskmux("memory://").task()(Callable())

    def test_calling_a_task_runs_the_function_itself(self):
        @Taskmux("memory://").task()
        def double(number: int) -> int:
            """Twice."""
            return 2 * number

        assert double(4) == 8
        assert double.__doc__ == "Twice."


class TestNamesThatAreNoOptions:
    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("countdown", "delay"),
            ("eta", "run_at"),
            ("task_id", "id"),
            ("jobId", "id"),
            ("max_retries", "max_attempts"),
            ("removeOnComplete", "retention"),
            ("priorty", "priority"),
        ],
    )
    def test_what_was_meant_is_named(self, name, meant):
        with pytest.raises(DeclarationError, match=f"no option '{name}'. Did you mean '{meant}'"):
            parse_call({name: 1})  # type: ignore[misc]

    def test_what_may_be_said_in_that_place_is_listed(self):
        mux = Taskmux("memory://")
        with pytest.raises(DeclarationError) as error:
            mux.task(rate_limit="100/m")
        said = str(error.value)
        assert "Did you mean 'rate'?" in said
        listed = set(said.partition("Options here are ")[2].rstrip(".").split(", "))
        assert {"rate", "concurrency", "name", "own_line", "delay"} <= listed
        assert not {"id", "run_at", "deadline", "dedup", "session"} & listed
        for name in listed - {"name", "concurrency", "rate", "own_line"}:
            assert name in JobOptions.__annotations__

        with pytest.raises(DeclarationError) as error:
            parse_call({"colour": "red"})
        assert {"id", "dedup"} <= set(str(error.value).rstrip(".").split(", "))

    @pytest.mark.parametrize(("verb", "ours"), [("delay", "enqueue"), ("s", "bind")])
    def test_verbs_of_other_queues_name_ours(self, verb, ours):
        mux = Taskmux("memory://")

        @mux.task(name="t")
        def task() -> None: ...

        with pytest.raises(AttributeError, match=f"'{verb}'. Write .*task.{ours}"):
            getattr(task, verb)
        with pytest.raises(AttributeError, match=r"no attribute 'colour'$"):
            _ = task.colour
        assert not hasattr(task, "apply_async")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"mial": 3}, r"there is no parameter 'mial'. Did you mean 'mail'\? Its parameters"),
            ({}, r"missing a required argument: 'mail'. Its parameters are \(mail: str\)\."),
        ],
    )
    def test_an_unknown_argument_is_named_before_a_missing_one(self, arguments, words):
        mux = Taskmux("memory://")

        @mux.task(name="t")
        def task(mail: str) -> None: ...

        with pytest.raises(InvalidArguments, match=words):
            task.bind(**arguments)

    def test_a_context_is_one_by_its_annotation_and_an_error_says_so(self):
        mux = Taskmux("memory://")

        @mux.task(name="plain")
        def plain(ctx, x) -> None: ...

        @mux.task(name="with_context")
        def with_context(ctx: Context, x: int) -> None: ...

        with pytest.raises(InvalidArguments, match="if ctx is to be the job's context, annotate"):
            plain.bind(1)
        with pytest.raises(InvalidArguments, match=r"\(the context is not passed\)\.$"):
            with_context.bind(1, 2)
