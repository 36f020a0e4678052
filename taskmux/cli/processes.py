"""Several worker processes under one parent: restarted when they die, stopped together."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

__all__ = ["supervise"]

logger = logging.getLogger("taskmux.processes")

LONGEST_PAUSE = 30.0
HEALTHY_AFTER = 60.0


class Child:
    """One worker process, and when it may be started again."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._failures = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._not_before = 0.0

    def keep_alive(self) -> None:
        """Start it if it does not run and its pause has passed."""
        now = time.monotonic()
        if self.process is None and now >= self._not_before:
            # A session of its own: Ctrl-C reaches the parent alone, which passes it on once.
            self.process = subprocess.Popen(self._command, start_new_session=True)  # noqa: S603
            self._started = now

    def reap(self) -> int | None:
        """Return the exit code if it died; a fast death makes the next start wait longer."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        now = time.monotonic()
        self._failures = 1 if now - self._started > HEALTHY_AFTER else self._failures + 1
        pause = min(LONGEST_PAUSE, 0.25 * 2**self._failures)
        self._not_before = now + pause
        logger.error(
            "worker process %d ended with %d; restarting in %.1f s", self.process.pid, code, pause
        )
        self.process = None
        return code

    def send(self, number: int) -> None:
        """Send it a signal if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


def supervise(count: int, command: Sequence[str]) -> int:
    """Keep `count` processes running until SIGTERM or SIGINT; pass every such signal on.

    Returns:
        0 when all ended well, else 1.
    """
    children = [Child(command) for _ in range(count)]
    stopping = False
    wake = threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True
        wake.set()
        for child in children:
            child.send(signal.SIGTERM if number == signal.SIGINT else number)

    old = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not stopping:
            for child in children:
                child.reap()
                child.keep_alive()
            wake.wait(0.2)
        codes = [child.process.wait() for child in children if child.process is not None]
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    return 0 if all(code == 0 for code in codes) else 1
