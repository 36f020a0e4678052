"""Dead letters at night: the command line in processes of its own, on real stores."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

APP = """
import asyncio
from taskmux import Context, Taskmux

mux = Taskmux()

@mux.task(name="charge", queue="billing", max_attempts=1)
async def charge(order: int, card: str = "old") -> None:
    if card == "new":
        return
    if order % 2:
        raise TimeoutError(f"no answer for order {order}")
    raise ValueError(f"card of order {order} declined")

@mux.task(name="talk")
async def talk(ctx: Context) -> None:
    await ctx.log("began \\x1b[31m")
    await asyncio.sleep(600)
"""

RUN = """
import asyncio, app, sys
async def main():
    calls = [app.charge.options(id=f"o{n}").bind(n) for n in range(int(sys.argv[1]))]
    await app.mux.enqueue_many(calls)
    async with app.mux.worker(["billing"]):
        while (await app.mux.queue("billing").counts()).unfinished:
            await asyncio.sleep(0.01)
    await app.mux.close()
asyncio.run(main())
"""

INTERRUPTED = """
import os, signal, sys
import taskmux.api.bulk as bulk
from taskmux.cli import main
from taskmux.cli.bulk import Course

pages, told = bulk.pages, Course.__call__
bulk.pages = lambda *args, **more: pages(*args, **(more | {"size": 10}))

def second(self, done, total):
    told(self, done, total)
    if done >= 20:
        os.kill(os.getpid(), signal.SIGINT)

Course.__call__ = second
main(sys.argv[1:])
"""


class Place:
    """A folder with an app, and its store."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        (folder / "app.py").write_text(APP)
        kept = {name: it for name, it in os.environ.items() if not name.startswith("TASKMUX_")}
        self.environment = kept | {"TASKMUX_URL": url, "TASKMUX_APP": "app:mux"}

    def python(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *args],
            cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    def begin(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "taskmux", *args],
            cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *args: str, code: int = 0) -> str:
        done = self.python("-m", "taskmux", *args)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def counts(self) -> dict[str, int]:
        rows = [json.loads(line) for line in self("queue", "ls", "--json").splitlines()]
        return {state: n for row in rows for state, n in row["counts"].items() if n}


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(tmp_path, f"sqlite:///{tmp_path / 'jobs.db'}")
    return Place(tmp_path, f"{request.getfixturevalue('redis_url')}?prefix=t{uuid4().hex[:12]}")


@pytest.fixture
def dead(place: Place) -> Place:
    done = place.python("-c", RUN, "30")
    assert done.returncode == 0, done.stderr
    return place


@contextmanager
def on_a_terminal(place: Place, *args: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a command on a terminal of 80 columns; give its process and the terminal's end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    plain = {name: it for name, it in place.environment.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "taskmux", *args],
        cwd=place.folder, env=plain | {"TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read(terminal: int, until: str = "\0") -> str:
    """Return what a terminal shows, up to some words or the end."""
    said = b""
    while until.encode() not in said:
        try:
            said += os.read(terminal, 65536)
        except OSError:  # its other end is closed
            break
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode()).replace("\r\n", "\n")


def test_one_way_of_failing_is_counted_and_redriven_once(dead: Place) -> None:
    stats = json.loads(dead("dead", "stats", "billing", "--json"))
    timeouts, declined = sorted(stats["groups"], key=lambda one: one["error"].rpartition(".")[2])
    assert (timeouts["count"], declined["count"]) == (15, 15)
    command = ("dead", "redrive", "billing", "--fingerprint", timeouts["fingerprint"])
    assert "Would redrive 15 jobs" in dead(*command, "--dry-run")
    assert dead(*command) == "Redrove 15 jobs of queue billing.\n"
    assert dead(*command) == "Redrove 0 jobs of queue billing.\n"
    assert dead.counts() == {"dead": 15, "waiting": 15}


def test_dead_letters_are_mended_run_again_and_purged(dead: Place) -> None:
    dead("job", "edit", "billing", "o0", "card=7", code=2)  # a text is expected
    dead("job", "edit", "billing", "o0", "card=new")
    dead("dead", "redrive", "billing", "o0", "o1", "o2")
    dead("job", "hold", "billing", "o1")
    dead("job", "cancel", "billing", "--state", "blocked", "--reason", "the customer called")
    (listed,) = dead("job", "ls", "billing", "--state", "cancelled", "--json").splitlines()
    assert json.loads(listed)["reason"] == "the customer called"
    assert dead.python("-c", RUN, "0").returncode == 0
    assert dead.counts() == {"dead": 28, "completed": 1, "cancelled": 1}
    assert "Purged 14 jobs" in dead("dead", "purge", "billing", "--error", "ValueError")
    assert dead("queue", "clean", "billing", "--older-than", "0s", "--yes").startswith("Removed 16")
    assert dead.counts() == {}


def test_enqueue_finds_the_app_and_its_store(place: Place) -> None:
    assert place("enqueue", "charge", "order=1", "--id", "a") == "billing/a\n"
    assert place("enqueue", "charge", "order=x", code=2) == ""
    assert place.counts() == {"waiting": 1}
    place("job", "rm", "billing", "a", "b", code=4)
    assert place.counts() == {}


def test_ctrl_c_in_a_bulk_verb_and_the_same_command_again(dead: Place) -> None:
    command = ("dead", "redrive", "billing", "--all")
    done = dead.python("-c", INTERRUPTED, *command)
    assert done.returncode == 130, done.stderr
    assert "Interrupted: at least 20 of 30 jobs were dealt with" in done.stderr
    assert "Traceback" not in done.stderr
    waiting = dead.counts()["waiting"]
    assert 20 <= waiting < 30
    assert dead(*command) == f"Redrove {30 - waiting} jobs of queue billing.\n"
    assert dead.counts() == {"waiting": 30}


def test_a_closed_pipe_ends_quietly(dead: Place) -> None:
    for form in ((), ("--json",)):
        process = dead.begin("job", "ls", "billing", *form)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        process.stderr.close()
        assert process.wait(60) == 0, said
        assert "Error" not in said


def test_a_log_is_followed_until_ctrl_c(place: Place) -> None:
    place("enqueue", "talk", "--id", "t")
    follow = place.begin("job", "logs", "default", "t", "--follow")
    worker = place.begin("worker", "-q", "default", "--drain", "0s")
    try:
        assert follow.stdout is not None
        assert follow.stdout.readline() == "began \\x1b[31m\n"
        follow.send_signal(signal.SIGINT)
        _, said = follow.communicate(timeout=60)
        assert (follow.returncode, "Interrupted." in said) == (130, True)
    finally:
        for process in (follow, worker):
            process.terminate()
            process.communicate(timeout=60)


def test_a_terminal_is_asked_and_80_columns_are_enough(dead: Place) -> None:
    for command in (
        ("dead", "stats", "billing"),
        ("dead", "ls", "billing"),
        ("job", "ls", "billing"),
        ("dead", "show", "billing", "o1"),
        ("queue", "ls"),
    ):
        with on_a_terminal(dead, *command) as (process, terminal):
            said = read(terminal)
            assert process.wait(60) == 0, said
        lines = re.split(r"[\r\n]", said)
        assert max(len(line) for line in lines if "Store: " not in line) <= 80, said

    with on_a_terminal(dead, "queue", "obliterate", "billing") as (process, terminal):
        assert "removes every job of queue billing" in read(terminal, "[y/N]")
        os.write(terminal, b"n\n")
        read(terminal)
        assert process.wait(60) == 1
    assert dead.counts() == {"dead": 30}
    with on_a_terminal(dead, "queue", "obliterate", "billing") as (process, terminal):
        read(terminal, "[y/N]")
        os.write(terminal, b"y\n")
        assert "Removed 30 jobs" in read(terminal)
        assert process.wait(60) == 0
    assert dead.counts() == {}
