"""Worker processes of the real command line, and what is done to them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from taskmux import State
from taskmux.driver import TERMINAL, Ref

from harness.journal import (
    Acked,
    Down,
    Ended,
    Entry,
    Fault,
    Journal,
    LeaseLost,
    Line,
    Settled,
    Started,
    Tail,
    Up,
)

__all__ = ["LOOK_EVERY", "QUEUE", "Fleet", "Process", "WorkerFlags", "until"]

QUEUE = "chaos"

LOOK_EVERY = 0.02
PATIENCE = 90.0
"""Seconds after which something that never happens fails the test; no test waits them out."""


async def until(what: str, happened: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait until it has happened.

    Raises:
        AssertionError: it never does.
    """
    deadline = asyncio.get_running_loop().time() + patience
    while not happened():
        assert asyncio.get_running_loop().time() < deadline, f"in {patience:g} s never: {what}"
        await asyncio.sleep(LOOK_EVERY)


class WorkerFlags(msgspec.Struct, frozen=True, kw_only=True):
    """The flags of `taskmux worker`; durations in seconds."""

    concurrency: int = 10
    lease: float = 1.5
    drain: float = 60

    def arguments(self) -> list[str]:
        """Return them as the command line has them."""
        return [
            *("--concurrency", str(self.concurrency)),
            *("--lease", f"{round(self.lease * 1000)}ms"),
            *("--drain", f"{round(self.drain * 1000)}ms"),
        ]


class Process:
    """One worker process."""

    def __init__(self, popen: subprocess.Popen[bytes], journal: Journal, output: Path) -> None:
        self._popen = popen
        self._journal = journal
        self._output = output
        self.stopped = False
        self.doomed = False
        """Killed or told to end."""

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Write down that a signal is about to be sent, and send it."""
        self._journal.write(Fault(name=number.name, pid=self.pid))
        self._popen.send_signal(number)
        match number:
            case signal.SIGSTOP:
                self.stopped = True
            case signal.SIGCONT:
                self.stopped = False
            case _:
                self.doomed = True

    async def ended(self) -> int:
        """Wait until it has ended and return its exit code."""
        await until(f"process {self.pid} ends", lambda: not self.alive)
        return self._popen.wait()

    def clean_up(self) -> None:
        """Leave nothing behind, whatever happened before."""
        if self.alive:
            self._popen.kill()
        self._popen.wait()


class Fleet:
    """The worker processes of one test on one store, and the journal as it grows."""

    def __init__(self, url: str, directory: Path, flags: WorkerFlags | None = None) -> None:
        self.url = url
        self.flags = flags or WorkerFlags()
        self.processes: list[Process] = []
        self.entries: list[Entry] = []
        self.acked: set[Ref] = set()
        self.finished: set[Ref] = set()
        """Jobs seen to reach a terminal state."""
        self._directory = directory
        self._up: set[int] = set()
        self.journal = Journal(directory / "journal")
        self._tail = Tail(self.journal.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for process in self.processes:
            process.clean_up()
            print(f"--- process {process.pid} printed:\n{process.output[-2000:]}")  # noqa: T201 - pytest shows it where a test fails
        self.journal.__exit__(kind, error, at)

    def start(self, flags: WorkerFlags | None = None) -> Process:
        """Start a worker process."""
        output = self._directory / f"worker-{len(self.processes)}"
        command = [sys.executable, "-m", "taskmux", "worker", "harness.app:mux", "--queues", QUEUE]
        command += (flags or self.flags).arguments()
        known = {"CHAOS_URL": self.url, "CHAOS_JOURNAL": str(self.journal.path)}
        known |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "200"}
        with output.open("wb") as file:
            popen = subprocess.Popen(
                command,
                cwd=self._directory,
                env=os.environ | known,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        process = Process(popen, self.journal, output)
        self.processes.append(process)
        return process

    async def started(self, count: int = 1) -> list[Process]:
        """Start worker processes and wait until they fetch."""
        processes = [self.start() for _ in range(count)]
        await self.until("the workers fetch", lambda: set(processes) <= set(self.working()))
        return processes

    def working(self) -> list[Process]:
        """Return the processes that fetch: started, alive, and left in peace."""
        return [
            process
            for process in self.processes
            if process.pid in self._up and not (process.stopped or process.doomed) and process.alive
        ]

    def look(self) -> None:
        """Read on in the journal."""
        for entry in self._tail.new():
            self.entries.append(entry)
            match entry:
                case Up():
                    self._up.add(entry.pid)
                case Down():
                    self._up.discard(entry.pid)
                case Acked():
                    self.acked.add(entry.ref)
                case Settled(to=State() as state) if state in TERMINAL:
                    self.finished.add(entry.ref)

    async def until(
        self, what: str, happened: Callable[[], bool], patience: float = PATIENCE
    ) -> None:
        """Wait until it has happened, reading the journal meanwhile.

        Raises:
            AssertionError: it never does.
        """

        def look() -> bool:
            self.look()
            return happened()

        await until(what, look, patience)

    @property
    def torn(self) -> int:
        """How many lines of the journal a kill cut short: at most the last of its process."""
        return self._tail.torn

    async def done(self, count: float) -> None:
        """Wait until so many jobs have ended."""
        await self.until(f"{count:.0f} jobs end", lambda: len(self.finished) >= count)

    def seen(self, kind: type[Line], job_id: str) -> list[Started | Ended | Settled | LeaseLost]:
        """Return the lines of one kind about one job."""
        return [
            entry
            for entry in self.entries
            if isinstance(entry, Started | Ended | Settled | LeaseLost)
            and isinstance(entry, kind)
            and entry.ref.id == job_id
        ]

    async def shut_down(self) -> list[int]:
        """Tell every process that still works to drain; return the exit codes."""
        going = [one for one in self.processes if one.alive and not one.doomed]
        await self.until("all are up", lambda: set(going) <= set(self.working()))
        for process in going:
            process.send(signal.SIGTERM)
        return [await process.ended() for process in going]
