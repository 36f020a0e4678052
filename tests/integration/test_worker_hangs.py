"""A worker process can always be stopped, whatever the app's code does or does not do."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from taskmux import Command, State
from taskmux.cli.signals import UNCLEAN
from tests.worker_process import WorkerProcess

APP = """
import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from taskmux import Taskmux
from taskmux.cli import processes, signals

signals.OVERTIME = processes.OVERTIME = float(os.environ.get("OVERTIME", "60"))
processes.SPARE = 4.0
HANG = os.environ.get("HANG", "")

def say(word: str) -> None:
    print(word, file=sys.stderr, flush=True)

async def hang(how: str) -> None:
    if how == "waits":
        await asyncio.sleep(3600)
    while how == "blocks":
        time.sleep(0.05)  # not once for long: Python can miss a signal just before it sleeps
    if how == "raises":
        raise ValueError("of the app's own")
    if how == "exits":
        raise SystemExit(9)
    if how == "is cancelled":
        raise asyncio.CancelledError
    while how == "ignores":
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
    if how == "a thread":
        threading.Thread(target=time.sleep, args=(3600,)).start()
    if how == "takes signals":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
    if how == "is deaf":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

@contextlib.asynccontextmanager
async def life(_):
    where, _, how = HANG.partition(" ")
    if where == "start":
        say("hanging")
        await hang(how)
    yield
    if where == "end":
        say("hanging")
        await hang(how)

mux = Taskmux(lifespan=life)

@mux.task(name="hangs")
async def hangs(how: str) -> None:
    say("hanging")
    await hang(how)
"""


def a_worker(place: Path, *flags: str, **environment: str) -> WorkerProcess:
    worker = WorkerProcess(APP, place, "--drain", "100ms", *flags, **environment)
    if environment.get("HANG", "").startswith("start"):
        worker.serving = "hanging"
    return worker


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request, tmp_path):
    """Choose the event loop of the worker process; without uvloop, both are of asyncio."""
    if request.param == "asyncio":
        (tmp_path / "uvloop.py").write_text("raise ModuleNotFoundError(name='uvloop')")


@pytest.mark.usefixtures("loop")
@pytest.mark.parametrize("how", ["start waits", "start blocks", "end waits", "end blocks"])
def test_a_second_signal_ends_a_worker_whose_lifespan_hangs(tmp_path, how):
    with a_worker(tmp_path, HANG=how) as worker:
        worker.send(signal.SIGTERM)
        worker.until("hanging")
        worker.until("Draining")
        worker.send(signal.SIGINT)
        assert worker.ended() == UNCLEAN
    assert "because the lifespan does not" in worker.said
    assert ("the event loop is blocked" in worker.said) is ("blocks" in how)


@pytest.mark.usefixtures("loop")
def test_a_second_signal_ends_a_worker_whose_loop_is_blocked(tmp_path):
    with a_worker(tmp_path) as worker:
        worker.push("hangs", how="blocks")
        worker.until("hanging")
        worker.send(signal.SIGTERM)
        worker.until("Draining")
        worker.send(signal.SIGTERM)
        assert worker.ended() == UNCLEAN
    assert "handlers do not end: default/j (hangs)" in worker.said
    assert "is blocked by job default/j (hangs) (" in worker.said
    assert worker.job().state is State.ACTIVE  # until its lease lapses


@pytest.mark.parametrize("how", ["start waits", "start blocks", "end waits", "end ignores"])
def test_a_stop_is_bounded_whatever_the_lifespan_does(tmp_path, how):
    with a_worker(tmp_path, HANG=how, OVERTIME="2") as worker:
        worker.send(signal.SIGTERM)
        assert worker.ended() == UNCLEAN
    assert "because the lifespan does not" in worker.said


@pytest.mark.parametrize("how", ["blocks", "a thread"])
def test_a_stop_is_bounded_whatever_a_handler_does(tmp_path, how):
    with a_worker(tmp_path, OVERTIME="3") as worker:
        worker.push("hangs", how=how)
        worker.until("hanging")
        worker.send(signal.SIGTERM)
        assert worker.ended() == UNCLEAN
    named = "handlers do not end: default/j" if how == "blocks" else "a task, a thread or"
    assert named in worker.said


@pytest.mark.usefixtures("loop")
def test_a_handler_that_takes_the_signals_away_does_not_get_them(tmp_path):
    with a_worker(tmp_path) as worker:
        worker.push("hangs", how="takes signals")

        async def done(mux):
            await mux.job("default", "j").result(timeout="20s")

        worker.ask(done)
        worker.send(signal.SIGTERM)
        worker.until("Stopped.")
        assert worker.ended() == 0


def test_a_stop_by_command_is_bounded_as_well(tmp_path):
    with a_worker(tmp_path, HANG="end waits", OVERTIME="2") as worker:

        async def stop(mux):
            (info,) = await mux.workers()
            assert await mux.tell(info.id, Command("stop"))

        worker.ask(stop)
        assert worker.ended() == UNCLEAN


@pytest.mark.parametrize("how", ["blocks", "is deaf"])
def test_a_parent_ends_with_children_that_hang(tmp_path, how):
    """One that lost its ears has to be killed."""
    with a_worker(tmp_path, "--processes", "2", OVERTIME="2") as worker:
        worker.push("hangs", how=how)
        worker.until("hanging")
        worker.send(signal.SIGTERM)
        assert worker.ended() == UNCLEAN
    assert ("is killed" in worker.said) is (how == "is deaf")


def test_a_blocked_worker_whose_parent_is_gone_ends(tmp_path):
    with a_worker(tmp_path, OVERTIME="2", TASKMUX_PARENT=str(os.getpid() + 1)) as worker:
        worker.push("hangs", how="blocks")
        assert worker.ended() in {0, UNCLEAN}
    assert "The supervising process is gone" in worker.said


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("end raises", "ValueError"),
        ("end exits", "SystemExit"),
        ("end is cancelled", "CancelledError"),
    ],
)
def test_a_lifespan_that_raises_at_its_end_is_told_of_and_the_rest_is_stopped(tmp_path, how, name):
    with a_worker(tmp_path, HANG=how) as worker:
        worker.send(signal.SIGTERM)
        assert worker.ended() == UNCLEAN
    *_, told, last = worker.said.splitlines()
    assert told == f"The lifespan raised {name} at its end; the log has its traceback."
    assert last == "Stopped."
    assert "heartbeat" not in worker.said
