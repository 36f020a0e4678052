"""Backoff policies: how long a failed job waits before its next attempt.

Each is plain data, so that it can be stored with a job. `delay_ms` is pure: it takes the random
source as an argument. Jitter is *full* unless said otherwise: the delay is drawn from [0, d], which
spreads retries best (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015); `jitter=0`
turns it off, and a value between leaves `1 - jitter` of the delay fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import ClassVar

import msgspec

from taskmux.model.errors import DeclarationError
from taskmux.model.units import Duration, brief, milliseconds

__all__ = [
    "DEFAULT_BACKOFF",
    "Backoff",
    "BackoffFunction",
    "BackoffLike",
    "Exponential",
    "Fixed",
    "Linear",
    "Steps",
    "as_backoff",
]

MAX_DELAY_MS = 365 * 86_400_000


class _Policy(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True):
    """What the policies share: a cap and the jitter."""

    jitter: float = msgspec.field(default=1.0)
    cap_ms: int = msgspec.field(default=MAX_DELAY_MS)

    def base_ms(self, attempt: int) -> float:
        """Return the delay after failed attempt number `attempt` (from 1), before cap, jitter."""
        raise NotImplementedError

    def delay_ms(self, attempt: int, rng: Random) -> int:
        """Return the wait in milliseconds after failed attempt number `attempt` (from 1)."""
        delay = min(self.base_ms(attempt), self.cap_ms)
        return round(delay * (1 - self.jitter * rng.random()))


class FixedPolicy(_Policy, frozen=True, tag="fixed", omit_defaults=True):
    """The same delay every time."""

    every_ms: int = 0

    def base_ms(self, attempt: int) -> float:  # noqa: ARG002 - the same whatever the attempt
        """Return the fixed delay."""
        return self.every_ms


class LinearPolicy(_Policy, frozen=True, tag="linear", omit_defaults=True):
    """The delay grows by the same step."""

    step_ms: int = 0

    def base_ms(self, attempt: int) -> float:
        """Return the step times the attempt."""
        return self.step_ms * attempt


class ExponentialPolicy(_Policy, frozen=True, tag="exponential", omit_defaults=True):
    """The delay is multiplied by a factor each time."""

    first_ms: int = 0
    factor: float = 2.0

    LIMIT: ClassVar[int] = 64  # beyond this the cap holds anyway, and floats overflow

    def base_ms(self, attempt: int) -> float:
        """Return first * factor ** (attempt - 1)."""
        power: float = self.factor ** min(attempt - 1, self.LIMIT)
        return self.first_ms * power


class StepsPolicy(_Policy, frozen=True, tag="steps", omit_defaults=True):
    """A list of delays; the last one repeats."""

    steps_ms: tuple[int, ...] = (0,)

    def base_ms(self, attempt: int) -> float:
        """Return the delay for this attempt, or the last one."""
        return self.steps_ms[min(attempt, len(self.steps_ms)) - 1]


Backoff = FixedPolicy | LinearPolicy | ExponentialPolicy | StepsPolicy
"""A policy as data: what a job may store."""

BackoffFunction = Callable[[int, BaseException], Duration]
"""`f(attempt, error) -> delay`; lives in code only, so it cannot be stored with a job."""

BackoffLike = Backoff | BackoffFunction | Duration | Sequence[Duration]
"""What a declaration may say: a policy, a function, one delay, or a list of delays."""


def _common(cap: Duration | None, jitter: float) -> tuple[float, int]:
    if isinstance(jitter, bool) or not 0 <= jitter <= 1:
        raise DeclarationError(f"jitter {brief(jitter)} is not between 0 (none) and 1 (full).")
    return jitter, MAX_DELAY_MS if cap is None else milliseconds(cap, "cap")


def Fixed(every: object, *, jitter: float = 1.0) -> FixedPolicy:  # noqa: N802 - reads as a type
    """Wait the same time after every failure.

    Raises:
        DeclarationError: not a duration, or jitter outside [0, 1].
    """
    jitter, cap_ms = _common(None, jitter)
    return FixedPolicy(jitter, cap_ms, every_ms=milliseconds(every, "delay"))


def Linear(  # noqa: N802 - reads as a type
    step: Duration, *, cap: Duration | None = None, jitter: float = 1.0
) -> LinearPolicy:
    """Wait `step`, `2 * step`, `3 * step`, up to `cap`.

    Raises:
        DeclarationError: not a duration, or jitter outside [0, 1].
    """
    jitter, cap_ms = _common(cap, jitter)
    return LinearPolicy(jitter, cap_ms, step_ms=milliseconds(step, "step"))


def Exponential(  # noqa: N802 - reads as a type
    first: Duration,
    *,
    factor: float = 2.0,
    cap: Duration | None = None,
    jitter: float = 1.0,
) -> ExponentialPolicy:
    """Wait `first`, then `factor` times longer after each failure, up to `cap`.

    Raises:
        DeclarationError: not a duration, factor below 1, or jitter outside [0, 1].
    """
    if not 1 <= factor <= 100:  # noqa: PLR2004 - more than hundredfold growth is a mistake
        raise DeclarationError(f"factor {brief(factor)} is not between 1 and 100.")
    jitter, cap_ms = _common(cap, jitter)
    return ExponentialPolicy(
        jitter, cap_ms, first_ms=milliseconds(first, "first"), factor=float(factor)
    )


def Steps(*delays: Duration, jitter: float = 1.0) -> StepsPolicy:  # noqa: N802 - reads as a type
    """Wait the listed delays in turn; the last one repeats.

    Raises:
        DeclarationError: the list is empty, holds no durations, or jitter is outside [0, 1].
    """
    if not delays:
        raise DeclarationError("a list of delays needs at least one, such as Steps('1s', '1m').")
    jitter, cap_ms = _common(None, jitter)
    return StepsPolicy(
        jitter, cap_ms, steps_ms=tuple(milliseconds(delay, "delay") for delay in delays)
    )


DEFAULT_BACKOFF: Backoff = Exponential("20s", factor=5, cap="10m", jitter=0.5)
"""10 to 20 s, 50 to 100 s, 250 to 500 s, then 5 to 10 minutes.

The default three attempts thus span at least a minute, whatever chance says: an outage of a minute
sends nothing to the dead letters. Full jitter could draw two short waits, so half is fixed.
"""


def as_backoff(value: object) -> Backoff | BackoffFunction:
    """Return a declaration's backoff in its working form.

    Raises:
        DeclarationError: it is none of the forms that `BackoffLike` lists.
    """
    if isinstance(value, Backoff):
        return value
    if callable(value):
        return value
    if isinstance(value, list | tuple):
        return Steps(*value)
    return Fixed(value)
