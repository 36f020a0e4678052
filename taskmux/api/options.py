"""Options of jobs: what may be said, checked once and kept in working form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, TypedDict, cast

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from taskmux.api.dedup import Dedup, parse_dedup, parse_on_duplicate
from taskmux.api.hints import check_options, meant_option
from taskmux.api.retention import Retention, parse_retention
from taskmux.model import job as model
from taskmux.model.backoff import Backoff, BackoffFunction, BackoffLike, as_backoff
from taskmux.model.errors import DeclarationError
from taskmux.model.job import Keep, Policy
from taskmux.model.units import (
    Duration,
    brief,
    check_name,
    check_queue,
    instant_ms,
    milliseconds,
    priority_number,
    storable,
)

__all__ = [
    "JobOptions",
    "Parsed",
    "QueueOptions",
    "changed_defaults",
    "declared_defaults",
    "decode_defaults",
    "parse_call",
    "parse_defaults",
    "parse_options",
    "parse_shared",
]


class QueueOptions(TypedDict, total=False):
    """Options that a queue may have: for jobs whose call and task leave them out.

    `max_attempts` counts all tries. `max_crashes` counts workers that were lost while they ran it;
    at the first delivery one that is lost before its handler first waits is not counted, unless
    it is 0 or 1. `backoff` is a policy, a delay, a list of delays or, at a
    task, a function of attempt and error. `timeout` is for one run. `expires` is how long after a
    job could first run a run of it may begin; later it ends cancelled instead.
    """

    priority: int | str
    lifo: bool
    max_attempts: int
    max_crashes: int
    backoff: BackoffLike
    timeout: Duration | None
    expires: Duration | None
    keep_result: bool
    retention: Retention | Keep
    tags: Sequence[str]
    headers: Mapping[str, str]


class JobOptions(QueueOptions, total=False):
    """Options of jobs: a call's win over its task's, and those over the app's.

    `delay` and `run_at` exclude each other. No run begins after `deadline`.
    `session` is a transaction of the application's own, in a store that has them.
    `group` is a line of its own in the queue: groups take fair turns, and may have limits.
    `dedup` is a key that one job of the queue owns; see `Dedup`. With `supersede` the key's running
    job is cancelled, and this one is next. `on_duplicate="raise"`: a taken id or key is an error.
    `enqueue_timeout` is how long enqueueing waits for the store, 15 seconds by default; with None
    as long as its driver tries, which takes up to a minute. It raises `StoreUnavailable` then, and
    the job may be stored all the same.
    """

    queue: str
    id: str
    delay: Duration
    run_at: datetime
    deadline: datetime
    group: str
    dedup: str | Dedup
    supersede: bool
    on_duplicate: Literal["return", "raise"]
    session: Any
    enqueue_timeout: Duration | None


class Shared(msgspec.Struct, frozen=True, omit_defaults=True):
    """The options that a queue may say, checked and in working form; so they are stored, too.

    UNSET: not said.
    """

    priority: int | UnsetType = UNSET
    lifo: bool | UnsetType = UNSET
    max_attempts: int | UnsetType = UNSET
    max_crashes: int | UnsetType = UNSET
    call_backoff: Backoff | UnsetType = UNSET
    """A backoff that a call or a queue gives: stored with the job, unlike its task's."""
    timeout: int | None | UnsetType = UNSET
    expires: int | None | UnsetType = UNSET
    keep_result: bool | UnsetType = UNSET
    completed: Keep | UnsetType = UNSET
    cancelled: Keep | UnsetType = UNSET
    dead: Keep | UnsetType = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET


class Parsed(Shared, frozen=True):
    """Options, checked and in working form. UNSET: not said."""

    queue: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    delay: int | UnsetType = UNSET
    run_at: int | UnsetType = UNSET
    deadline: int | UnsetType = UNSET
    backoff: Backoff | BackoffFunction | UnsetType = UNSET
    group: str | UnsetType = UNSET
    dedup: model.Dedup | UnsetType = UNSET
    supersede: bool | UnsetType = UNSET
    on_duplicate: str | UnsetType = UNSET
    session: Any = UNSET
    enqueue_timeout: int | None | UnsetType = UNSET

    def over(self, base: Parsed) -> Parsed:
        """Return these options, with what they leave unsaid taken from `base`."""
        said = {
            name: value
            for name, value in msgspec.structs.asdict(self).items()
            if value is not UNSET
        }
        if "delay" in said or "run_at" in said:  # the later word on time replaces the earlier
            base = replace(base, delay=UNSET, run_at=UNSET)
        return replace(base, **said)

    def policy(self) -> Policy:
        """Return the part that is stored with each job."""
        fields: dict[str, Any] = {
            "max_attempts": self.max_attempts,
            "max_crashes": self.max_crashes,
            "timeout_ms": self.timeout,
            **self._latest(),
            "backoff": self.call_backoff,
            "keep_result": self.keep_result,
            "completed": self.completed,
            "cancelled": self.cancelled,
            "dead": self.dead,
        }
        return Policy(**{name: value for name, value in fields.items() if value is not UNSET})

    def _latest(self) -> dict[str, Any]:
        """Return when a run may begin at the latest. `expires` counts from when the job is due."""
        if not isinstance(self.expires, int):
            return {"deadline": self.deadline}
        if not isinstance(self.run_at, int):
            delay = self.delay if isinstance(self.delay, int) else 0
            return {"expires_ms": delay + self.expires, "deadline": self.deadline}
        end = self.run_at + self.expires
        return {"deadline": min(end, self.deadline) if isinstance(self.deadline, int) else end}


_OF_A_CALL = frozenset({"id", "run_at", "deadline", "dedup", "supersede", "session"})
"""Options that a task or an app cannot have."""


def parse_call(options: JobOptions) -> Parsed:
    """Return a call's options: as `parse_options`, and its backoff is to be stored.

    Raises:
        DeclarationError: also for a backoff function, which cannot be stored.
    """
    parsed = parse_options(options)
    if parsed.backoff is UNSET:
        return parsed
    if not isinstance(parsed.backoff, Backoff):
        raise DeclarationError(
            "A backoff function cannot be stored with a job. Declare it with the task "
            "(@mux.task(backoff=...)), or give this call a policy such as Exponential('1s')."
        )
    return replace(parsed, call_backoff=parsed.backoff)


def parse_shared(options: JobOptions, own: Sequence[str] = ()) -> Parsed:
    """Return the options of a task or an app: as `parse_options`, for many jobs.

    Args:
        options: what was said.
        own: what else may be said there, for an error to name.

    Raises:
        DeclarationError: also for what only a single call can say.
    """
    check_options(options, _PARSERS, {*_PARSERS, *own} - _OF_A_CALL)
    if misplaced := sorted(_OF_A_CALL & set(options)):
        raise DeclarationError(
            f"{misplaced[0]} belongs to a single call, not to a task or an app: "
            f"task.options({misplaced[0]}=...).enqueue(...)."
        )
    return parse_options(options)


class _Defaults(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is stored: the options in force, and those that an app declared last."""

    said: Shared = Shared()
    declared: Shared | None = None


def parse_defaults(options: QueueOptions) -> bytes:
    """Return a queue's defaults, checked, as they are compared and stored.

    Raises:
        DeclarationError: an option is wrong, or not one of a queue.
    """
    if misplaced := sorted(set(options) - set(QueueOptions.__annotations__)):
        raise DeclarationError(
            f"{brief(misplaced[0])} is no option of a queue. Its options are "
            f"{', '.join(QueueOptions.__annotations__)}."
            f"{meant_option(misplaced[0], QueueOptions.__annotations__)}"
        )
    parsed = parse_call(cast("JobOptions", options))
    fields = {name: getattr(parsed, name) for name in Shared.__struct_fields__}
    return msgspec.json.encode(Shared(**fields))


def _read_defaults(data: bytes | None) -> _Defaults:
    try:
        return msgspec.json.decode(data or b"{}", type=_Defaults)
    except msgspec.MsgspecError:  # written by another version: jobs must go on
        return _Defaults()


def changed_defaults(data: bytes | None, said: bytes) -> bytes:
    """Return stored defaults with others in force; what was declared is remembered."""
    options = msgspec.json.decode(said, type=Shared)
    return msgspec.json.encode(_Defaults(options, _read_defaults(data).declared))


def declared_defaults(data: bytes | None, declared: bytes) -> bytes | None:
    """Return stored defaults that follow an app's declaration.

    They are as they were if it declares what was declared before: what was said since stays.
    """
    options = msgspec.json.decode(declared, type=Shared)
    if _read_defaults(data).declared == options:
        return data
    return msgspec.json.encode(_Defaults(options, options))


@lru_cache(maxsize=256)
def decode_defaults(data: bytes | None) -> Parsed:
    """Return the options that are in force by a queue's stored defaults."""
    return Parsed(**msgspec.structs.asdict(_read_defaults(data).said))


def parse_options(options: JobOptions) -> Parsed:
    """Return options checked and in working form.

    Raises:
        DeclarationError: a value is out of range, two exclude each other, or a name is unknown.
        InvalidName: a queue, id, tag or key cannot be stored everywhere.
    """
    check_options(options, _PARSERS, _PARSERS)
    if "delay" in options and "run_at" in options:
        raise DeclarationError("delay and run_at exclude each other: give one of them.")
    fields: dict[str, Any] = {}
    for name, value in options.items():
        fields.update(_PARSERS[name](value))
    return Parsed(**fields)


def _count(name: str, least: int) -> Callable[[Any], dict[str, Any]]:
    def parse(value: Any) -> dict[str, Any]:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 10**6:
            raise DeclarationError(
                f"{name} {brief(value)} is not a number from {least} to 1000000."
            )
        return {name: value}

    return parse


def _flag(name: str) -> Callable[[Any], dict[str, Any]]:
    def parse(value: Any) -> dict[str, Any]:
        if not isinstance(value, bool):
            raise DeclarationError(f"{name} {brief(value)} is neither True nor False.")
        return {name: value}

    return parse


def _time_limit(name: str, what_0_means: str) -> Callable[[Any], dict[str, Any]]:
    def parse(value: Any) -> dict[str, Any]:
        limit = None if value is None else milliseconds(value, name)
        if limit == 0:
            raise DeclarationError(f"{name} 0 {what_0_means}. Use None for no {name}.")
        return {name: limit}

    return parse


def _tags(value: Any) -> dict[str, Any]:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    if not listed or len(value) > 32:  # noqa: PLR2004 - tags are labels, not data
        raise DeclarationError("tags takes a list of at most 32 short names.")
    return {"tags": tuple(check_name(tag, "tag") for tag in value)}


def _headers(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(
        isinstance(part, str) for pair in value.items() for part in pair
    ):
        raise DeclarationError("headers takes a mapping from text to text.")
    if sum(len(key) + len(text) for key, text in value.items()) > 8192:  # noqa: PLR2004
        raise DeclarationError("headers take more than 8192 characters; send data as arguments.")
    for key, text in value.items():
        check_name(key, "header name")
        if storable(text, len(text)) != text:
            raise DeclarationError(f"header {key!r} is not valid text: {brief(text)}.")
    return {"headers": dict(value)}


_PARSERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "queue": lambda value: {"queue": check_queue(value)},
    "id": lambda value: {"id": check_name(value, "job id")},
    "delay": lambda value: {"delay": milliseconds(value, "delay")},
    "run_at": lambda value: {"run_at": instant_ms(value)},
    "priority": lambda value: {"priority": priority_number(value)},
    "lifo": _flag("lifo"),
    "max_attempts": _count("max_attempts", 1),
    "max_crashes": _count("max_crashes", 0),
    "backoff": lambda value: {"backoff": as_backoff(value)},
    "timeout": _time_limit("timeout", "would end every run at once"),
    "keep_result": _flag("keep_result"),
    "retention": parse_retention,
    "expires": _time_limit("expires", "would let nothing begin"),
    "deadline": lambda value: {"deadline": instant_ms(value, "deadline")},
    "tags": _tags,
    "headers": _headers,
    "group": lambda value: {"group": check_name(value, "group")},
    "dedup": parse_dedup,
    "supersede": _flag("supersede"),
    "on_duplicate": parse_on_duplicate,
    "session": lambda value: {"session": value},
    "enqueue_timeout": _time_limit("enqueue_timeout", "would store nothing"),
}
