"""Several worker processes under one parent: restarted when they die, stopped together."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from taskmux.cli.common import STORE, USAGE
from taskmux.cli.signals import CUT_OFF, DRAINING, MOMENT
from taskmux.model.log import Log

__all__ = ["PARENT", "supervise"]

PARENT = "TASKMUX_PARENT"
"""Tells a child its parent, so that it drains when that one is gone."""

logger = Log("taskmux.processes")

LONGEST_PAUSE = 30.0
HEALTHY_AFTER = 60.0
LOOK = 0.2


class Child:
    """One worker process, and when it may be started again."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._failures = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.done = False
        self.verdict = 0
        """The exit code with which it said that it never can run."""
        self._started = 0.0
        self._not_before = 0.0

    def keep_alive(self) -> None:
        """Start it if it does not run and its pause has passed."""
        now = time.monotonic()
        if self.process is None and not self.done and now >= self._not_before:
            # A session of its own: Ctrl-C reaches the parent alone, which passes it on once.
            self.process = subprocess.Popen(  # noqa: S603 - our own command
                self._command, start_new_session=True, env=os.environ | {PARENT: str(os.getpid())}
            )
            self._started = now

    def reap(self) -> int | None:
        """Return the exit code if it died; a fast death makes the next start wait longer."""
        if self.done or self.process is None or (code := self.process.poll()) is None:
            return None
        if code in (0, CUT_OFF):  # somebody told it to stop, as `taskmux worker stop` does
            self.done = True
            return code
        now = time.monotonic()
        self._failures = 1 if now - self._started > HEALTHY_AFTER else self._failures + 1
        pause = min(LONGEST_PAUSE, 0.25 * 2**self._failures)
        self._not_before = now + pause
        logger.error(
            "worker process %d ended with %d; restarting in %.1f s", self.process.pid, code, pause
        )
        self.process = None
        return code

    def hopeless(self, code: int | None) -> bool:
        """Say whether it ended at its first start because of its usage or its store."""
        if code in (USAGE, STORE) and self._failures == 1:
            self.verdict = code
        return self.verdict != 0

    def send(self, number: int) -> None:
        """Send it a signal if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


def supervise(count: int, command: Sequence[str]) -> int:
    """Keep `count` processes running until SIGTERM, SIGINT or SIGHUP; pass every such signal on.

    One that ends well was told to by its own id, and is not started again.

    A child that finds its usage or its store wrong at its first start ends the whole: it would
    say the same for ever.

    Returns:
        0 when all ended well, else the exit code of one that did not.
    """
    children = [Child(command) for _ in range(count)]
    signals, last = 0, float("-inf")
    wake = threading.Event()

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal signals, last
        now = time.monotonic()
        if now - last >= MOMENT:  # else it is the last one's double
            signals, last = signals + 1, now
        wake.set()

    listened = [one for one in DRAINING if signal.getsignal(one) is not signal.SIG_IGN]
    old = {number: signal.signal(number, on_signal) for number in listened}
    try:
        while not signals:
            for child in children:
                if child.hopeless(child.reap()):
                    signals += 1
                if not signals:
                    child.keep_alive()
            if all(child.done for child in children):
                break
            wake.wait(LOOK)
        return _stop(children, lambda: signals, wake)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _stop(children: Sequence[Child], signals: Callable[[], int], wake: threading.Event) -> int:
    """Pass signals on, wait for all children, and return the worst exit code.

    The first is SIGTERM, which drains however often a child gets it; any more are SIGINT.
    """
    passed_on = 0
    while any(child.process is not None and child.process.poll() is None for child in children):
        if passed_on < signals():
            for child in children:
                child.send(signal.SIGINT if passed_on else signal.SIGTERM)
            passed_on += 1
        wake.clear()
        wake.wait(LOOK)
    codes = [child.verdict for child in children]
    codes += [child.process.returncode for child in children if child.process is not None]
    # One that was told to stop before it could listen ends by the signal itself.
    ended = (-signal.SIGTERM, -signal.SIGINT)
    return max((abs(code) for code in codes if code not in ended), default=0)
