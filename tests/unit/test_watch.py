"""The watch blames code for a blocked event loop, and nobody for a suspended process."""

from __future__ import annotations

import logging
import time

import pytest
from taskmux.worker import watch as module
from taskmux.worker.watch import BLOCKED, Watch


class Clocks:
    """What a process sees of time: it goes on in any case, the processor only works when asked."""

    def __init__(self) -> None:
        self.now = self.spent = 100.0

    def go_on(self, seconds: float, *, computing: bool = False) -> None:
        self.now += seconds
        self.spent += seconds if computing else 0.0


@pytest.fixture
def clocks(monkeypatch):
    clocks = Clocks()
    monkeypatch.setattr(module, "monotonic", lambda: clocks.now)
    monkeypatch.setattr(time, "process_time", lambda: clocks.spent)
    return clocks


@pytest.fixture
def watch(clocks):
    return Watch(list)


def told(watch: Watch, caplog) -> bool:
    with caplog.at_level(logging.WARNING):
        watch.look()
    return bool(caplog.records)


def test_nobody_is_blamed_when_the_process_was_suspended(watch, clocks, caplog):
    clocks.go_on(60.0)
    assert not told(watch, caplog)
    clocks.go_on(0.5)
    assert not told(watch, caplog)
    assert watch.blocked < BLOCKED


def test_a_loop_that_stays_blocked_after_a_suspension_is_told_of(watch, clocks, caplog):
    clocks.go_on(60.0)
    watch.look()
    for _ in range(4):
        clocks.go_on(0.5)
        watch.look()
    assert told(watch, caplog)


def test_code_that_waits_in_the_loop_is_told_of(watch, clocks, caplog):
    for _ in range(3):
        clocks.go_on(0.5)  # the thread that looks is not kept from it
        watch.look()
    assert told(watch, caplog)


def test_code_that_lets_no_thread_run_is_told_of(watch, clocks, caplog):
    clocks.go_on(5.0, computing=True)
    assert told(watch, caplog)
