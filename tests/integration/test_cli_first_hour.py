"""What somebody new meets: the wrong store, a missing module, their own logging, a closed pipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from taskmux.cli import main

APP = """
import sys
from taskmux import Fail, Taskmux

mux = Taskmux("sqlite:///mine.db")

@mux.task(name="send", queue="email")
def send(to: str) -> str:
    if to == "nobody":
        raise Fail("bad \\x1b[31mred\\x9b\\u202e")
    return to

@mux.task(name="report", queue="reports")
def report() -> None: ...
"""
OBEYED = {"\x1b", "\x9b", "\u202e", "\x07"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    return tmp_path


def environment() -> dict[str, str]:
    return {name: it for name, it in os.environ.items() if not name.startswith("TASKMUX_")}


def run(place: Path, *command: str, text: str | None = None, **more: str):
    return subprocess.run(
        [sys.executable, *command],
        cwd=place,
        env=environment() | more,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def taskmux(place: Path, *args: str, **more: str):
    return run(place, "-m", "taskmux", *args, **more)


@contextmanager
def worker(place: Path, *args: str, app: str = "app:mux", **more: str) -> Iterator[list[str]]:
    """Run a worker until the block ends; what it said is in the list then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "taskmux", "worker", app, *args],
        cwd=place,
        env=environment() | more,
        stderr=subprocess.PIPE,
        text=True,
    )
    said: list[str] = []
    try:
        for line in process.stderr:
            said.append(line)
            if " serves " in line and line.startswith("Worker"):
                break
        yield said
    finally:
        process.send_signal(signal.SIGTERM)
        said.extend(process.communicate(timeout=60)[1].splitlines(keepends=True))
    assert process.returncode == 0, said


def enqueue(place: Path, code: str) -> None:
    done = run(place, "-c", f"from app import *; {code}")
    assert done.returncode == 0, done.stderr


class TestWhichStore:
    @pytest.mark.parametrize(
        "args",
        [
            ("queue", "ls"),
            ("queue", "show", "email"),
            ("dead", "ls", "email"),
            ("job", "show", "email", "x"),
            ("job", "explain", "email", "x"),
            ("worker", "ls"),
            ("worker", "pause", "x"),
        ],
    )
    def test_looking_makes_no_file(self, place, args):
        before = set(place.iterdir())
        done = taskmux(place, *args)
        assert f"There is no file {place}/taskmux.db" in done.stderr
        done = taskmux(place, *args, "--app", "app:mux")
        assert f"Store: sqlite:///{place}/mine.db" in done.stderr
        assert f"There is no file {place}/mine.db" in done.stderr
        assert {path for path in place.iterdir() if path.name != "__pycache__"} == before

    def test_the_apps_store_is_looked_at_wherever_it_is_named(self, place):
        enqueue(place, "send.blocking.enqueue('a')")
        by_flag = taskmux(place, "queue", "ls", "--app", "app:mux")
        by_variable = taskmux(place, "queue", "ls", TASKMUX_APP="app:mux")
        (place / "pyproject.toml").write_text('[tool.taskmux]\napp = "app:mux"\n')
        by_file = taskmux(place, "queue", "ls")
        assert by_flag.stdout == by_variable.stdout == by_file.stdout
        assert "email\t0\t1\t" in by_file.stdout
        other = taskmux(place, "queue", "ls", "--url", "sqlite:///other.db")
        assert f"Store: sqlite:///{place}/other.db" in other.stderr
        assert "email" not in other.stdout

    def test_json_stays_json(self, place):
        assert taskmux(place, "queue", "ls", "--json").stdout == ""  # an object a line: none


class TestQueues:
    def test_every_queue_of_the_tasks_is_served(self, place):
        enqueue(place, "send.blocking.enqueue('a'); report.blocking.enqueue()")
        with worker(place) as said:
            assert " serves email, reports on " in said[-1]
            looked = ("queue", "ls", "--app", "app:mux", "--json")
            while True:
                rows = list(map(json.loads, taskmux(place, *looked).stdout.splitlines()))
                if all(row["counts"]["completed"] == 1 for row in rows):
                    break

    def test_what_does_not_meet_is_warned_about(self, place):
        with worker(place, "-q", "emial", "-q", "reports", "-c", "3") as said:
            pass
        text = "".join(said)
        assert "WARNING taskmux.worker: Queue 'emial' is served, but no task uses it" in text
        assert "Queue 'email' is not served here: its tasks (send) need another worker" in text
        assert "3 at once" in text


class TestHelp:
    def test_the_options_of_running_are_shown(self, place):
        done = taskmux(place, "worker", "--help")
        for words in ("-q, --queues", "-c, --concurrency", "--log-format", "Exit codes", "pause"):
            assert words in done.stdout

    def test_every_command_has_help_and_the_exit_codes_are_said(self, place):
        def walk(group: click.Group, path: tuple[str, ...] = ()):
            for name, command in group.commands.items():
                yield (*path, name), command
                if isinstance(command, click.Group):
                    yield from walk(command, (*path, name))

        assert [path for path, command in walk(main) if not command.help] == []
        assert "no such job" in taskmux(place, "--help").stdout

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (("quue", "ls"), "Did you mean 'queue'?"),
            (("queue", "lst"), "Did you mean 'ls'?"),
            (("worker", "lst"), "Did you mean 'ls'?"),
            (("queue", "ls", "--ulr", "x"), "--url"),
        ],
    )
    def test_what_was_probably_meant(self, place, args, words):
        done = taskmux(place, *args)
        assert done.returncode == 2
        assert words in done.stderr


class TestImporting:
    @pytest.mark.parametrize(
        ("name", "source", "words"),
        [
            ("sendmail_jobs", "import sendmail", "needs 'sendmail', which is not installed"),
            ("broken", "1/0", "ZeroDivisionError"),
            ("ends", "import sys; sys.exit(3)", "ended the process"),
            ("typo", "from taskmux import Taskmux\nmxu = Taskmux('memory://')", "has typo:mxu"),
            ("wrong", "from taskmux import Taskmux\nmux = Taskmux('x')", "wrong.py, line 2"),
        ],
    )
    def test_what_is_wrong_with_the_module_is_said(self, place, name, source, words):
        (place / f"{name}.py").write_text(source)
        done = taskmux(place, "worker", f"{name}:mux")
        assert done.returncode == 2
        assert words in done.stderr
        assert "There is no module" not in done.stderr
        assert "<frozen" not in done.stderr
        assert name == "typo" or f"{name}.py" in done.stderr

    def test_a_directory_without_the_module_says_what_it_has(self, place):
        done = taskmux(place, "worker", "nosuch:mux")
        assert done.returncode == 2
        assert "An app may be in: app." in done.stderr

    def test_a_files_name_is_put_right(self, place):
        assert "Write app:mux" in taskmux(place, "worker", "app.py:mux").stderr


class TestNames:
    SOURCE = """
from taskmux import Taskmux
mux = Taskmux("memory://")
@mux.task()
def send() -> None: ...
if __name__ == "__main__":
    print(send.name)
"""

    def test_a_script_has_the_name_that_a_worker_imports(self, place):
        (place / "pkg").mkdir()
        for file in ("plain.py", "pkg/jobs.py", "pkg/__main__.py", "pkg/__init__.py"):
            (place / file).write_text("" if "init" in file else self.SOURCE)
        assert run(place, "plain.py").stdout == "plain.send\n"
        assert run(place, "pkg/jobs.py").stdout == "pkg.jobs.send\n"
        assert run(place, "-m", "pkg.jobs").stdout == "pkg.jobs.send\n"
        assert run(place, "-m", "pkg").stdout == "pkg.send\n"
        assert run(place, "-", text=self.SOURCE).stdout == "main.send\n"


BASIC_CONFIG = "import logging; logging.basicConfig(format='MINE %(message)s')"
DICT_CONFIG = """
import logging.config
logging.config.dictConfig({
    "version": 1,
    "formatters": {"f": {"format": "MINE %(message)s"}},
    "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}},
    "root": {"handlers": ["h"]},
})
"""


class TestLogging:
    def test_without_the_apps_own_a_format_can_be_chosen(self, place):
        with worker(place, "-q", "x", "--log-format", "json") as said:
            pass
        line = json.loads(said[0])
        assert (line["level"], line["logger"]) == ("warning", "taskmux.worker")
        done = taskmux(place, "worker", "app:mux", TASKMUX_LOG_FORMAT="xml")
        assert done.returncode == 2
        assert "none of text, json" in done.stderr

    @pytest.mark.parametrize(
        "setup", [BASIC_CONFIG, DICT_CONFIG], ids=["basicConfig", "dictConfig"]
    )
    def test_the_apps_own_configuration_holds(self, place, setup):
        (place / "own.py").write_text(f"{setup}\nfrom app import mux\n{setup}\n")
        with worker(place, "-q", "x", app="own:mux") as said:
            pass
        warned = [line for line in said if "is served, but no task" in line]
        assert [line.startswith("MINE Queue 'x'") for line in warned] == [True]

    def test_nobody_reads_and_the_worker_works_on(self, place):
        enqueue(place, "send.options(id='late', delay='1s').blocking.enqueue('a')")
        process = subprocess.Popen(
            [sys.executable, "-m", "taskmux", "worker", "app:mux", "--log-level", "debug"],
            cwd=place,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        process.stdout.readline()
        process.stdout.close()  # as `| head -1` does
        look = ("job", "show", "email", "late", "--app", "app:mux", "--json")
        while json.loads(taskmux(place, *look).stdout)["state"] != "completed":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


class TestTerminals:
    def test_what_is_stored_is_shown_escaped_by_every_command(self, place):
        enqueue(place, "send.options(id='dead').blocking.enqueue('nobody')")
        enqueue(place, "send.options(id='odd').blocking.enqueue('\\x1b]0;x\\x07\\x9b\\u202e')")
        look = ("--app", "app:mux")
        show = ("job", "show", "email", "dead", *look, "--json")
        with worker(place):
            while json.loads(taskmux(place, *show).stdout)["state"] != "dead":
                pass
        for args in (
            ("queue", "ls"),
            ("queue", "show", "email"),
            ("dead", "ls", "email"),
            ("job", "show", "email", "dead"),
            ("job", "show", "email", "odd"),
            ("job", "explain", "email", "dead"),
        ):
            for form in ((), ("--json",)):
                done = taskmux(place, *args, *look, *form)
                assert done.returncode == 0, done.stderr
                assert not OBEYED & set(done.stdout + done.stderr), args
        assert r"bad \x1b[31mred\x9b\u202e" in taskmux(place, "dead", "ls", "email", *look).stdout

    def test_lines_in_a_pipe_are_whole(self, place):
        enqueue(place, f"send.options(id='{'i' * 200}').blocking.enqueue('nobody')")
        look = ("dead", "ls", "email", "--app", "app:mux")
        with worker(place):
            while "i" * 200 not in taskmux(place, *look, COLUMNS="40").stdout:
                pass
        header, row = taskmux(place, *look, COLUMNS="40").stdout.splitlines()
        assert len(header.split("\t")) == len(row.split("\t")) == 5


@pytest.mark.parametrize(
    "url",
    [
        "redis:///u:hunter2@h/0",
        "redis:/u:hunter2@h",
        "redis://h:hunter2",
        "redis://h?pw=hunter2",
        "redis://u:hunter2@127.0.0.1:1",
        "unix:///u:hunter2@/p",
        "unix://u:hunter2@/no/such/socket",
        "mongodb://u:hunter2/db",
        "sqlite:///u:hunter2@h/x.db",
        "nosuch://h?pw=hunter2",
    ],
)
def test_no_command_shows_a_password(place, url):
    for done in (
        taskmux(place, "queue", "ls", "--url", url),
        taskmux(place, "queue", "pause", "email", TASKMUX_URL=url),
        taskmux(place, "worker", "app:mux", "--url", url, "--lease", "soon"),
    ):
        assert done.returncode in {2, 3}
        assert "hunter2" not in done.stdout + done.stderr
