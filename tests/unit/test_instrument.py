from __future__ import annotations

import contextlib
import logging

import pytest
from taskmux import Taskmux, hookimpl
from taskmux.model.errors import DeclarationError
from taskmux.model.job import JobRecord
from taskmux.plugins.instrument import Hooks
from taskmux.plugins.loading import plugin_manager

JOB = JobRecord(queue="q", id="a", task="t")


def hooks(*plugins: object) -> Hooks:
    return Hooks(plugin_manager(plugins))


class Recording:
    def __init__(self) -> None:
        self.seen: list[object] = []

    @hookimpl
    def taskmux_started(self, job, worker):
        self.seen.append((job.id, worker))


class Partial:
    """Asks for one argument only, and for none."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    @hookimpl
    def taskmux_started(self, worker):
        self.seen.append(worker)

    @hookimpl
    def taskmux_worker_stopped(self):
        self.seen.append("stopped")


class Broken:
    @hookimpl
    def taskmux_started(self, job):
        raise RuntimeError("observer failed")


class TestObservers:
    def test_a_hook_that_nobody_observes_is_none(self):
        silent = hooks(Recording())
        assert silent.started is not None
        assert silent.enqueued is None
        assert silent.settled is None
        assert silent.lease_lost is None
        assert silent.worker_started is None
        assert silent.worker_stopped is None
        assert not silent.wraps_runs

    def test_each_is_told(self):
        one, two = Recording(), Recording()
        hooks(one, two).started(JOB, "w")
        assert one.seen == two.seen == [("a", "w")]

    def test_any_subset_of_the_arguments_may_be_taken(self):
        partial = Partial()
        told = hooks(partial)
        told.started(JOB, "w")
        told.worker_stopped("w")
        assert partial.seen == ["w", "stopped"]

    def test_one_that_raises_harms_nobody_and_is_logged(self, caplog):
        before, after = Recording(), Recording()
        with caplog.at_level(logging.ERROR):
            hooks(before, Broken(), after).started(JOB, "w")
        assert before.seen == after.seen == [("a", "w")]
        assert "taskmux_started: a plug-in failed" in caplog.text
        assert "observer failed" in caplog.text

    def test_they_are_told_in_the_order_that_pluggy_documents(self):
        told = []

        class First:
            @hookimpl(tryfirst=True)
            def taskmux_worker_stopped(self):
                told.append("first")

        class Last:
            @hookimpl(trylast=True)
            def taskmux_worker_stopped(self):
                told.append("last")

        class Earlier:
            @hookimpl
            def taskmux_worker_stopped(self):
                told.append("registered earlier")

        class Later:
            @hookimpl
            def taskmux_worker_stopped(self):
                told.append("registered later")

        hooks(Earlier(), First(), Last(), Later()).worker_stopped("w")
        assert told == ["first", "registered later", "registered earlier", "last"]

    def test_an_app_takes_plugins_and_refuses_a_hook_it_does_not_know(self):
        class Typo:
            @hookimpl
            def taskmux_stared(self, job):
                raise NotImplementedError

        with pytest.raises(DeclarationError, match="taskmux_stared"):
            Taskmux("memory://", plugins=[Typo()])

    def test_a_hook_may_not_ask_for_what_is_not_there(self):
        class Greedy:
            @hookimpl
            def taskmux_started(self, job, everything):
                raise NotImplementedError

        with pytest.raises(DeclarationError, match="everything"):
            Taskmux("memory://", plugins=[Greedy()])

    def test_no_plugin_may_be_given_twice(self):
        twice = Recording()
        with pytest.raises(DeclarationError, match="already registered"):
            Taskmux("memory://", plugins=[twice, twice])


class Wrapping:
    def __init__(self, manager):
        self.manager = manager

    @hookimpl
    def taskmux_context(self, job):
        return self.manager(job) if callable(self.manager) else self.manager


def span(log: list[str], name: str):
    @contextlib.contextmanager
    def enter(job):
        log.append(f"{name} in {job.id}")
        try:
            yield
        except Exception as error:
            log.append(f"{name} saw {error}")
            raise
        finally:
            log.append(f"{name} out")

    return enter


class TestContexts:
    def test_they_are_entered_around_the_run_and_left_in_reverse(self):
        log: list[str] = []
        wrapped = hooks(Wrapping(span(log, "inner")), Wrapping(span(log, "outer")))
        assert wrapped.wraps_runs
        with wrapped.context(JOB):
            log.append("run")
        assert log == ["outer in a", "inner in a", "run", "inner out", "outer out"]

    def test_none_means_no_wish(self):
        with hooks(Wrapping(lambda job: None)).context(JOB):
            pass

    def test_a_context_sees_the_failure_and_does_not_change_it(self):
        log: list[str] = []
        wrapped = hooks(Wrapping(span(log, "span")))
        with pytest.raises(ValueError, match="boom"), wrapped.context(JOB):
            raise ValueError("boom")
        assert "span saw boom" in log

    def test_a_context_cannot_hide_a_failure(self):
        hiding = hooks(Wrapping(lambda job: contextlib.suppress(ValueError)))
        with pytest.raises(ValueError, match="boom"), hiding.context(JOB):
            raise ValueError("boom")

    @pytest.mark.parametrize("when", ["making", "entering", "leaving"])
    def test_one_that_raises_harms_nobody_and_is_logged(self, when, caplog):
        log: list[str] = []

        class Bad(contextlib.AbstractContextManager):
            def __enter__(self):
                if when == "entering":
                    raise RuntimeError("bad span")

            def __exit__(self, *_):
                if when == "leaving":
                    raise RuntimeError("bad span")

        def make(job):
            if when == "making":
                raise RuntimeError("bad span")
            return Bad()

        wrapped = hooks(Wrapping(span(log, "one")), Wrapping(make), Wrapping(span(log, "two")))
        with wrapped.context(JOB):
            log.append("run")
        assert log == ["two in a", "one in a", "run", "one out", "two out"]
        assert "bad span" in caplog.text
