"""What signals do to a worker process: the first one drains, another one ends the wait."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Final

from taskmux.worker import Worker

__all__ = ["CUT_OFF", "DRAINING", "MOMENT", "Signals", "quietly"]

CUT_OFF: Final = 5
"""The exit status of a worker that had to stop handlers at its drain deadline."""

DRAINING: Final = tuple(
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP")  # the last is the terminal's end
    if (number := getattr(signal, name, None)) is not None
)

MOMENT = 0.3
"""Seconds in which a second signal is the first one's double: a wrapper passes on what its whole
process group was sent, too."""

_ours: set[signal.Signals] = set()


class Signals:
    """Listens for one worker, in its event loop.

    A worker process under a supervising parent follows that alone: SIGTERM drains, however often
    it comes (systemd sends it to the whole group), and SIGINT ends the wait.

    Args:
        worker: what is stopped.
        say: tells the user. It may fail, as where the terminal is gone.
        drain: how long handlers may take, in words.
        supervised: whether a parent process passes signals on.
    """

    def __init__(
        self, worker: Worker, say: Callable[[str], object], *, drain: str, supervised: bool
    ) -> None:
        self._worker = worker
        self._say = say
        self._drain = drain
        self._supervised = supervised
        self._loop = asyncio.get_running_loop()
        self._first = float("-inf")
        self._saying: asyncio.TimerHandle | None = None

    def listen(self) -> None:
        """Listen from now on; children of this process get the default signals again."""
        if not _ours:
            os.register_at_fork(after_in_child=_default_signals)
        for number in DRAINING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                _ours.add(number)
                self._loop.add_signal_handler(number, self._on_signal, number)

    def ended(self) -> None:
        """Say nothing more: the worker has stopped."""
        if self._saying is not None:
            self._saying.cancel()

    def _on_signal(self, number: signal.Signals) -> None:
        """Act first and speak later: nothing may fail before the drain has begun."""
        if not self._worker.stopping:
            self._worker.stop_soon()
            self._first = self._loop.time()
            # Once more means something only when this moment has passed, so it is said then.
            self._saying = self._loop.call_later(MOMENT, self._say_draining)
        elif self._supervised:
            if number == signal.SIGINT:
                self._stop_now()
        elif self._loop.time() - self._first >= MOMENT:
            self._stop_now()

    def _stop_now(self) -> None:
        self._worker.abort()
        quietly(self._say, "Stopping now; what runs is given back.")

    def _say_draining(self) -> None:
        quietly(
            self._say,
            f"Draining: {self._worker.running} running, at most {self._drain}. Once more to stop "
            f"now.",
        )


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
