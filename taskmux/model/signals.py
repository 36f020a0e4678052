"""What a handler may raise to say how its job goes on. These are not errors.

In an `ExceptionGroup`, as a `TaskGroup` raises it, they count as well; the strongest wins: `Fail`,
then `RateLimited`, `Retry`, `Snooze`. The other exceptions of the group are kept in the job's
history. A subclass need not call `super().__init__()`: what it leaves out has its default.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from taskmux.model.errors import DeclarationError
from taskmux.model.units import Duration, milliseconds

__all__ = ["Fail", "RateLimited", "Retry", "Snooze"]

REST_MS = 30_000
"""How long a job rests whose handler did not say."""

LONGEST_REST_MS = 86_400_000
"""Of a queue whose handler raised `RateLimited`."""


class Fail(Exception):
    """Raise it in a handler: the job goes to the dead letters at once, attempts left or not."""


class Retry(Exception):
    """Raise it in a handler: try again, spending an attempt.

    Args:
        message: why; kept in the job's history.
        after: how long to wait; the task's backoff decides if it is None.
    """

    after_ms: int | None = None

    def __init__(self, message: str = "", *, after: Duration | None = None) -> None:
        super().__init__(message)
        self.after_ms = None if after is None else milliseconds(after, "after")


class Snooze(Exception):
    """Raise it in a handler: come back later without spending an attempt.

    Args:
        after: how long to wait.
        message: why; kept in the job's history.
    """

    after_ms: int = REST_MS

    def __init__(self, after: Duration, message: str = "") -> None:
        super().__init__(message)
        self.after_ms = milliseconds(after, "after")


class RateLimited(Exception):
    """Raise it in a handler: somebody asked us to slow down, so the whole queue rests.

    The job spends no attempt and goes first in its line when the queue goes on. Changing the
    queue's settings, `resume()` for one, ends the rest.

    Args:
        after: how long, at most a day. The value of a Retry-After header is taken as it is
            (seconds, or a date); what is missing or cannot be read is half a minute, since a
            handler that was told to slow down must not fail for that.
        message: why; kept as the job's reason.
        group: let only the job's own group (or its task's line) rest.
    """

    after_ms: int = REST_MS
    group: bool = False

    def __init__(
        self, after: Duration | None = None, message: str = "", *, group: bool = False
    ) -> None:
        super().__init__(message)
        rest = _retry_after(after)
        self.after_ms = REST_MS if rest is None else min(max(1, rest), LONGEST_REST_MS)
        self.group = group


def _retry_after(after: object) -> int | None:
    """Return a duration or a Retry-After header (RFC 9110, section 10.2.3) in milliseconds."""
    readers: tuple[Callable[[str], object], ...] = (float, _from_now, str)
    if isinstance(after, str):
        for read in readers:
            with contextlib.suppress(ValueError, TypeError, OverflowError, DeclarationError):
                return milliseconds(read(after), "after")
        return None
    with contextlib.suppress(DeclarationError):
        return milliseconds(after, "after")
    return None


def _from_now(text: str) -> float:
    until = parsedate_to_datetime(text)
    aware = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return max((aware - datetime.now(UTC)).total_seconds(), 0)


for _signal in (Fail, Retry, Snooze, RateLimited):
    _signal.__module__ = "taskmux"  # as users import it: histories and tracebacks show that name
