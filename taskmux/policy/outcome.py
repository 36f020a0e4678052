"""How a run ended, as data: the outcomes, and which one an exception that left a handler means.

What a handler raises may be hostile in every part: its class's names, its text, its attributes,
the chain of its causes. Nothing here lets any of that out: whatever user code does while its
error is read, the error becomes data that every store can hold.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec

from taskmux.config import Limits
from taskmux.model.job import ErrorInfo, JobRecord
from taskmux.model.signals import REST_MS, Fail, RateLimited, Retry, Snooze
from taskmux.model.units import MAX_MS, show_ms, storable

__all__ = [
    "Cancelled",
    "Completed",
    "Crashed",
    "CutOff",
    "Expired",
    "Failed",
    "Limited",
    "Outcome",
    "Released",
    "Snoozed",
    "Struck",
    "describe",
    "free",
    "outcome_of",
    "signal_in",
    "timed_out",
    "traceback_of",
    "undecodable",
    "unknown_task",
    "unstorable",
]

UNKNOWN_TASK_WAIT_MS = 15_000
"""How long a job rests when the worker that claimed it has no such task."""

CUT_OFF_WAIT_MS = 1_000
"""How long a job rests whose run other code cancelled: whoever does so for ever costs little."""

MOST_LINKS = 100
"""How many exceptions of a chain or of nested groups are looked at."""

# What a class may override is read, and written, as the interpreter itself does it.
_TRACEBACK: Final[Any] = BaseException.__dict__["__traceback__"]
_CAUSE: Final[Any] = BaseException.__dict__["__cause__"]
_CONTEXT: Final[Any] = BaseException.__dict__["__context__"]
_EXCEPTIONS: Final[Any] = BaseExceptionGroup.__dict__["exceptions"]

_HERE: Final = str(Path(__file__).parents[1]) + os.sep


# -- how a run ended -----------------------------------------------------------------------------


class Completed(msgspec.Struct, frozen=True, gc=False):
    """The handler returned; `result` is its encoded value."""

    result: bytes | None


class Failed(msgspec.Struct, frozen=True):
    """The handler raised, ran too long, or could not be run.

    `final`: no attempt may mend it. `after_ms`: the wait that the handler asked for. `exception`
    is for backoff functions only; it is never stored.
    """

    error: ErrorInfo
    final: bool = False
    after_ms: int | None = None
    exception: BaseException | None = None
    word: str = "failed"


class Snoozed(msgspec.Struct, frozen=True):
    """The job is to come back later, at no cost."""

    after_ms: int
    reason: str
    record: bool = True
    """Whether the history keeps it: a handler's wish is kept, an unknown task is not."""
    error: ErrorInfo | None = None
    """What else there was to say: the group that the wish came in."""


class Limited(msgspec.Struct, frozen=True):
    """The handler met a limit: its queue, or with `line` its line, is to rest."""

    after_ms: int
    reason: str
    line: bool
    error: ErrorInfo | None = None
    """As in `Snoozed`; only then the history keeps it."""


class Released(msgspec.Struct, frozen=True):
    """The worker gave the job back unfinished."""


class CutOff(msgspec.Struct, frozen=True):
    """Other code than the worker's cancelled the run: its own handler did not say so."""


class Crashed(msgspec.Struct, frozen=True):
    """The lease lapsed: the worker died, hung or was cut off.

    `expired`: why no other run may begin, if so.
    """

    expired: str | None = None


class Expired(msgspec.Struct, frozen=True):
    """The job came too late to be begun."""

    reason: str


class Cancelled(msgspec.Struct, frozen=True):
    """The handler stopped because the job was asked to cancel."""


class Struck(msgspec.Struct, frozen=True):
    """A strike sets the job aside; `reason` names it."""

    reason: str


Outcome = (
    Completed
    | Failed
    | Snoozed
    | Limited
    | Released
    | CutOff
    | Crashed
    | Cancelled
    | Expired
    | Struck
)


def timed_out(timeout_ms: int, *, cancelled: bool) -> Failed:
    """Return the outcome of a run that went on for longer than its timeout.

    Args:
        timeout_ms: the timeout.
        cancelled: whether it was stopped. A thread cannot be, so it ran to its end.
    """
    how = "and was cancelled" if cancelled else "and could not be stopped in its thread"
    message = f"ran longer than its timeout of {show_ms(timeout_ms)} {how}"
    return Failed(
        ErrorInfo("TimeoutError", message), exception=TimeoutError(message), word="timed out"
    )


def unknown_task(job: JobRecord, worker: str) -> Snoozed:
    """Return the outcome for a job whose task this worker does not have."""
    return Snoozed(
        UNKNOWN_TASK_WAIT_MS,
        f"worker {worker} has no task {job.task!r}: start a worker that imports it",
        record=False,
    )


def undecodable(error: ErrorInfo) -> Failed:
    """Return the outcome for a job whose arguments this worker cannot read.

    A deployment may be under way, and a newer worker may read them: each try spends an attempt,
    with a wait as for an unknown task in between.
    """
    return Failed(error, after_ms=UNKNOWN_TASK_WAIT_MS, word="undecodable")


def unstorable(error: ErrorInfo) -> Failed:
    """Return the outcome for a job whose own outcome the store refused, such as for its size.

    The run is over and another would come to the same, so the job is dead, without the result.
    """
    return Failed(error, final=True, word="unstorable")


# -- what an exception means ---------------------------------------------------------------------

Signal = Fail | RateLimited | Retry | Snooze

_STRONGEST_FIRST: Final = (Fail, RateLimited, Retry, Snooze)


def signal_in(error: BaseException) -> Signal | None:
    """Return what a handler says by an exception: it is a signal, or a group that holds some.

    The strongest of a group wins: `Fail`, then `RateLimited`, `Retry`, `Snooze`; of equal ones
    the first.
    """
    found = [one for one in _members(error) if issubclass(type(one), _STRONGEST_FIRST)]
    for kind in _STRONGEST_FIRST:
        for one in found:
            if issubclass(type(one), kind):
                return one  # type: ignore[return-value]  # by the line above
    return None


def outcome_of(error: BaseException, limits: Limits) -> Outcome:
    """Return what an exception that left a handler means."""
    signal = signal_in(error)
    info = describe(error, limits)
    if signal is None:
        return Failed(info, exception=error)
    grouped = info if signal is not error else None
    message = info.message if grouped is None else describe(signal, limits).message
    kind = type(signal)
    if issubclass(kind, Fail):
        return Failed(info, final=True)
    if issubclass(kind, RateLimited):
        after = _duration(signal, REST_MS)
        line = _attribute(signal, "group", default=False) is True
        return Limited(after, message or "rate limited by its handler", line, grouped)
    if issubclass(kind, Retry):
        return Failed(info, after_ms=_duration(signal, None), exception=error, word="retried")
    after = _duration(signal, REST_MS)
    return Snoozed(after, message or "snoozed by its handler", error=grouped)


def _members(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, or those that a group holds, however nested."""
    rest = [error]
    for _ in range(MOST_LINKS):
        if not rest:
            return
        one = rest.pop(0)
        if issubclass(type(one), BaseExceptionGroup):
            rest += _EXCEPTIONS.__get__(one)
        else:
            yield one


def _duration(signal: object, default: Any) -> Any:
    """Return a signal's wait. A subclass may have forgotten `super().__init__()`, or lie."""
    after = _attribute(signal, "after_ms", default=default)
    return after if type(after) is int and 0 <= after <= MAX_MS else default


def _attribute(thing: object, name: str, *, default: Any) -> Any:
    try:
        return getattr(thing, name, default)
    except BaseException:  # noqa: BLE001 - a property of the user's class
        return default


# -- an exception as data ------------------------------------------------------------------------


def describe(error: BaseException, limits: Limits) -> ErrorInfo:
    """Return an exception as data that every store can hold, cut to the limits.

    The traceback keeps its end: the frames nearest to the failure. taskmux's own frames, which
    led to the handler, are left out.
    """
    name = storable(type_name(type(error)), limits.message)
    try:
        message = str.__str__(str(error))  # an exact one: a subclass of str is user code again
    except BaseException:  # noqa: BLE001 - a broken __str__ must not hide the failure
        message = "(its message cannot be shown)"
    text = _traceback(error, name)
    end = text if len(text) <= limits.traceback else "…" + text[1 - limits.traceback :]
    return ErrorInfo(name, storable(message, limits.message), storable(end, limits.traceback))


def type_name(kind: type) -> str:
    """Return a class's name with its module, whatever its metaclass makes of those."""
    name = _of_class(kind, "__qualname__")
    module = _of_class(kind, "__module__")
    return name if module in ("builtins", "") else f"{module}.{name}"


def _of_class(kind: type, name: str) -> str:
    """Return a name of a class as `type` itself knows it."""
    try:
        value = type.__dict__[name].__get__(kind)
    except AttributeError:
        return ""
    return value if type(value) is str else ""


def _traceback(error: BaseException, name: str) -> str:
    tb = traceback_of(error)
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_HERE):
        tb = tb.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, tb))
    except BaseException:  # noqa: BLE001 - as odd as an exception may be, it is one failed run
        return "".join(["Traceback (most recent call last):\n", *traceback.format_tb(tb), name])


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return an exception's traceback, whatever its class makes of that name."""
    tb: TracebackType | None = _TRACEBACK.__get__(error)
    return tb


def free(error: BaseException) -> None:
    """Let go of the frames that an exception, its causes and its members keep alive.

    A frame that holds its own exception is a circle, which would stay until the collector runs.
    """
    rest, seen = [error], set[int]()
    while rest and len(seen) < MOST_LINKS:
        one = rest.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        _TRACEBACK.__set__(one, None)
        linked = (_CAUSE.__get__(one), _CONTEXT.__get__(one))
        rest += [other for other in linked if other is not None]
        if issubclass(type(one), BaseExceptionGroup):
            rest += _EXCEPTIONS.__get__(one)
