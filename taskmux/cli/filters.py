"""The options that say which jobs are meant: the same ones for lists and for every verb."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from taskmux.api.filters import Filter
from taskmux.model.errors import DeclarationError
from taskmux.model.job import State

__all__ = ["filter_options", "instant_of"]

Command = Callable[..., Any]

STATE = click.option(
    "--state",
    multiple=True,
    metavar="S",
    help=f"In this state; several: S,S. One of {', '.join(State)}.",
)
OPTIONS = (
    click.option("--task", metavar="NAME", help="Of this task."),
    click.option("--tag", help="With this tag."),
    click.option(
        "--error", metavar="TYPE", help="Whose last error is of this type, such as ValueError."
    ),
    click.option(
        "--fingerprint", metavar="HEX", help="That failed this way; `taskmux dead stats` has them."
    ),
    click.option(
        "--text", help="With this in the id, task, arguments, reason or error, in any case."
    ),
    click.option(
        "--since", metavar="TIME", help="Ended (else created) since: 2h before now, or an instant."
    ),
    click.option("--until", metavar="TIME", help="Ended (else created) until then."),
    click.option("--id", "ids", multiple=True, metavar="ID", help="With this id; may be repeated."),
)
NAMES = ("state", "task", "tag", "error", "fingerprint", "text", "since", "until", "ids")


def filter_options(*, state: bool = True) -> Callable[[Command], Command]:
    """Add the options of a filter; the command gets them as `where`, keywords of `Queue.find`.

    They are checked before the command runs, so it belongs below `errors_to_exit_codes`.

    Args:
        state: whether states may be named.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> Any:
            said = {name: kwargs.pop(name) for name in NAMES if name in kwargs}
            return command(*args, where=_keywords(said), **kwargs)

        for option in reversed((STATE, *OPTIONS) if state else OPTIONS):
            run = option(run)
        return run

    return decorate


def _keywords(said: dict[str, Any]) -> dict[str, Any]:
    """Return what was said as keywords of a filter.

    Raises:
        DeclarationError, InvalidName: something is wrong with them.
    """
    where = {name: value for name, value in said.items() if value not in (None, ())}
    if "state" in where:
        where["state"] = [one.strip() for entry in where["state"] for one in entry.split(",")]
    for name in ("since", "until"):
        if name in where:
            where[name] = instant_of(where[name], f"--{name}")
    Filter.of(**where)
    return where


def instant_of(text: str, option: str) -> datetime | str:
    """Return an instant, as tables show it or as ISO 8601; other text may be a duration.

    Raises:
        DeclarationError: the instant has no time zone.
    """
    try:
        found = datetime.fromisoformat(text.strip().replace(" UTC", "+00:00"))
    except ValueError:
        return text.strip().removesuffix(" ago")  # as tables show it
    if found.utcoffset() is None:
        raise DeclarationError(
            f"{option} {text!r} has no time zone. Write {found.isoformat()}Z for UTC, or another "
            f"offset: {found.isoformat()}+02:00."
        )
    return found
