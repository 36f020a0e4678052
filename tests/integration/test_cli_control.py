"""The commands that steer queues and workers, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

APP = """
import asyncio
from taskmux import Taskmux

mux = Taskmux()

@mux.task(name="hi", queue="email")
async def hi() -> None: ...

@mux.task(name="limited", queue="email", concurrency=3)
async def limited() -> None: ...
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKMUX_")}
    return kept | {"TASKMUX_URL": f"sqlite:///{place / 'jobs.db'}", "COLUMNS": "200"}


def taskmux(place: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "taskmux", *args],
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told(place: Path, *args: str):
    done = taskmux(place, *args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def workers(place: Path):
    done = taskmux(place, "worker", "ls", "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def enqueue(place: Path, **options: object) -> str:
    code = f"import app; print(app.hi.options(**{options!r}).blocking.enqueue().id)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


@contextmanager
def worker(place: Path, *args: str):
    """Run a worker of the real command line, up to the line that says what it serves."""
    process = subprocess.Popen(
        [sys.executable, "-m", "taskmux", "worker", "app:mux", *args],
        cwd=place,
        env=environment(place),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = ""
        while " serves " not in (line := process.stderr.readline()):
            said += line
            assert line, said
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


class TestQueues:
    def test_a_limit_is_set_shown_and_taken_away(self, place):
        done = taskmux(place, "queue", "limit", "email", "--rate", "100/m", "--concurrency", "10")
        assert done.returncode == 0
        assert "100 per 1m, burst 10" in done.stdout
        settings = told(place, "queue", "show", "email")["settings"]
        assert settings["rate"] == {"count": 100, "per": 60000, "burst": 10}
        assert told(place, "queue", "limit", "email", "--rate", "none")["settings"]["rate"] is None
        assert told(place, "queue", "show", "email")["settings"]["concurrency"] == 10

    def test_groups_and_tasks(self, place):
        every = ("--group", "*", "--concurrency", "2", "--max-waiting", "7")
        taskmux(place, "queue", "limit", "email", *every)
        taskmux(place, "queue", "pause", "email", "--group", "acme")
        with worker(place, "--queues", "email"):  # it stores what its tasks declare
            pass
        taskmux(place, "queue", "limit", "email", "--task", "limited", "--concurrency", "5")
        shown = taskmux(place, "queue", "show", "email").stdout
        for words in ("every group", "group acme", "paused", "task limited", "At most 7 jobs"):
            assert words in shown
        lines = told(place, "queue", "show", "email")["settings"]["lines"]
        assert lines["@limited"]["concurrency"] == 5

    def test_pause_and_resume(self, place):
        enqueue(place)
        assert told(place, "queue", "pause", "email")["settings"]["paused"] is True
        assert "(paused)" in taskmux(place, "queue", "ls").stdout
        assert told(place, "queue", "resume", "email")["settings"]["paused"] is False
        assert told(place, "queue", "show", "email")["counts"]["waiting"] == 1

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (("limit", "email"), "Nothing to change"),
            (("limit", "email", "--rate", "0/m"), "0/m"),
            (("limit", "email", "--concurrency", "many"), "many"),
            (("limit", "a b", "--rate", "1/s"), "queue name"),
            (("limit", "email", "--max-waiting", "5"), "every group"),
            (("pause", "email", "--task", "hi"), "own_line=True"),
            (("pause", "email", "--task", "hi", "--group", "a"), "group or a task"),
        ],
    )
    def test_what_is_wrong_is_said(self, place, args, words):
        done = taskmux(place, "queue", *args)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr


class TestExplain:
    def test_every_reason_is_named(self, place):
        taskmux(place, "queue", "pause", "email")
        job = enqueue(place, delay="1h", group="acme")
        done = taskmux(place, "job", "explain", "email", job)
        assert done.returncode == 0
        for words in ("is delayed", "delayed: It is not due before", "paused: ", "no worker: "):
            assert words in done.stdout
        reasons = told(place, "job", "explain", "email", job)["reasons"]
        assert [reason["cause"] for reason in reasons] == ["delayed", "paused", "no worker"]
        assert reasons[0]["until"] > 1_700_000_000_000

    def test_no_such_job(self, place):
        done = taskmux(place, "job", "explain", "email", "nope")
        assert done.returncode == 4
        assert "There is no job" in done.stderr


class TestWorkers:
    def test_nobody_is_there(self, place):
        assert "No live workers" in taskmux(place, "worker", "ls").stdout
        assert workers(place) == []
        done = taskmux(place, "worker", "pause", "nobody")
        assert done.returncode == 4
        assert "taskmux worker ls" in done.stderr

    def test_one_is_listed_and_stopped(self, place):
        with worker(place, "--queues", "email=3,reports=1", "--concurrency", "4") as process:
            while not (rows := workers(place)):
                continue  # a heartbeat comes each second
            (row,) = rows
            assert (row["queues"], row["concurrency"]) == (["email", "reports"], 4)
            assert "hi" in row["tasks"]
            assert row["id"] in taskmux(place, "worker", "ls").stdout
            done = taskmux(place, "worker", "concurrency", row["id"], "7")
            assert f"Told {row['id']} to run 7 handlers at once;" in done.stdout
            while workers(place)[0]["concurrency"] != 7:
                continue
            assert taskmux(place, "worker", "stop", row["id"]).returncode == 0
            assert process.wait(timeout=60) == 0
        assert workers(place) == []

    def test_one_of_several_processes_is_stopped_for_good(self, place):
        process = subprocess.Popen(
            [sys.executable, "-m", "taskmux", "worker", "app:mux", "--processes", "2"],
            cwd=place,
            env=environment(place),
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            while len(rows := workers(place)) < 2:
                continue
            for row in rows:
                assert taskmux(place, "worker", "stop", row["id"]).returncode == 0
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0
        assert "restarting" not in said

    @pytest.mark.parametrize("queues", ["email=x", "email=0", "=3", "email="])
    def test_wrong_weights_are_refused(self, place, queues):
        done = taskmux(place, "worker", "app:mux", "--queues", queues)
        assert done.returncode == 2
        assert done.stderr

    def test_a_wrong_setting_is_named(self, place):
        done = taskmux(place, "worker", "app:mux", "--concurrency", "1e9")
        assert done.returncode == 2
        assert "concurrency" in done.stderr
