"""What somebody probably meant: names near a wrong one, and what other queues call the same."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Final

from taskmux.model.errors import DeclarationError
from taskmux.model.units import brief

__all__ = ["check_options", "meant_option", "meant_verb", "near"]

_OPTIONS: Final = {
    "acks_late": "max_crashes",
    "attempts": "max_attempts",
    "countdown": "delay",
    "default_retry_delay": "backoff",
    "eta": "run_at",
    "ignore_result": "keep_result",
    "jitter": "backoff",
    "job_id": "id",
    "jobid": "id",
    "limiter": "rate",
    "max_retries": "max_attempts",
    "max_tries": "max_attempts",
    "rate_limit": "rate",
    "remove_on_complete": "retention",
    "remove_on_fail": "retention",
    "removeoncomplete": "retention",
    "removeonfail": "retention",
    "result_ttl": "retention",
    "retries": "max_attempts",
    "retry_backoff": "backoff",
    "soft_time_limit": "timeout",
    "store_result": "keep_result",
    "task_id": "id",
    "time_limit": "timeout",
    "unique": "dedup",
}
"""Options as Celery, BullMQ, RQ, Dramatiq and Huey call them."""

_REMARKS: Final = {"max_attempts": " (it counts the first try, too)"}

_VERBS: Final = {
    "apply_async": "await task.options(...).enqueue(...)",
    "defer": "await task.enqueue(...)",
    "defer_async": "await task.enqueue(...)",
    "delay": "await task.enqueue(...)",
    "kiq": "await task.enqueue(...)",
    "s": "task.bind(...)",
    "schedule": "await task.options(delay=...).enqueue(...)",
    "send": "await task.enqueue(...)",
    "send_with_options": "await task.options(...).enqueue(...)",
    "si": "task.bind(...)",
}


def near(name: str, names: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` about the nearest of some names, or nothing."""
    found = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {found[0]!r}?" if found else ""


def meant_option(name: object, names: Iterable[str]) -> str:
    """Return which option was probably meant: by what other queues call it, or by its spelling."""
    text = str(name)
    known = _OPTIONS.get(text.lower())
    if known is None:
        return near(text, names)
    return f" Did you mean {known!r}{_REMARKS.get(known, '')}?"


def check_options(said: Iterable[str], known: Collection[str], here: Collection[str]) -> None:
    """Refuse an option that there is not.

    Args:
        said: the options that were given.
        known: all that there are.
        here: those that may be said in this place, for the error to list.

    Raises:
        DeclarationError: it names what was probably meant.
    """
    unknown = sorted(set(said) - set(known))
    if unknown:
        raise DeclarationError(
            f"There is no option {brief(unknown[0])}.{meant_option(unknown[0], here)} Options "
            f"here are {', '.join(sorted(here))}."
        )


def meant_verb(name: str) -> str:
    """Return how taskmux says a task's verb of another queue, or nothing."""
    known = _VERBS.get(name)
    if known is None:
        return ""
    blocking = ", or task.blocking.enqueue(...) without an event loop" if "await" in known else ""
    return f". Write {known}{blocking}"
