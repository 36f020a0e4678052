"""What signals do to a worker process: one drains, another ends the wait, and a stop has an end."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

from taskmux.worker import Worker

__all__ = ["CUT_OFF", "DRAINING", "MOMENT", "OVERTIME", "UNCLEAN", "Signals", "quietly"]

CUT_OFF: Final = 5
"""The exit status of a worker that had to stop handlers at its drain deadline."""

UNCLEAN: Final = 7
"""The exit status of a worker whose stop went wrong: something hung, or the lifespan failed."""

DRAINING: Final = tuple(
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP")  # the last is the terminal's end
    if (number := getattr(signal, name, None)) is not None
)

MOMENT = 0.3
"""Seconds in which a second signal is the first one's double: a wrapper passes on what its whole
process group was sent, too."""

OVERTIME: Final = 10.0
"""Seconds after the drain deadline, or after the signal that ends the wait, in which the process
ends, whatever hangs."""

STUCK: Final = 2.0
"""Seconds after the signal that ends the wait, when nobody waits for a lifespan function or for a
blocked event loop any more."""

PARENT_LOOK: Final = 1.0
ANSWER: Final = 0.5
SAYING: Final = 1.0
"""Seconds that a message may take: who should read it may not read."""

_ours: set[signal.Signals] = set()


class Signals:
    """Listens for one worker, and sees to it that its process ends.

    A thread decides and waits, since the event loop may be what hangs; a signal handler only puts
    its signal into a queue. (Python calls that between two steps of the main thread. A signal that
    comes just before a step that blocks, such as `time.sleep(3600)`, is heard with the next one.)

    A worker process under a supervising parent follows that alone: SIGTERM drains, however often
    it comes (systemd sends it to the whole group), and SIGINT ends the wait. When the parent is
    gone it drains: nobody would stop this process any more.

    Args:
        worker: what is stopped.
        say: tells the user. It may fail, as where the terminal is gone.
        drain: how long handlers may take, in words.
        parent: the supervising process.
        leave: ends this process with a status; it comes back only in tests.
    """

    def __init__(
        self,
        worker: Worker,
        say: Callable[[str], object],
        *,
        drain: str,
        parent: int | None,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._worker = worker
        self._say = say
        self._drain = drain
        self._parent = parent
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._heard: queue.SimpleQueue[tuple[int | None, float]] = queue.SimpleQueue()
        self._handled: dict[int, int] = dict.fromkeys(DRAINING, 0)
        self._noticed: dict[int, int] = dict.fromkeys(DRAINING, 0)
        self._told = self._last = math.inf
        self._say_at = self._stuck_at = self._deadline = math.inf
        self._hurried = False
        self._over = False

    def listen(self) -> None:
        """Listen from now on; children of this process get the default signals again."""
        if not _ours:
            os.register_at_fork(after_in_child=_default_signals)
        for number in DRAINING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                _ours.add(number)
                # This wakes the main thread up, so that the other is called at once.
                self._loop.add_signal_handler(number, self._notice, number)
                signal.signal(number, self._hear)
                signal.siginterrupt(number, False)  # noqa: FBT003 - as Python declares it
        threading.Thread(target=self._attend, name="taskmux-signals", daemon=True).start()

    def told(self) -> None:
        """Note that the worker was told to stop, by whomever: its time runs from now on."""
        self._heard.put((None, time.monotonic()))

    def ended(self) -> None:
        """Say nothing more of draining: the worker has stopped."""
        self._over = True

    def _hear(self, number: int, _frame: object) -> None:
        # The queue may be put into from a signal handler, whatever that has interrupted.
        self._handled[number] += 1
        self._heard.put((number, time.monotonic()))

    def _notice(self, number: int) -> None:
        """Hear of a signal in the event loop: the app may have put a handler of its own."""
        self._noticed[number] += 1
        if self._noticed[number] > self._handled[number]:
            self._hear(number, None)

    # -- in the thread ------------------------------------------------------------------------

    def _attend(self) -> None:
        while True:
            with contextlib.suppress(queue.Empty):
                self._take(*self._heard.get(timeout=self._pause()))
            if self._parent is not None and os.getppid() != self._parent:
                self._parent = None
                self._begin(time.monotonic())
                self._tell("The supervising process is gone; draining.")
            self._look(time.monotonic())

    def _pause(self) -> float | None:
        """Return for how long nothing can be due."""
        due = min(self._say_at, self._stuck_at, self._deadline)
        if due == math.inf:
            return None if self._parent is None else PARENT_LOOK
        return min(PARENT_LOOK, max(0.0, due - time.monotonic()))

    def _take(self, number: int | None, at: float) -> None:
        """Act on a signal; None: the worker was told to stop by other means."""
        if self._told == math.inf:
            self._begin(at)
            # Once more means something only when this moment has passed, so it is said then.
            self._say_at = math.inf if number is None else at + MOMENT
            self._last = at if number is not None else -math.inf
        elif number is None or (self._parent is not None and number != signal.SIGINT):
            return
        elif not self._hurried and (self._parent is not None or at - self._last >= MOMENT):
            self._last, self._hurried, self._say_at = at, True, math.inf
            self._stuck_at = at + STUCK
            self._deadline = min(self._deadline, at + OVERTIME)
            self._in_loop(self._worker.abort)
            self._tell("Stopping now; what runs is given back.")
        elif at - self._last >= MOMENT:
            self._end()

    def _begin(self, at: float) -> None:
        if self._told == math.inf:
            self._told = at
            self._deadline = at + self._worker.options.drain_ms / 1000 + OVERTIME
            self._in_loop(self._worker.stop_soon)

    def _look(self, now: float) -> None:
        """Do what is due."""
        if now >= self._say_at:
            self._say_at = math.inf
            if not self._over:
                self._tell(
                    f"Draining: {self._worker.running} running, at most {self._drain}. "
                    f"Once more to stop now."
                )
        if now >= self._deadline:
            self._end()
        elif now >= self._stuck_at:
            self._stuck_at = math.inf
            if self._worker.in_lifespan is not None or not self._loop_turns():
                self._end()

    def _end(self) -> None:
        """End the process, and say what hangs; nothing in the way of that is waited for."""
        self._say_at = self._stuck_at = self._deadline = math.inf
        with contextlib.suppress(BaseException):
            blocked = not self._loop_turns()
            self._tell(
                f"Ended {time.monotonic() - self._told:.0f} s after it was told to stop, because "
                f"{self._worker.what_hangs(blocked=blocked)}."
            )
        self._leave(UNCLEAN)

    def _loop_turns(self) -> bool:
        answered = threading.Event()
        self._in_loop(answered.set)
        return answered.wait(ANSWER)

    def _in_loop(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # it is closed: there is nothing left to tell
            self._loop.call_soon_threadsafe(call)

    def _tell(self, text: str) -> None:
        """Say something, without waiting for long: a stream may be locked, or not be read."""
        saying = threading.Thread(target=quietly, args=(self._say, text), daemon=True)
        with contextlib.suppress(RuntimeError):  # no more threads
            saying.start()
            saying.join(SAYING)


def quietly(say: Callable[[str], object], text: str) -> None:
    """Say something where it can be said: a broken pipe must not end what is being drained."""
    with contextlib.suppress(BaseException):  # an app can put anything in a stream's place
        say(text)


def _default_signals() -> None:
    """Undo what this process's children inherit: they would tell our loop of their signals."""
    signal.set_wakeup_fd(-1)
    for number in _ours:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)
    _ours.clear()
