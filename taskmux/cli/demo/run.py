"""The demo's course: enqueue, let worker processes run, watch until nothing is left."""

from __future__ import annotations

import asyncio
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from mailbox import Maildir
from pathlib import Path

import msgspec

from taskmux.api.call import Call
from taskmux.api.queue import Counts
from taskmux.cli.demo.app import getting_started, mux, password_reset, welcome
from taskmux.model.errors import TaskmuxError
from taskmux.model.job import JobRecord, State

__all__ = ["Course", "DemoFailed", "Outcome", "run_demo"]

DEADLINE = 14.0
UNREACHED = 4.0
"""Seconds without a word of a worker that serves, and with no job begun."""

LEASE = "1s"
PROCESSES = 2
CONCURRENCY = 6
RESETS = 4
TIPS = 5
TIP_DELAY = "2s"

Watch = Callable[[Counts, int], None]


class DemoFailed(TaskmuxError):
    """The worker processes could not be started or did not stay."""


class Course(msgspec.Struct, frozen=True):
    """Where the demo runs. `shown_url` is safe to print and to paste into a command."""

    url: str
    shown_url: str
    queue: str
    folder: Path

    @property
    def maildir(self) -> Path:
        """Where the mail goes."""
        return self.folder / "Maildir"

    @property
    def log(self) -> Path:
        """What the worker processes said."""
        return self.folder / "worker.log"


class Outcome(msgspec.Struct):
    """What happened, read back from the store and the Maildir."""

    enqueued: int
    seconds: float
    counts: Counts
    finished: list[JobRecord]
    mails: int
    duplicates: int
    crashed_workers: int

    @property
    def complete(self) -> bool:
        """Whether every job ended, and every completed one delivered its mail."""
        done = self.counts.completed
        return self.counts.total == self.enqueued == done + self.counts.dead and self.mails == done


async def run_demo(course: Course, watch: Watch) -> Outcome:
    """Run the demo; `watch` is called with the counts about ten times a second.

    Raises:
        DemoFailed: the worker processes ended by themselves, or see nothing of the jobs.
        StoreError: the store cannot be reached or does not fit.
    """
    Maildir(str(course.maildir), create=True)
    queue = mux.queue(course.queue)
    async with mux:
        calls = _calls(course)
        await mux.enqueue_many(calls)
        watch(await queue.counts(), len(calls))
        began = time.monotonic()
        with _worker_processes(course) as process:
            while (counts := await queue.counts()).unfinished:
                watch(counts, len(calls))
                if process.poll() is not None:
                    raise DemoFailed(
                        f"The worker processes ended early; {course.log} says why:\n{_tail(course)}"
                    )
                if time.monotonic() - began > DEADLINE:
                    break
                if counts.waiting + counts.delayed == len(calls):
                    _check_that_others_see(course)
                await asyncio.sleep(0.1)
            watch(counts, len(calls))
        seconds = time.monotonic() - began
        finished = [job async for job in queue.jobs(State.COMPLETED)]
        finished += [job async for job in queue.jobs(State.DEAD)]
        counts = await queue.counts()
    ids = [str(mail["Message-ID"]) for mail in Maildir(str(course.maildir))]
    crashes = course.log.read_text(encoding="utf-8", errors="replace").count(" ended with ")
    return Outcome(
        enqueued=len(calls),
        seconds=seconds,
        counts=counts,
        finished=finished,
        mails=len(set(ids)),
        duplicates=len(ids) - len(set(ids)),
        crashed_workers=crashes,
    )


def _check_that_others_see(course: Course) -> None:
    """Give up on a store whose contents its own process alone can see.

    Raises:
        DemoFailed: a worker has served for a while, and has begun none of the jobs.
    """
    if "serves" in _tail(course) and time.time() - course.log.stat().st_mtime > UNREACHED:
        raise DemoFailed(
            f"The worker processes serve queue {course.queue}, but see none of its jobs: what one "
            f"process stores in {course.shown_url} is hidden from the others. The demo needs a "
            f"store that several processes share; without --url it takes a file."
        )


def _calls(course: Course) -> list[Call[str]]:
    """Return the calls in the order in which they are enqueued: the urgent ones come last."""
    text = files(__package__).joinpath("signups.csv").read_text(encoding="utf-8")
    signups = list(csv.DictReader(text.splitlines()))
    maildir, queue = str(course.maildir), course.queue
    welcomes = welcome.options(queue=queue)
    tips = getting_started.options(queue=queue, delay=TIP_DELAY)
    resets = password_reset.options(queue=queue)
    calls = [welcomes.bind(maildir, **row) for row in signups]
    calls += [tips.bind(maildir, row["email"]) for row in signups[:TIPS]]
    calls += [resets.bind(maildir, row["email"]) for row in signups[:RESETS]]
    return calls


@contextmanager
def _worker_processes(course: Course) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "taskmux", "worker", "taskmux.cli.demo.app:mux"]
    command += ["--queues", course.queue, "--processes", str(PROCESSES), "--lease", LEASE]
    command += ["--concurrency", str(CONCURRENCY), "--drain", "2s"]
    # The URL travels in the environment: a command line is there for everybody to read.
    environment = os.environ | {"TASKMUX_URL": course.url}
    with course.log.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)  # the second ends the wait
                process.wait(10)


def _tail(course: Course) -> str:
    return course.log.read_text(encoding="utf-8", errors="replace")[-1500:]
