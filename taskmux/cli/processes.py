"""Several worker processes under one parent: restarted when they die, stopped together."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import subprocess
import time
from collections.abc import Sequence

from taskmux.cli.common import FAILED
from taskmux.cli.signals import DRAINING, MOMENT, OVERTIME, UNCLEAN
from taskmux.config import PARENT, PARENT_PIPE, take_parent_pipe
from taskmux.model.log import Log

__all__ = ["Reports", "supervise"]

logger = Log("taskmux.processes")

LONGEST_PAUSE = 30.0
HEALTHY_AFTER = 60.0
LOOK = 0.2
SPARE = 5.0
"""Seconds that a child may take to end by itself after its own time is over."""
AT_ONCE = 2.0
"""Seconds that children have after a third signal, which ends them at once."""


SERVES, TOLD = b"s", b"t"


class Reports:
    """What a worker process tells the parent that supervises it, if there is one.

    How a process ended does not show whether anybody wanted that: a handler may end it with any
    status.
    """

    def __init__(self) -> None:
        self._pipe = take_parent_pipe()
        if self._pipe is not None:
            os.set_inheritable(self._pipe, False)  # noqa: FBT003 - by place alone

    def serves(self) -> None:
        """It works, and no handler has run yet."""
        self._write(SERVES)

    def told(self) -> None:
        """It was told to stop, and drains."""
        self._write(TOLD)

    def _write(self, word: bytes) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # the parent is gone
                os.write(self._pipe, word)


class Child:
    """One worker process, and when it may be started again."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._failures = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.served = False
        """Whether one of its processes ever worked."""
        self.done = False
        """Whether it was told to stop, and has ended."""
        self.verdict: int | None = None
        """What it is to be counted as: it said that it never can run, or had to be killed."""
        self._told = False
        self._pipe = -1
        self._started = 0.0
        self._not_before = 0.0

    def keep_alive(self) -> None:
        """Start it if it does not run and its pause has passed."""
        now = time.monotonic()
        if self.process is None and not self.done and now >= self._not_before:
            self._pipe, theirs = os.pipe()
            os.set_blocking(self._pipe, False)
            # A session of its own: Ctrl-C reaches the parent alone, which passes it on once.
            self.process = subprocess.Popen(  # noqa: S603 - our own command
                self._command,
                start_new_session=True,
                pass_fds=[theirs],
                env=os.environ | {PARENT: str(os.getpid()), PARENT_PIPE: str(theirs)},
            )
            os.close(theirs)
            self._started = now

    def listen(self) -> None:
        """Take in what it reports."""
        if self.process is not None and not self.done:
            with contextlib.suppress(BlockingIOError):
                words = os.read(self._pipe, 16)
                self.served = self.served or SERVES in words
                self._told = self._told or TOLD in words

    def reap(self, *, can_work: bool) -> None:
        """See whether it died; a fast death makes the next start wait longer.

        Args:
            can_work: whether any process of this command ever worked. If none did, one that ends
                by itself would say the same at every start.
        """
        if self.done or self.process is None or (code := self.process.poll()) is None:
            return
        self.listen()
        os.close(self._pipe)
        if self._told:
            self.done = True
            return
        if code >= 0 and not can_work and not self.served:
            logger.error("worker process %d ended with %d and never worked", self.process.pid, code)
            self.done, self.verdict = True, code or FAILED
            return
        now = time.monotonic()
        self._failures = 1 if now - self._started > HEALTHY_AFTER else self._failures + 1
        pause = min(LONGEST_PAUSE, 0.25 * 2**self._failures)
        self._not_before = now + pause
        logger.error(
            "worker process %d ended with %d and was not told to; restarting in %.1f s",
            self.process.pid,
            code,
            pause,
        )
        self.process = None

    @property
    def running(self) -> bool:
        """Whether there is a process now."""
        return self.process is not None and self.process.poll() is None

    @property
    def code(self) -> int:
        """The status that its process ended with; 0 where there is none."""
        return 0 if self.process is None else self.process.returncode or 0

    def send(self, number: int) -> None:
        """Send it a signal if it runs."""
        if self.process is not None and self.running:
            self.process.send_signal(number)


class Told:
    """The signals that the parent got. Its handler does nothing that can fail or wait."""

    def __init__(self) -> None:
        self.count = 0
        self.last = -math.inf
        self._heard: queue.SimpleQueue[float] = queue.SimpleQueue()

    def hear(self, _number: int, _frame: object) -> None:
        """Handle a signal."""
        self._heard.put(time.monotonic())

    def wait(self) -> None:
        """Wait a little, or until the next signal; count it unless it is the last one's double."""
        try:
            at = self._heard.get(timeout=LOOK)
        except queue.Empty:
            return
        if at - self.last >= MOMENT:
            self.count, self.last = self.count + 1, at


def supervise(count: int, command: Sequence[str], drain: float) -> int:
    """Keep `count` processes running until SIGTERM, SIGINT or SIGHUP; pass every such signal on.

    One that was told to stop by its own id is not started again; any other is, whatever its exit
    code. A child that ends by itself before any has worked ends the whole: its usage or its store
    is wrong, and it would say the same for ever.

    Args:
        count: how many.
        command: what each of them runs.
        drain: seconds that handlers may take when they are told to stop.

    Returns:
        0 when all ended well, else the exit code of one that did not.
    """
    children = [Child(command) for _ in range(count)]
    told = Told()
    listened = [one for one in DRAINING if signal.getsignal(one) is not signal.SIG_IGN]
    old = {number: signal.signal(number, told.hear) for number in listened}
    try:
        while not told.count:
            for child in children:
                child.listen()
            can_work = any(child.served for child in children)
            for child in children:
                child.reap(can_work=can_work)
                if child.verdict is not None:
                    told.count, told.last = 1, time.monotonic()
                if not told.count:
                    child.keep_alive()
            if all(child.done for child in children):
                break
            told.wait()
        return _stop(children, told, drain)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _stop(children: Sequence[Child], told: Told, drain: float) -> int:
    """Pass signals on, wait for all children, and return the worst exit code.

    The first is SIGTERM, which drains however often a child gets it; any more are SIGINT. A child
    that does not end in its time is killed.
    """
    passed_on, deadline = 0, math.inf
    while any(child.running for child in children):
        if passed_on < told.count:
            for child in children:
                child.send(signal.SIGINT if passed_on else signal.SIGTERM)
            limit = (drain + OVERTIME + SPARE, OVERTIME + SPARE, AT_ONCE)[min(passed_on, 2)]
            passed_on += 1
            deadline = min(deadline, time.monotonic() + limit)
        if time.monotonic() >= deadline:
            _kill(children)
            deadline = math.inf
        told.wait()
    codes = [child.code if child.verdict is None else child.verdict for child in children]
    # One that was told to stop before it could listen ends by the signal itself.
    ended = (-signal.SIGTERM, -signal.SIGINT)
    return max((abs(code) for code in codes if code not in ended), default=0)


def _kill(children: Sequence[Child]) -> None:
    for child in children:
        if child.running and child.process is not None:
            child.verdict = UNCLEAN
            child.process.kill()
            logger.error(
                "worker process %d did not end in its time and is killed: its jobs are claimed "
                "again when their leases lapse",
                child.process.pid,
            )
