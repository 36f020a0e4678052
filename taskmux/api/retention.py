"""Retention: how long ended jobs stay readable, as users say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypedDict

from taskmux.model.errors import DeclarationError
from taskmux.model.job import Keep as Kept
from taskmux.model.job import Policy
from taskmux.model.units import Duration, brief, milliseconds

__all__ = ["READABLE_MS", "Keep", "Retention", "parse_retention"]

READABLE_MS: Final = 10_000
"""The shortest retention: whoever waits for a result, in whatever process, looks more often."""

STATES: Final = ("completed", "cancelled", "dead")
MOST: Final = 10**6


class Retention(TypedDict, total=False):
    """How long ended jobs stay readable, per state: a duration, a count of the newest, or both.

    A duration of 0 is the shortest there is: the record goes as soon as nobody can be waiting for
    its result any more.
    """

    completed: Duration | Kept
    cancelled: Duration | Kept
    dead: Duration | Kept
    completed_count: int
    dead_count: int


def Keep(age: Duration, *, count: int | None = None) -> Kept:  # noqa: N802 - reads as a type
    """Keep ended jobs for `age`, and of their queue and state at most the `count` newest.

    Alone, `retention=Keep("1d", count=1000)` holds for completed, cancelled and dead jobs alike;
    in a mapping it says one state.

    Raises:
        DeclarationError: the age is no duration, or the count out of range.
    """
    kept = max(milliseconds(age, "retention"), READABLE_MS)
    return Kept(kept, None if count is None else _count(count, "count"))


def parse_retention(value: Any) -> dict[str, Any]:
    """Return what a retention says, by state.

    Raises:
        DeclarationError: it is neither a mapping of what `Retention` has nor a `Keep`.
    """
    if isinstance(value, Kept):
        return dict.fromkeys(STATES, value)
    if not isinstance(value, Mapping) or not set(value) <= set(Retention.__annotations__):
        raise DeclarationError(
            f"retention {brief(value)} is neither a mapping of "
            f"{', '.join(Retention.__annotations__)} nor a Keep('1d', count=1000)."
        )
    return {state: _of_state(value, state) for state in STATES if _said(value, state)}


def _said(value: Mapping[str, Any], state: str) -> bool:
    return state in value or f"{state}_count" in value


def _of_state(value: Mapping[str, Any], state: str) -> Kept:
    keep: Kept = getattr(Policy(), state)
    age = value.get(state, keep)
    if not isinstance(age, Kept):
        age = Keep(age)
    if (name := f"{state}_count") in value:
        return Kept(age.age_ms, _count(value[name], name))
    return age


def _count(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
        raise DeclarationError(f"{name} {brief(value)} is not a number from 0 to {MOST}.")
    return value
