from __future__ import annotations

import traceback

import pytest
from taskmux.config import Limits
from taskmux.model.signals import REST_MS, Fail, RateLimited, Retry, Snooze
from taskmux.policy.outcome import (
    MOST_LINKS,
    Failed,
    Limited,
    Snoozed,
    describe,
    free,
    outcome_of,
    signal_in,
)

LIMITS = Limits()
STRONGEST_FIRST = [Fail("f"), RateLimited("1s"), Retry("r"), Snooze("1s")]


class TestSignalsInGroups:
    @pytest.mark.parametrize("first", range(4))
    def test_the_strongest_wins_wherever_it_stands(self, first):
        rest = STRONGEST_FIRST[first:]
        assert signal_in(ExceptionGroup("", [ValueError(), *reversed(rest)])) is rest[0]
        nested = ExceptionGroup("", [*rest[1:], ExceptionGroup("", [rest[0]])])
        assert signal_in(nested) is rest[0]

    def test_a_group_without_one_is_a_failure(self):
        assert signal_in(BaseExceptionGroup("", [ValueError(), SystemExit()])) is None

    def test_a_deep_group_ends(self):
        error: Exception = ValueError("inside")
        for _ in range(10 * MOST_LINKS):
            error = ExceptionGroup("", [error])
        assert signal_in(error) is None
        assert isinstance(outcome_of(error, LIMITS), Failed)
        free(error)


class NoSuper:
    def __init__(self, *args: object) -> None:
        pass


class BareRetry(NoSuper, Retry):
    pass


class BareSnooze(NoSuper, Snooze):
    pass


class BareLimit(NoSuper, RateLimited):
    pass


class TestSubclasses:
    def test_what_they_leave_out_has_its_default(self):
        retried = outcome_of(BareRetry(), LIMITS)
        assert isinstance(retried, Failed)
        assert (retried.after_ms, retried.word) == (None, "retried")
        snoozed = outcome_of(BareSnooze(), LIMITS)
        assert isinstance(snoozed, Snoozed)
        assert snoozed.after_ms == REST_MS
        limited = outcome_of(BareLimit(), LIMITS)
        assert isinstance(limited, Limited)
        assert (limited.after_ms, limited.line) == (REST_MS, False)

    @pytest.mark.parametrize("wrong", ["soon", -1, 1.5, None, True, 10**30])
    def test_a_wait_that_is_none_is_the_default(self, wrong):
        snooze = BareSnooze()
        snooze.after_ms = wrong
        snoozed = outcome_of(snooze, LIMITS)
        assert isinstance(snoozed, Snoozed)
        assert snoozed.after_ms == REST_MS


class TestFrames:
    def test_all_of_a_chain_are_let_go(self):
        def inner() -> None:
            raise ValueError("inner")

        try:
            try:
                inner()
            except ValueError as error:
                raise ExceptionGroup("outer", [error]) from error
        except ExceptionGroup as error:
            outer = error
        free(outer)
        assert outer.__traceback__ is None
        assert outer.__cause__ is not None
        assert outer.__cause__.__traceback__ is None

    def test_a_formatter_that_fails_leaves_frames_and_name(self, monkeypatch):
        def breaks(*args: object) -> None:
            raise MemoryError

        monkeypatch.setattr(traceback, "format_exception", breaks)
        try:
            raise KeyError("x")
        except KeyError as error:
            info = describe(error, LIMITS)
        assert info.type == "KeyError"
        assert "test_outcome.py" in (info.traceback or "")
        assert (info.traceback or "").endswith("KeyError")
