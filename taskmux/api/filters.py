"""Filters: which jobs of a queue are meant. One set of keywords for `find` and every bulk verb.

`Filter.of(state="dead", error="ValueError")` checks the keywords before anything is sent. Which
jobs a filter means is said here; `taskmux.api.walk` reads them page by page.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import datetime
from functools import cached_property
from typing import Any, Final, TypedDict

import msgspec
from msgspec.structs import replace

from taskmux.model.errors import DeclarationError
from taskmux.model.job import BlockedCause, JobRecord, State
from taskmux.model.units import Duration, brief, check_name, instant_ms, milliseconds, storable
from taskmux.policy.fingerprints import fingerprint

__all__ = ["FIELDS", "FLOW", "Filter", "FilterOptions", "Narrowing", "instant"]

FLOW: Final = (
    State.DELAYED,
    State.BLOCKED,
    State.WAITING,
    State.ACTIVE,
    State.COMPLETED,
    State.DEAD,
    State.CANCELLED,
    State.MOVED,
)
"""The order in which states are walked: along a job's life, so that one that moves on meanwhile
is met later."""

LONGEST_TEXT: Final = 1000
LARGEST_INSTANT: Final = 2**53


class Narrowing(TypedDict, total=False):
    """The filters besides `state`; see `FilterOptions`."""

    task: str | None
    tag: str | None
    error: str | None
    fingerprint: str | None
    text: str | None
    since: datetime | Duration | None
    until: datetime | Duration | None
    ids: Iterable[str] | None


class FilterOptions(Narrowing, total=False):
    """What a search and every bulk verb take. What is left out, or None, does not narrow.

    `state`: a `State` or its name, or several. `task`: a task's name. `tag`: one of a job's tags.
    `error`: the type of the last error, such as `"ValueError"`, with or without its module.
    `fingerprint`: one way of failing, as `queue.dead.stats()` tells it.
    `text`: found in the id, task, arguments, reason or last error's message, in any case.
    `since`, `until`: an aware `datetime`, or a duration before now by the store's clock, such as
    `"1h"`; both bounds belong to the span. A finished job goes by the instant of its end, any
    other by that of its creation. `ids`: jobs by id.
    """

    state: State | str | Iterable[State | str] | None


FIELDS: Final = ("state", *Narrowing.__annotations__)


class Filter(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Which jobs of a queue are meant: those that fit every field that is set.

    `states` are in the order of a walk; none means every state. `since` and `until` are epoch
    milliseconds; `since_ago` and `until_ago` say how long before now a duration meant, which `at`
    counts again from the store's time. `cause` is no keyword: a verb sets it.
    """

    states: tuple[State, ...] = ()
    task: str | None = None
    tag: str | None = None
    error: str | None = None
    fingerprint: str | None = None
    text: str | None = None
    since: int | None = None
    until: int | None = None
    since_ago: int | None = None
    until_ago: int | None = None
    ids: tuple[str, ...] | None = None
    cause: BlockedCause | None = None

    @classmethod
    def of(cls, **keywords: Any) -> Filter:
        """Return the filter that keywords describe; see `FilterOptions`. Nothing is sent.

        Raises:
            DeclarationError: a field or state is unknown, a value is empty or of another kind, or
                no instant is left between `since` and `until`. The message lists what there is.
            InvalidName: a task, tag or id is a name that no job can have.
        """
        if unknown := sorted(set(keywords) - set(FIELDS)):
            raise DeclarationError(
                f"There is no filter {', '.join(map(brief, unknown))}. Filters are "
                f"{', '.join(FIELDS)}."
            )
        given = {name: value for name, value in keywords.items() if value is not None}
        made = cls(
            states=_states(given["state"]) if "state" in given else (),
            task=_name(given, "task", "task name"),
            tag=_name(given, "tag", "tag"),
            error=_text(given, "error"),
            fingerprint=_text(given, "fingerprint"),
            text=_text(given, "text"),
            ids=_ids(given["ids"]) if "ids" in given else None,
        )
        made = replace(made, **_bound(given, "since"), **_bound(given, "until"))
        made = made.at(time.time_ns() // 1_000_000)
        if made.since is not None and made.until is not None and made.since > made.until:
            raise DeclarationError(
                "since is later than until: no job can be between them. Both are an instant, or a "
                "duration before now: since='2h', until='1h'."
            )
        return made

    @property
    def everything(self) -> bool:
        """Whether it narrows nothing: every job of the queue is meant."""
        return self == _EVERYTHING

    @property
    def counted(self) -> bool:
        """Whether the counts of its states say how many jobs are meant."""
        return replace(self, states=()) == _EVERYTHING

    @property
    def relative(self) -> bool:
        """Whether it has a duration, and so depends on the store's time."""
        return self.since_ago is not None or self.until_ago is not None

    @property
    def looks_inside(self) -> bool:
        """Whether it asks for what no store is asked for, so that more is read than is meant."""
        inside = (self.fingerprint, self.text, self.since, self.until)
        return any(one is not None for one in inside)

    def at(self, now: int) -> Filter:
        """Return it with its durations counted from `now`, epoch milliseconds."""
        if not self.relative:
            return self
        since, until = self.since, self.until
        if self.since_ago is not None:
            since = now - self.since_ago
        if self.until_ago is not None:
            until = now - self.until_ago
        return replace(self, since=since, until=until)

    def fixed(self, now: int) -> Filter:
        """Return it with its durations counted from `now` once and for all."""
        return replace(self.at(now), since_ago=None, until_ago=None)

    def within(self, states: Iterable[State]) -> Filter:
        """Return it for these states alone, or for those of them that it names."""
        wanted = frozenset(states)
        listed = [state for state in self.states or FLOW if state in wanted]
        return replace(self, states=tuple(listed))

    def matches(self, job: JobRecord) -> bool:
        """Say whether a job is meant."""
        if self.states and job.state not in self.states:
            return False
        if self.ids is not None and job.id not in self._ids:
            return False
        at = instant(job)
        return (
            (self.task is None or job.task == self.task)
            and (self.cause is None or job.cause is self.cause)
            and (self.tag is None or self.tag in job.tags)
            and (self.error is None or (job.error is not None and job.error.is_a(self.error)))
            and (self.fingerprint is None or _fails_like(job, self.fingerprint))
            and (self.since is None or at >= self.since)
            and (self.until is None or at <= self.until)
            and (self.text is None or self._says(job))
        )

    @cached_property
    def _ids(self) -> frozenset[str]:
        return frozenset(self.ids or ())

    @cached_property
    def _needles(self) -> tuple[str, str]:
        """What is looked for, as it is and as JSON writes it."""
        text = self.text or ""
        return text.casefold(), json.dumps(text, ensure_ascii=False)[1:-1].casefold()

    def _says(self, job: JobRecord) -> bool:
        plain, written = self._needles
        error = job.error.message if job.error else ""
        payload = job.payload.decode(errors="replace").casefold()
        texts = (job.id, job.task, job.reason or "", error)
        return any(plain in text.casefold() for text in texts) or (
            plain in payload or written in payload
        )


_EVERYTHING: Final = Filter()


def instant(job: JobRecord) -> int:
    """Return the instant that `since` and `until` go by: its end, or else its creation."""
    return job.created_at if job.finished_at is None else job.finished_at


# -- keywords ------------------------------------------------------------------------------------


def _states(value: Any) -> tuple[State, ...]:
    listed = [value] if isinstance(value, str) else _several(value, "state")
    wanted = set()
    for one in listed:
        try:
            wanted.add(State(one))
        except ValueError:
            raise DeclarationError(
                f"There is no state {brief(one)}. States are {', '.join(State)}."
            ) from None
    return tuple(state for state in FLOW if state in wanted)


def _ids(value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else _several(value, "ids")
    return tuple(dict.fromkeys(check_name(one, "job id") for one in listed))


def _several(value: Any, what: str) -> list[Any]:
    listed = list(value) if isinstance(value, Iterable) and not isinstance(value, bytes) else []
    if not listed:
        raise DeclarationError(
            f"{what} {brief(value)} names none, so no job could be meant. Leave it out, or say "
            f"which. Filters are {', '.join(FIELDS)}."
        )
    return listed


def _name(given: dict[str, Any], field: str, what: str) -> str | None:
    return check_name(given[field], what) if field in given else None


def _text(given: dict[str, Any], field: str) -> str | None:
    if field not in given:
        return None
    value = given[field]
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= LONGEST_TEXT
        or storable(value, LONGEST_TEXT) != value
    ):
        raise DeclarationError(
            f"{field} {brief(value)} is no text of 1 to {LONGEST_TEXT} valid characters. Leave it "
            f"out if it is not to narrow. Filters are {', '.join(FIELDS)}."
        )
    return value


def _bound(given: dict[str, Any], field: str) -> dict[str, int]:
    if field not in given:
        return {}
    value = given[field]
    if isinstance(value, datetime):
        return {field: instant_ms(value, field)}
    return {f"{field}_ago": milliseconds(value, field)}


def _fails_like(job: JobRecord, mark: str) -> bool:
    failed = job.error is not None or job.state is State.DEAD
    return failed and fingerprint(job.task, job.error, job.reason) == mark
