"""A handler that closes the process's streams hurts no neighbour, and the worker drains cleanly."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap

import pytest
from taskmux import Taskmux

APP = """
import logging
import os
import sys
from taskmux import Taskmux

mux = Taskmux("sqlite:///jobs.db")

class Odd:
    def __getattr__(self, name):
        raise SystemExit(9)

def put(stream) -> None:
    sys.stdout = sys.stderr = stream

STREAMS = (sys.stdout, sys.stderr)
WAYS = {
    "closed": lambda: [one.close() for one in STREAMS],
    "descriptors closed": lambda: (print("unread", end=""), os.close(1), os.close(2)),
    "detached": lambda: [one.detach() for one in STREAMS],
    "none": lambda: put(None),
    "odd": lambda: put(Odd()),
}

@mux.task(name="closes", max_attempts=1)
async def closes(way: str) -> None:
    WAYS[way]()

@mux.task(name="neighbour", max_attempts=1)
async def neighbour() -> str:
    logging.getLogger("app").warning("it is logged as before")
    return "finished"

@mux.task(name="fails", max_attempts=1)
async def fails() -> None:
    raise ValueError("told of in the log")
"""


@pytest.mark.parametrize("way", ["closed", "descriptors closed", "detached", "none", "odd"])
def test_jobs_go_on_and_the_worker_ends_with_status_0(tmp_path, way):
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    process = subprocess.Popen(
        [sys.executable, "-m", "taskmux", "worker", "app:mux"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

    async def run() -> list[str]:
        found = []
        async with Taskmux(f"sqlite:///{tmp_path / 'jobs.db'}") as mux:
            for name, arguments in (("closes", {"way": way}), ("fails", {}), ("neighbour", {})):
                job = await mux.enqueue(name, arguments, max_attempts=1)
                async with asyncio.timeout(20):
                    while not (record := await job.record()).finished_at:
                        await asyncio.sleep(0.02)
                found.append(record.state.value)
        return found

    with process:
        try:
            assert asyncio.run(run()) == ["completed", "dead", "completed"]
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0, said.decode()
