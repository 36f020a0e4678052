"""The command line, as a user types it: in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from taskmux.cli.demo import run as demo

APP = """
import asyncio
from taskmux import Taskmux, Fail

mux = Taskmux()

@mux.task(name="add")
async def add(a: int, b: int) -> int:
    return a + b

@mux.task(name="doomed")
async def doomed() -> None:
    raise Fail("no such user")

@mux.task(name="long")
async def long(seconds: float) -> None:
    print("began", flush=True)
    await asyncio.sleep(seconds)
    print("ended", flush=True)

@mux.task(name="stubborn")
async def stubborn() -> None:
    print("began", flush=True)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("ignored", flush=True)

@mux.task(name="thread")
def thread() -> None:
    import time
    print("began", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKMUX_")}
    return kept | {"TASKMUX_URL": f"sqlite:///{place / 'jobs.db'}", "COLUMNS": "200"}


def taskmux(place: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "taskmux", *args],
        cwd=place,
        env=environment(place) | more,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def python(place: Path, code: str) -> str:
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


class WorkerProcess:
    """`taskmux worker`, and what it says."""

    def __init__(self, place: Path, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "taskmux", "worker", "app:mux", *args],
            cwd=place,
            env=environment(place),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""

    def __enter__(self):
        self.until("Ctrl-C drains")
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self.process.stdout.close()

    def until(self, words: str) -> None:
        for line in self.process.stdout:
            self.said += line
            if words in " ".join(self.said.split()):
                return
        raise AssertionError(f"it ended without saying {words!r}:\n{self.said}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self, within: float) -> int:
        code = self.process.wait(within)
        self.said += self.process.stdout.read()
        return code


def state(place: Path, job_id: str) -> dict:
    shown = taskmux(place, "job", "show", "default", job_id, "--json")
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


def wait_for(place: Path, job_id: str, wanted: str) -> dict:
    deadline = time.monotonic() + 30
    while (job := state(place, job_id))["state"] != wanted:
        assert time.monotonic() < deadline, job
    return job


def test_demo_ends_with_every_job_accounted_for(tmp_path):
    done = taskmux(tmp_path, "demo", "--dir", str(tmp_path / "demo"), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary["complete"] is True
    assert summary["enqueued"] == 105
    assert summary["delivered"] == 102
    assert summary["retried"] == 8
    assert sorted(letter["to"].split("@")[1] for letter in summary["dead"]) == [
        "crash.example",
        "nowhere.example",
        "nowhere.example",
    ]
    assert max(summary["urgent_ranks"]) <= 12  # the lanes of two processes, begun at once
    assert summary["worker_processes_lost"] >= 2
    assert all(late >= 0 for late in summary["delayed_ms_after_due"])


def test_the_demo_refuses_a_store_that_only_one_process_sees(tmp_path):
    done = taskmux(tmp_path, "demo", "--dir", str(tmp_path / "demo"), "--url", "memory://")
    assert done.returncode == 2
    assert "seen by one process alone" in done.stderr
    assert "--url redis://localhost" in done.stderr
    assert not (tmp_path / "demo").exists()


async def test_the_demo_says_when_worker_processes_see_none_of_the_jobs(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "UNREACHED", 0.5)
    monkeypatch.setattr(demo, "DEADLINE", 120.0)
    demo.mux.use("memory://as-any-store-without-a-second-process")
    course = demo.Course("memory://", "memory://", "demo-1", tmp_path)
    with pytest.raises(demo.DemoFailed, match="see none of its jobs"):
        await demo.run_demo(course, lambda *_: None)


def test_a_worker_on_a_store_of_its_own_process_says_so(place):
    (place / "alone.py").write_text(
        "import os, signal, threading\n"
        "from taskmux import Taskmux, hookimpl\n"
        "class Ending:\n"
        "    @hookimpl\n"
        "    def taskmux_worker_started(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "mux = Taskmux('memory://', plugins=[Ending()])\n"
    )
    done = taskmux(place, "worker", "alone:mux", "-q", "default")
    assert done.returncode == 0
    assert "What is in memory:// is seen by this process alone" in done.stderr
    done = taskmux(
        place, "worker", "alone:mux", "-q", "default", "--url", f"sqlite:///{place}/a.db"
    )
    assert "this process alone" not in done.stderr


@pytest.mark.parametrize(
    "typed", [("-A", "app", "worker"), ("worker", "-A", "app"), ("worker", "-q", "a", "-A", "app")]
)
def test_the_flag_of_celery_says_where_the_app_goes(place, typed):
    done = taskmux(place, *typed)
    assert done.returncode == 2
    assert "taskmux worker app:mux" in done.stderr


def test_the_sentinel_driver_is_ready_where_redis_is(place):
    rows = [json.loads(line) for line in taskmux(place, "drivers", "--json").stdout.splitlines()]
    ready = {row["scheme"]: row["ready"] for row in rows}
    assert ready["redis+sentinel"] == ready["redis"] == "yes"


def test_jobs_travel_from_one_process_to_another_and_can_be_looked_at(place):
    job_id = python(
        place,
        "import app; h = app.add.blocking.enqueue(1, 2);"
        "app.doomed.options(id='d1').blocking.enqueue(); print(h.id)",
    )
    with WorkerProcess(place) as worker:
        job = wait_for(place, job_id, "completed")
        assert job["result"] == 3
        assert job["payload"] == {"a": 1, "b": 2}
        dead = wait_for(place, "d1", "dead")
        assert "no such user" in dead["reason"]
        worker.signal(signal.SIGTERM)
        assert worker.ends(within=20) == 0

    listed = taskmux(place, "queue", "ls", "--json")
    (counts,) = (json.loads(line)["counts"] for line in listed.stdout.splitlines())
    assert counts | {"completed": 1, "dead": 1} == counts
    assert "default" in taskmux(place, "queue", "ls").stdout
    letters = taskmux(place, "dead", "ls", "default")
    assert "d1" in letters.stdout
    assert "no such user" in letters.stdout
    for most, status in ((0, 6), (1, 0)):
        alert = taskmux(place, "dead", "ls", "default", "--exit-code-if-more-than", str(most))
        assert (alert.returncode, "d1" in alert.stdout) == (status, True)
        assert ("1 dead jobs, more than 0" in alert.stderr) is (status == 6)
    quiet = taskmux(place, "dead", "ls", "other", "--exit-code-if-more-than", "0", "--json")
    assert (quiet.returncode, quiet.stdout) == (0, "")
    meant = ("--error", "ValueError", "--exit-code-if-more-than", "0")
    assert taskmux(place, "dead", "ls", "default", *meant).returncode == 0
    shown = taskmux(place, "job", "show", "default", "d1")
    assert "taskmux.Fail" in shown.stdout


def test_first_signal_drains(place):
    python(place, "import app; app.long.options(id='l').blocking.enqueue(1.0)")
    with WorkerProcess(place) as worker:
        worker.until("began")
        worker.signal(signal.SIGINT)
        assert worker.ends(within=20) == 0
        assert "ended" in worker.said
    assert state(place, "l")["state"] == "completed"


def test_second_signal_gives_running_jobs_back(place):
    python(place, "import app; app.long.options(id='l').blocking.enqueue(300)")
    with WorkerProcess(place) as worker:
        worker.until("began")
        worker.signal(signal.SIGINT)
        worker.until("Once more")
        worker.signal(signal.SIGINT)
        assert worker.ends(within=20) == 0
    job = state(place, "l")
    assert job["state"] == "waiting"
    assert job.get("attempts", 0) == 0


@pytest.mark.parametrize("task", ["stubborn", "thread"])
def test_handlers_that_cannot_be_stopped_do_not_keep_the_process(place, task):
    python(place, f"import app; app.{task}.options(id='s').blocking.enqueue()")
    with WorkerProcess(place, "--lease", "1s") as worker:
        worker.until("began")
        worker.signal(signal.SIGTERM)
        worker.until("Once more")
        worker.signal(signal.SIGTERM)
        assert worker.ends(within=30) == 0
    assert state(place, "s")["state"] == "active"  # its lease lapses: it was not run twice


def test_processes_are_restarted_and_stopped_together(place):
    with WorkerProcess(place, "--processes", "2") as worker:
        worker.until("Ctrl-C drains. Worker")
        worker.signal(signal.SIGTERM)
        assert worker.ends(within=30) == 0


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["queue", "ls", "--url", "nosuch://x"], 2, "No installed driver serves nosuch://"),
        (["queue", "ls", "--url", "sqlit:///x.db"], 2, "Did you mean sqlite://"),
        (["queue", "ls", "--url", "nonsense"], 2, "is not a backend URL"),
        (["queue", "ls", "--url", "sqlite:////no/such/folder/x.db"], 3, "/no/such/folder"),
        (["job", "show", "default", "nobody"], 4, "There is no job default/nobody"),
        (["job", "show", "de fault", "x"], 2, "is not a queue name"),
        (["worker"], 2, "Name the app"),
        (["worker", "nosuch:mux"], 2, "There is no module 'nosuch'"),
        (["worker", "app:nothing"], 2, "is missing"),
        (["worker", "app"], 2, "module:variable"),
        (["worker", "app:mux", "--lease", "soon"], 2, "is not a duration"),
        (["worker", "app:mux", "--concurrency", "0"], 2, "not a number from 1"),
        (["worker", "app:mux", "--queues", "a b"], 2, "is not a queue name"),
    ],
)
def test_wrong_usage_says_what_to_do(place, args, code, words):
    done = taskmux(place, *args)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_settings_from_the_environment(place):
    done = taskmux(place, "worker", "app:mux", TASKMUX_LEASE="soon")
    assert done.returncode == 2
    assert "'soon' is not a duration" in done.stderr


def test_drivers_are_listed_with_capabilities(place):
    lines = map(json.loads, taskmux(place, "drivers", "--json").stdout.splitlines())
    rows = {row["scheme"]: row for row in lines}
    assert "presence" in rows["sqlite"]["capabilities"]
    assert rows["memory"]["ready"] == "yes"


def test_passwords_are_not_shown(place):
    done = taskmux(place, "queue", "ls", "--url", "nosuch://me:hunter2@host/")
    assert "hunter2" not in done.stdout + done.stderr
