"""`taskmux events`, as a user types it: it follows, shows harmless lines, and ends cleanly."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from taskmux import Taskmux

HOSTILE = "\x1b[2J\nno server\u202e"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


def environment(url: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKMUX_")}
    return kept | {"TASKMUX_URL": url, "PYTHONUNBUFFERED": "1"} | more


@contextmanager
def following(url: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Run `taskmux events` until it follows: it does when it says which store it looks at."""
    command = [sys.executable, "-m", "taskmux", "events", *args]
    with subprocess.Popen(
        command,
        env=environment(url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


async def enqueued(url: str, *ids: str, queue: str = "email") -> str:
    """Enqueue jobs, and return the cursor before them."""
    async with Taskmux(url) as mux, mux.events(queue) as events:
        await mux.enqueue("none", queue=queue, id="first")
        cursor = (await anext(events)).cursor
        for job_id in ids:
            await mux.enqueue("none", queue=queue, id=job_id)
        return cursor


async def failed(url: str) -> str:
    """Let a job fail with a hostile message, and return the cursor before that."""
    mux = Taskmux(url)

    @mux.task(queue="email", max_attempts=1)
    async def send() -> None:
        raise ValueError(HOSTILE)

    async with mux, mux.events("email") as events:
        await mux.queue("email").pause()
        cursor = (await anext(events)).cursor
        job = await send.options(id="job").enqueue()
        await mux.queue("email").resume()
        async with mux.worker():
            async for update in job.watch():
                assert update.job.id == "job"
    return cursor


async def test_a_line_for_each_event(url):
    cursor = await enqueued(url, "a", "b")
    with following(url, "email", "--after", cursor) as process:
        told = [line.split("\t") for line in lines(process, 2)]
    assert [line[1:] for line in told] == [["added", "a"], ["added", "b"]]
    assert all(len(line[0]) == len("12:34:56.789") for line in told)


async def test_an_object_for_each_event(url):
    cursor = await enqueued(url, "a")
    with following(url, "email", "--after", cursor, "--json") as process:
        (line,) = lines(process, 1)
    told = json.loads(line)
    assert (told["kind"], told["queue"], told["id"]) == ("added", "email", "a")
    assert told["data"] == {"state": "waiting"}
    async with Taskmux(url) as mux:
        with following(url, "email", "--after", told["cursor"], "--json") as process:
            for job_id in "bc":
                await mux.enqueue("none", queue="email", id=job_id)
                assert [json.loads(line)["id"] for line in lines(process, 1)] == [job_id]


async def test_it_follows_all_queues(url):
    async with Taskmux(url) as mux:
        with following(url) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("Store: ")
            reading, number = asyncio.ensure_future(asyncio.to_thread(lines, process, 1)), 0
            while not reading.done():  # it begins a moment after it has said so
                number += 1
                await mux.enqueue("none", queue="reports", id=f"job-{number}")
            (line,) = await reading
        assert line.split("\t")[1:3] == ["reports", "added"]


async def test_hostile_text_is_shown_escaped(url):
    cursor = await failed(url)
    with following(url, "email", "--after", cursor) as process:
        told = lines(process, 4)
    assert [line.split("\t")[1] for line in told] == ["added", "resumed", "active", "dead"]
    assert "\\x1b[2J\\nno server\\u202e" in told[-1]
    assert all(line.isprintable() for line in (one.replace("\t", "") for one in told))


async def test_on_a_terminal_lines_fit(url):
    cursor = await failed(url)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "taskmux", "events", "email", "--after", cursor]
    env = environment(url, COLUMNS="60", TERM="xterm", NO_COLOR="1")
    with subprocess.Popen(
        command, env=env, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL
    ) as process:
        os.close(theirs)
        shown = b""
        while b"dead" not in shown or not shown.endswith(b"\n"):
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    os.close(ours)
    told = shown.decode().splitlines()
    assert told[-1].endswith("…")
    assert all(len(line) <= 60 for line in told)


async def test_ctrl_c_ends_it_cleanly(url):
    cursor = await enqueued(url, "a")
    with following(url, "email", "--after", cursor) as process:
        lines(process, 1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("Go on: taskmux events email --after ")


async def test_a_closed_pipe_ends_it_cleanly(url):
    cursor = await enqueued(url, "a")
    with following(url, "email", "--after", cursor) as process:
        lines(process, 1)
        assert process.stdout is not None
        process.stdout.close()
        async with Taskmux(url) as mux:
            await mux.enqueue("none", queue="email")
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("args", "said"), [(("--after", "1"), "--after needs QUEUE"), (("no queue",), "InvalidName")]
)
def test_wrong_usage(url, args, said):
    command = [sys.executable, "-m", "taskmux", "events", *args]
    done = subprocess.run(
        command, env=environment(url), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode != 0, said in done.stderr) == (True, True)
    assert "Traceback" not in done.stderr


def test_a_store_that_is_not_there(tmp_path):
    command = [sys.executable, "-m", "taskmux", "events", "--url", "redis://127.0.0.1:1"]
    done = subprocess.run(
        command, env=environment(""), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
