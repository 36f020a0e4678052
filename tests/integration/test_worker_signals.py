"""Signals of a worker process, as operators, terminals and supervisors send them."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from taskmux import State, Taskmux
from taskmux.cli.signals import CUT_OFF
from taskmux.model.job import JobRecord
from tests.worker_process import WorkerProcess

APP = """
import asyncio
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from contextlib import asynccontextmanager
from taskmux import Context, Taskmux

@asynccontextmanager
async def lifespan(_mux):
    if "BROKEN" in os.environ:
        raise OSError("there is no database")
    yield

mux = Taskmux(lifespan=lifespan)

@mux.task(name="exits")
async def exits(code: int) -> None:
    os._exit(code)

@mux.task(name="faults")
async def faults() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)

@mux.task(name="long")
async def long(seconds: float) -> str:
    Path("began").touch()
    await asyncio.sleep(seconds)
    return "finished"

def child(pipe) -> None:
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    pipe.send([str(signal.getsignal(getattr(signal, name))) for name in names])
    pipe.send(signal.set_wakeup_fd(-1))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

def forks() -> list:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(there,))
    process.start()
    handlers, descriptor = here.recv(), here.recv()
    process.join()
    return [handlers, descriptor, process.exitcode]

async def leave() -> None:
    raise SystemExit(0)

ILL = {
    "a child task that exits": lambda: asyncio.get_running_loop().create_task(leave()),
    "a callback that exits": lambda: asyncio.get_running_loop().call_soon(sys.exit, 0),
    "a stopped loop": lambda: asyncio.get_running_loop().stop(),
    "every task cancelled": lambda: [one.cancel() for one in asyncio.all_tasks()],
}

@mux.task(name="ill", max_attempts=1)
async def ill(what: str) -> None:
    ILL[what]()

@mux.task(name="strays", max_attempts=1)
async def strays() -> str:
    pid = os.fork()
    if pid == 0:
        raise SystemExit(7)
    return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

@mux.task(name="strays_in_a_thread", max_attempts=1)
def strays_in_a_thread() -> str:
    pid = os.fork()
    if pid == 0:
        raise ValueError("of the child's own")
    return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

def note(what: str) -> None:
    with Path("notes").open("a") as notes:
        notes.write(what + chr(10))

stepping = 0

@mux.task(name="steps")
async def steps() -> None:
    global stepping
    stepping += 1
    for _ in range(500):
        await asyncio.sleep(0)
    note(f"stepped in {os.getpid()}")

async def fork(how: str) -> None:
    pid = os.fork()
    if pid == 0:
        for _ in range(2000):
            await asyncio.sleep(0)
        if how == "for the loop":
            await asyncio.sleep(0.01)
        raise SystemExit(7)
    note(f"status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")

@mux.task(name="strays_and_waits", max_attempts=1)
async def strays_and_waits(how: str) -> None:
    await mux.enqueue_many([steps.bind() for _ in range(20)])
    while not stepping:
        await asyncio.sleep(0)
    await (asyncio.create_task(fork(how)) if how == "in a task" else fork(how))

@mux.task(name="blocks", max_attempts=1)
async def blocks(ctx: Context) -> None:
    ctx.blocking.log("here it would wait for itself")

@mux.task(name="forks")
async def forks_in_the_loop() -> list:
    return forks()

@mux.task(name="forks_in_a_thread")
def forks_in_a_thread() -> list:
    return forks()
"""


def Worker(place: Path, *flags: str, **environment: str) -> WorkerProcess:
    return WorkerProcess(APP, place, *flags, **environment)


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGTERM, signal.SIGTERM],
        [signal.SIGINT, signal.SIGINT],
        [signal.SIGINT, signal.SIGTERM],
        [signal.SIGHUP],
    ],
    ids=lambda numbers: "+".join(number.name for number in numbers),
)
def test_signals_of_one_moment_are_one_and_drain(tmp_path, numbers):
    with Worker(tmp_path) as worker:
        worker.push("long", seconds=1.0)
        worker.began()
        worker.send(*numbers)
        assert worker.ended() == 0
    record = worker.job()
    assert (record.state, record.result) == (State.COMPLETED, b'"finished"')


def test_a_supervised_worker_drains_however_often_it_is_told(tmp_path):
    with Worker(tmp_path, TASKMUX_PARENT=str(os.getpid())) as worker:
        worker.push("long", seconds=1.5)
        worker.began()
        worker.send(signal.SIGTERM)
        worker.until("Draining")  # the moment of doubles is over
        worker.send(signal.SIGTERM)
        assert worker.ended() == 0
    assert worker.job().state is State.COMPLETED


def test_a_supervised_worker_stops_at_once_when_its_parent_says_so(tmp_path):
    with Worker(tmp_path, TASKMUX_PARENT=str(os.getpid())) as worker:
        worker.push("long", seconds=300)
        worker.began()
        worker.send(signal.SIGTERM)
        worker.until("Draining")
        worker.send(signal.SIGINT)
        assert worker.ended() == 0
    assert worker.job().state is State.WAITING


def test_a_drain_survives_a_terminal_that_is_gone(tmp_path):
    with Worker(tmp_path) as worker:
        worker.push("long", seconds=1.0)
        worker.began()
        worker.process.stderr.close()  # as of `taskmux worker | tee log` after Ctrl-C
        worker.send(signal.SIGINT)
        assert worker.ended() == 0
    record = worker.job()
    assert (record.state, record.attempts, record.crashes) == (State.COMPLETED, 1, 0)


def test_a_handler_that_is_cut_off_is_named_and_shows_in_the_exit_status(tmp_path):
    with Worker(tmp_path, "--drain", "100ms") as worker:
        worker.push("long", seconds=300)
        worker.began()
        worker.send(signal.SIGTERM)
        assert worker.ended() == CUT_OFF
    assert "Handlers were stopped at the drain deadline: default/j." in worker.said
    record = worker.job()
    assert (record.state, record.attempts, record.crashes) == (State.WAITING, 0, 0)


def test_a_parent_passes_that_status_on_and_starts_nothing_again(tmp_path):
    with Worker(tmp_path, "--drain", "100ms", "--processes", "2") as worker:
        worker.push("long", seconds=300)
        worker.began()
        worker.send(signal.SIGTERM, signal.SIGTERM)
        assert worker.ended() == CUT_OFF
    assert worker.job().state is State.WAITING


@pytest.mark.parametrize("code", [0, 1, 2, 3, CUT_OFF])
def test_a_process_that_nobody_told_to_end_is_started_again_whatever_its_status(tmp_path, code):
    with Worker(tmp_path, "--processes", "2") as worker:
        worker.push("exits", code=code)
        worker.until(f"ended with {code} and was not told to; restarting in 0.5 s")
        while worker.said.count("Ctrl-C drains") < 3:
            worker.line()
        worker.send(signal.SIGTERM)
        assert worker.ended() == 0
    assert worker.said.count("Stopped.") == 2
    assert worker.job().state is State.ACTIVE  # until its lease lapses


@pytest.mark.parametrize(
    ("environment", "code", "words"),
    [
        ({"TASKMUX_URL": "sqlite:////no/such/folder/jobs.db"}, 3, "/no/such/folder"),
        ({"BROKEN": "yes"}, 1, "there is no database"),
    ],
)
def test_processes_that_cannot_work_at_all_end_the_command(tmp_path, environment, code, words):
    worker = Worker(tmp_path, "--processes", "2", **environment)
    assert worker.ended() == code
    worker.process.stderr.close()
    assert words in worker.said
    assert f"ended with {code} and never worked" in worker.said
    assert "restarting" not in worker.said


def test_a_process_that_a_signal_kills_says_where_it_was(tmp_path):
    with Worker(tmp_path) as worker:
        worker.push("faults")
        assert worker.ended() == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in worker.said
    assert "in faults" in worker.said


@pytest.mark.parametrize("task", ["forks", "forks_in_a_thread"])
def test_a_handlers_child_has_default_signals_and_none_of_our_descriptors(tmp_path, task):
    with Worker(tmp_path) as worker:
        worker.push(task)

        async def result(mux: Taskmux) -> Any:
            return await mux.job("default", "j").result(timeout="20s")

        handlers, descriptor, code = worker.ask(result)
        assert handlers[0].startswith("<built-in function default_int_handler>")
        assert handlers[1:] == ["0", "0"]  # SIG_DFL
        assert descriptor == -1
        assert code == -signal.SIGTERM  # its signal ended it, and did not drain the worker

        async def another(mux: Taskmux) -> Any:
            job = await mux.enqueue("long", {"seconds": 0.0})
            return await job.result(timeout="20s")

        assert worker.ask(another) == "finished"
        worker.send(signal.SIGTERM)
        assert worker.ended() == 0


def after(worker: WorkerProcess, *tasks: tuple[str, dict[str, Any]]) -> list[JobRecord]:
    """Return what became of jobs that ran one after the other, the last one an innocent."""

    async def each(mux: Taskmux) -> list[JobRecord]:
        found = []
        for name, arguments in [*tasks, ("long", {"seconds": 0.0})]:
            job = await mux.enqueue(name, arguments, max_attempts=1)
            async with asyncio.timeout(30):
                while not (record := await job.record()).finished_at:
                    await asyncio.sleep(0.05)
            found.append(record)
        return found

    return worker.ask(each)


@pytest.mark.parametrize(
    "what",
    ["a child task that exits", "a callback that exits", "a stopped loop", "every task cancelled"],
)
def test_what_a_handler_does_to_the_loop_ends_no_worker(tmp_path, what):
    with Worker(tmp_path) as worker:
        worker.push("long", seconds=3.0)
        worker.began()
        (_, innocent) = after(worker, ("ill", {"what": what}))
        assert (innocent.state, innocent.result) == (State.COMPLETED, b'"finished"')
        worker.send(signal.SIGTERM)
        assert worker.ended() == 0
    neighbour = worker.job()
    assert (neighbour.attempts, neighbour.crashes) in {(1, 0), (0, 0)}
    assert neighbour.state is not State.DEAD


@pytest.mark.parametrize(("task", "status"), [("strays", b'"7"'), ("strays_in_a_thread", b'"1"')])
def test_a_forked_child_that_comes_back_is_no_second_worker(tmp_path, task, status):
    with Worker(tmp_path) as worker:
        strayed, innocent = after(worker, (task, {}))
        assert strayed.result == status
        assert innocent.state is State.COMPLETED
        worker.send(signal.SIGTERM)
        assert worker.ended() == 0


@pytest.mark.parametrize(
    ("how", "status"), [("for nothing", 7), ("for the loop", 1), ("in a task", 1)]
)
def test_a_forked_child_that_waits_runs_nobody_elses_steps(tmp_path, how, status):
    with Worker(tmp_path) as worker:
        strayed, _ = after(worker, ("strays_and_waits", {"how": how}))
        assert strayed.state is State.COMPLETED

        async def all_done(mux: Taskmux) -> None:
            while (await mux.queue("default").counts()).unfinished:
                await asyncio.sleep(0.05)

        worker.ask(all_done)
        worker.send(signal.SIGTERM)
        assert worker.ended() == 0
    *steps, last = sorted((tmp_path / "notes").read_text().splitlines(), reverse=True)
    assert (len(steps), set(steps)) == (20, {f"stepped in {worker.process.pid}"})
    assert last == f"status {status}"
    *_, last = worker.said.splitlines()
    assert (last, worker.said.count("Stopped.")) == ("Stopped.", 1)
    assert "ERROR" not in worker.said
    assert "WARNING" not in worker.said


def test_a_blocking_verb_in_the_loop_is_an_error_and_blocks_nothing(tmp_path):
    with Worker(tmp_path) as worker:
        wrong, innocent = after(worker, ("blocks", {}))
        assert wrong.state is State.DEAD
        assert "Await it" in wrong.error.message
        assert innocent.state is State.COMPLETED
        worker.send(signal.SIGTERM)
        assert worker.ended() == 0
