from __future__ import annotations

import importlib
import logging
import sys
from types import FunctionType

import pytest
from taskmux import Taskmux
from taskmux.model.errors import DeclarationError


def function(module: str, name: str, answer: int = 1):
    made = FunctionType((lambda: answer).__code__, {}, name, None, (lambda: answer).__closure__)
    made.__module__, made.__qualname__ = module, name
    return made


@pytest.fixture
def mux() -> Taskmux:
    return Taskmux("memory://")


class TestRedefinition:
    def test_the_same_name_in_the_same_module_takes_the_place(self, mux):
        mux.task()(function("cell", "send", 1))
        mux.task()(function("cell", "send", 2))
        assert mux.tasks.names() == ("cell.send",)
        assert mux.tasks.get("cell.send").function() == 2

    def test_also_under_a_given_name(self, mux):
        for answer in (1, 2):
            mux.task(name="mail")(function("cell", "send", answer))
        assert mux.tasks.get("mail").function() == 2

    def test_a_script_that_is_imported_too_is_one_module(self, mux, monkeypatch):
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
        monkeypatch.setattr(sys.modules["__main__"], "__file__", "/x/jobs.py", raising=False)
        mux.task()(function("__main__", "send", 1))
        mux.task()(function("jobs", "send", 2))
        assert mux.tasks.get("jobs.send").function() == 2

    def test_a_reload_is_no_error(self, mux, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "hub_for_reload.py").write_text(
            "from taskmux import Taskmux\nmux = Taskmux('memory://')"
        )
        (tmp_path / "jobs_for_reload.py").write_text(
            "from hub_for_reload import mux\n@mux.task()\ndef send() -> int:\n    return 1\n"
        )
        jobs = importlib.import_module("jobs_for_reload")
        again = importlib.reload(jobs)
        assert again.mux.tasks.get("jobs_for_reload.send") is again.send

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (("a", "send"), ("b", "send")),
            (("a", "send"), ("a", "post")),
            (("a", "<lambda>"), ("a", "<lambda>")),
            (("a", "make.<locals>.f"), ("a", "make.<locals>.f")),
        ],
    )
    def test_two_different_functions_are_refused(self, mux, first, second):
        mux.task(name="mail")(function(*first))
        with pytest.raises(DeclarationError, match=r"@mux.task\(name="):
            mux.task(name="mail")(function(*second))


class TestWhatAWorkerServes:
    def test_every_queue_of_its_tasks_each_as_often(self, mux):
        mux.task(queue="b")(function("m", "one"))
        mux.task(queue="a")(function("m", "two"))
        assert mux.worker().options.weights == {"a": 1, "b": 1}

    def test_default_if_there_are_no_tasks(self, mux, caplog):
        assert mux.worker().options.queues == ("default",)
        assert "no tasks" in caplog.text

    def test_what_does_not_meet_is_warned_about(self, mux, caplog):
        mux.task(queue="email")(function("m", "send"))
        with caplog.at_level(logging.WARNING):
            mux.worker(["emial"])
        assert "'emial' is served, but no task uses it" in caplog.text
        assert "'email' is not served here: its tasks (m.send)" in caplog.text
        caplog.clear()
        mux.worker(["email"])
        assert caplog.text == ""
