"""Strikes: which jobs are set aside instead of begun. Pure functions on a queue's settings.

A strike names a task, values of arguments, or both. It stays in the settings for a while after it
was lifted, as a mark by which workers let go what others still set aside for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from taskmux.model.errors import DeclarationError
from taskmux.model.job import BlockedCause, JobRecord, State
from taskmux.model.units import brief, storable

__all__ = [
    "MOST_STRIKES",
    "Strike",
    "forgotten",
    "lifted",
    "read_strikes",
    "set_aside_by",
    "strike_of",
    "struck",
]

MOST_STRIKES: Final = 100
"""Strikes of a queue, those that were lifted a short while ago included: each job is compared."""

NOTHING: Final[Mapping[str, Any]] = {}


class Strike(msgspec.Struct, frozen=True, omit_defaults=True):
    """Jobs that are set aside: those of `task` (None: any) whose arguments have these values.

    `at`: when it was said, in epoch milliseconds, by the clock of who said it.
    """

    id: str
    task: str | None = None
    arguments: dict[str, Any] = {}
    reason: str | None = None
    at: int = 0
    lifted: bool = False

    def __str__(self) -> str:
        parts = [f"{name}={brief(value)}" for name, value in self.arguments.items()]
        if self.task is not None:
            parts.insert(0, f"task {self.task}")
        why = f" ({self.reason})" if self.reason else ""
        return storable(f"strike {self.id}: {', '.join(parts)}{why}", 500)


@lru_cache(maxsize=256)
def read_strikes(data: bytes | None) -> tuple[Strike, ...]:
    """Return the strikes of stored settings, those that were lifted included."""
    try:
        return msgspec.json.decode(data or b"[]", type=tuple[Strike, ...])
    except msgspec.MsgspecError:  # written by another version: jobs must go on
        return ()


def struck(data: bytes | None, strike: Strike) -> bytes:
    """Return stored strikes and one more.

    Raises:
        DeclarationError: there are too many.
    """
    strikes = read_strikes(data)
    if len(strikes) >= MOST_STRIKES:
        raise DeclarationError(
            f"{MOST_STRIKES} strikes of this queue are in force or were lifted within the last "
            f"minutes. Lift some; pause() stops the whole queue."
        )
    return msgspec.json.encode((*strikes, strike))


def lifted(data: bytes | None, strike_id: str) -> bytes | None:
    """Return stored strikes in which one is not in force any more.

    Raises:
        DeclarationError: there is none of this id.
    """
    strikes = read_strikes(data)
    if strike_id not in [one.id for one in strikes]:
        raise DeclarationError(
            f"There is no strike {brief(strike_id)} of this queue: strikes() lists them. One that "
            f"was lifted long ago is forgotten, and nothing is held back by it."
        )
    after = [replace(one, lifted=one.lifted or one.id == strike_id) for one in strikes]
    return data if tuple(after) == strikes else msgspec.json.encode(after)


def forgotten(data: bytes | None, ids: Collection[str]) -> bytes | None:
    """Return stored strikes without the marks of these lifted ones; None if none is left."""
    strikes = read_strikes(data)
    rest = [one for one in strikes if not (one.lifted and one.id in ids)]
    if len(rest) == len(strikes):
        return data
    return msgspec.json.encode(rest) if rest else None


def strike_of(
    strikes: Sequence[Strike], job: JobRecord, defaults: Mapping[str, Any] = NOTHING
) -> Strike | None:
    """Return the first strike in force that a job meets; None: it may run.

    Args:
        strikes: the queue's.
        job: the job.
        defaults: what the task's parameters are when a call leaves them out, as plain JSON values.
    """
    said: Mapping[str, Any] | None = None
    for one in strikes:
        if one.lifted or one.task not in (None, job.task):
            continue
        if one.arguments and said is None:
            said = {**defaults, **_arguments(job)}
        if all(
            name in (said or ()) and _same(said[name], value)  # type: ignore[index]
            for name, value in one.arguments.items()
        ):
            return one
    return None


def _arguments(job: JobRecord) -> dict[str, Any]:
    try:
        return msgspec.json.decode(job.payload, type=dict[str, Any])
    except (ValueError, RecursionError):  # its handler will say so
        return {}


def _same(one: Any, other: Any) -> bool:
    """Compare JSON values: true is not 1, though Python thinks so; 1 and 1.0 are one number."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def set_aside_by(job: JobRecord) -> str | None:
    """Return the id of the strike that a job was set aside by; None if it was by none."""
    if job.state is not State.BLOCKED or job.cause is not BlockedCause.HOLD:
        return None
    first, _, rest = (job.reason or "").partition(" ")
    strike_id, colon, _ = rest.partition(":")
    return strike_id if first == "strike" and colon else None
