"""`taskmux queue drain|clean|obliterate`: removing, when it was meant."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import click

from taskmux.api.bulk import BulkResult
from taskmux.api.filters import Filter
from taskmux.app import Taskmux
from taskmux.cli.bulk import Course, Target, Words, carry_out
from taskmux.cli.common import app_option, errors_to_exit_codes, json_option, url_option
from taskmux.cli.control import queue
from taskmux.cli.filters import instant_of
from taskmux.model.errors import ConfigError
from taskmux.model.units import check_queue

__all__ = ["queue"]

yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def _make_sure(what: str, *, yes: bool) -> None:
    """Ask on a terminal whether it is meant.

    Raises:
        ConfigError: there is no terminal to ask on, and `--yes` was not said.
    """
    if yes:
        return
    if not _can_ask():
        raise ConfigError(f"{what} Nobody can be asked here: say --yes if it is meant.")
    click.confirm(f"{what} Go on?", abort=True, err=True)


def _can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _remove(
    name: str,
    what: str,
    do: Callable[[Taskmux, Course], Awaitable[BulkResult]],
    *,
    yes: bool,
    limit: int | None = None,
    **target: Any,
) -> None:
    check_queue(name)
    _make_sure(what, yes=yes)
    words = Words("remove", "Removed")
    carry_out(words, Target(queue=name, **target), do, limit=limit)


@queue.command("drain")
@click.argument("name", metavar="QUEUE")
@click.option("--delayed", is_flag=True, help="The delayed jobs, too.")
@yes_option
@url_option
@app_option
@json_option
@errors_to_exit_codes
def queue_drain(name: str, *, delayed: bool, **more: Any) -> None:
    """Remove the waiting jobs of QUEUE; running and finished ones stay."""
    _remove(
        name,
        f"This removes every waiting{' and delayed' if delayed else ''} job of queue {name}.",
        lambda mux, course: mux.queue(name).drain(delayed=delayed, on_progress=course),
        **more,
    )


@queue.command("clean")
@click.argument("name", metavar="QUEUE")
@click.option(
    "--older-than", required=True, metavar="TIME", help="An age, such as 7d, or an instant."
)
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="S",
    help="In this state; several: S,S. Without: completed, dead and cancelled.",
)
@click.option("--limit", type=click.IntRange(1), help="At most so many, the oldest first.")
@yes_option
@url_option
@app_option
@json_option
@errors_to_exit_codes
def queue_clean(
    name: str, older_than: str, states: Sequence[str], *, limit: int | None, **more: Any
) -> None:
    """Remove jobs of QUEUE that ended long ago; those of unfinished states: that began so."""
    state = [one.strip() for entry in states for one in entry.split(",")] or None
    age = instant_of(older_than, "--older-than")
    Filter.of(state=state, until=age)  # what is wrong is told before anybody is asked
    _remove(
        name,
        f"This removes {', '.join(state) if state else 'finished'} jobs of queue {name} that are "
        f"older than {older_than}.",
        lambda mux, course: mux.queue(name).clean(
            age, state=state, limit=limit, on_progress=course
        ),
        limit=limit,
        **more,
    )


@queue.command("obliterate")
@click.argument("name", metavar="QUEUE")
@click.option("--force", is_flag=True, help="Running jobs, too: what they write is refused.")
@yes_option
@url_option
@app_option
@json_option
@errors_to_exit_codes
def queue_obliterate(name: str, *, force: bool, **more: Any) -> None:
    """Remove every job of QUEUE in every state, and forget its settings."""
    _remove(
        name,
        f"This removes every job of queue {name} and forgets its settings.",
        lambda mux, course: mux.queue(name).obliterate(force=force, on_progress=course),
        **more,
    )
