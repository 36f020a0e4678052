"""What the demo says at its end. That it runs is tested with the command line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from taskmux.api.queue import Counts
from taskmux.cli import output
from taskmux.cli.demo import command
from taskmux.cli.demo.run import Course, Outcome

FOLDER = Path("/tmp") / "/".join(f"a-long-folder-{n}" for n in range(6))


def said(monkeypatch: pytest.MonkeyPatch, url: str, *, completed: int) -> str:
    """Return the summary of a demo of ten jobs on a terminal of 60 columns."""
    told = io.StringIO()
    screen = Console(file=told, force_terminal=True, width=60, color_system=None)
    for room in (output, command):
        monkeypatch.setattr(room, "console", screen)
    counts = Counts(completed=completed, waiting=10 - completed)
    outcome = Outcome(10, 1.0, counts, [], completed, 0, 0)
    course = Course(url, url, "demo-1", FOLDER)
    command._summary(command._facts(outcome, course), outcome, course)
    return told.getvalue()


def test_no_box_cuts_the_path_of_what_went_wrong(monkeypatch):
    text = said(monkeypatch, "sqlite:///x.db", completed=4)
    assert "not complete: 6 jobs unfinished" in text
    assert f"What the worker processes said: {FOLDER}/worker.log\n" in text


def test_a_complete_one_names_no_log(monkeypatch):
    text = said(monkeypatch, "sqlite:///x.db", completed=10)
    assert "every job accounted for" in text
    assert "worker.log" not in text
    assert "demo --url redis://localhost" in text


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "unix:///s", "redis+cluster://h"])
def test_on_a_redis_the_next_one_is_a_file(monkeypatch, url):
    text = said(monkeypatch, url, completed=10)
    assert "demo # the same in a file, with no server" in text
    assert "redis://localhost" not in text
