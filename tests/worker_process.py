"""A real worker process that a test sends signals to."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, Self

from taskmux import Taskmux
from taskmux.model.job import JobRecord

__all__ = ["WorkerProcess"]


class WorkerProcess:
    """A worker process on a store of its own."""

    serving = "Ctrl-C drains"
    """What it says when a test may begin."""

    def __init__(self, app: str, place: Path, *flags: str, **environment: str) -> None:
        self.place = place
        self.url = f"sqlite:///{place / 'jobs.db'}"
        (place / "app.py").write_text(textwrap.dedent(app))
        kept = {key: value for key, value in os.environ.items() if key[:8] != "TASKMUX_"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "taskmux", "worker", "app:mux", "--lease", "30s", *flags],
            cwd=place,
            env=kept | {"TASKMUX_URL": self.url, "COLUMNS": "200"} | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""

    def __enter__(self) -> Self:
        self.until(self.serving)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)
        self.process.stderr.close()

    def until(self, words: str) -> None:
        if words in " ".join(self.said.split()):
            return
        for line in self.process.stderr:
            self.said += line
            if words in " ".join(self.said.split()):
                return
        raise AssertionError(f"it ended without saying {words!r}:\n{self.said}")

    def line(self) -> None:
        """Wait for one more line."""
        line = self.process.stderr.readline()
        assert line, f"it ended:\n{self.said}"
        self.said += line

    def began(self) -> None:
        deadline = time.monotonic() + 20
        while not (self.place / "began").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def send(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            self.process.send_signal(number)

    def ended(self) -> int:
        if not self.process.stderr.closed:
            self.said += self.process.stderr.read()
        return self.process.wait(30)

    def ask(self, do: Any) -> Any:
        async def call() -> Any:
            async with Taskmux(self.url) as mux:
                return await do(mux)

        return asyncio.run(call())

    def push(self, task: str, **arguments: Any) -> None:
        self.ask(lambda mux: mux.enqueue(task, arguments, id="j"))

    def job(self) -> JobRecord:
        return self.ask(lambda mux: mux.job("default", "j").record())
