"""Bulk work on the command line: how far it is, what became of it, and how it goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from taskmux.api.bulk import BulkResult
from taskmux.app import Taskmux
from taskmux.cli.cells import plural
from taskmux.cli.common import INTERRUPTED, run_on_app
from taskmux.cli.output import complain, complaints, print_line, say, shown
from taskmux.model.errors import DeclarationError, StoreError

__all__ = ["Course", "Target", "Words", "bulk_options", "carry_out", "followed", "narrowed"]

Command = Callable[..., Any]


class Words(msgspec.Struct, frozen=True):
    """How a verb is spoken of: `retry`, `Retried`."""

    verb: str
    done: str


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a command acts, and how it answers."""

    queue: str
    url: str | None
    app: str | None
    as_json: bool


class Course:
    """How far something is."""

    def __init__(self) -> None:
        self.done = 0
        self.total: int | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Note what a bulk call tells after every batch."""
        self.done, self.total = done, total

    def __str__(self) -> str:
        return plural(self.done) if self.total is None else f"{self.done:,} of {self.total:,} jobs"


def narrowed(verb: str, where: dict[str, Any], *, everything: bool, state: bool = True) -> None:
    """See that a filter was given, or `--all`.

    Raises:
        DeclarationError: neither was.
    """
    if not where and not everything:
        states = "--state, " if state else ""
        raise DeclarationError(
            f"{verb} without ids or a filter would be for every job. Give ids, a filter "
            f"({states}--task, --tag, --error, --fingerprint, --text, --since, --until), or --all."
        )


def bulk_options(command: Command) -> Command:
    """Add `--all`, `--dry-run` and `--limit`."""
    for option in (
        click.option("--limit", type=click.IntRange(1), help="At most so many jobs."),
        click.option("--dry-run", is_flag=True, help="Count the jobs and change none."),
        click.option("--all", "everything", is_flag=True, help="Needed where no filter is given."),
    ):
        command = option(command)
    return command


@contextmanager
def followed(title: str, *, as_json: bool) -> Iterator[Course]:
    """Show on a terminal how far something is."""
    course = Course()
    if as_json or not complaints.is_terminal:
        yield course
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, TimeElapsedColumn(), console=complaints, transient=True)
    row = bar.add_task(title, total=None)

    class Shown(Course):
        def __call__(self, done: int, total: int | None) -> None:
            super().__call__(done, total)
            bar.update(row, completed=done, total=None if total is None else max(done, total))

    with bar:
        yield Shown()


def carry_out(
    words: Words,
    target: Target,
    do: Callable[[Taskmux, Course], Awaitable[BulkResult]],
    *,
    dry_run: bool = False,
    limit: int | None = None,
) -> BulkResult:
    """Do bulk work and say what became of it.

    Args:
        words: what it is called.
        target: where.
        do: the bulk call; its `on_progress` is the course.
        dry_run: it only counts.
        limit: what `--limit` said.

    Raises:
        StoreError: the store cannot go on; the error says how far it came.
    """
    with followed(words.verb.title(), as_json=target.as_json) as course:
        try:
            result = run_on_app(target.url, target.app, lambda mux: do(mux, course))
        except KeyboardInterrupt:
            halted = _halted(course, limit, dry_run=dry_run)
        except StoreError as error:
            if course.done and not dry_run:
                error.add_note(_halted(course, limit, dry_run=False, how="Ended midway"))
            raise
        else:
            halted = ""
    if halted:
        complain(halted)
        raise SystemExit(INTERRUPTED)
    _tell(words, target, result, dry_run=dry_run)
    return result


def _halted(course: Course, limit: int | None, *, dry_run: bool, how: str = "Interrupted") -> str:
    if dry_run:
        return f"Interrupted: {course} counted, nothing was changed."
    if not course.done:
        return "Interrupted in the first batch. The same command goes on."
    left = "" if limit is None else f", with --limit {max(1, limit - course.done)}"
    return (
        f"{how}: at least {course} were dealt with, which stays so. The same command goes on{left}."
    )


def _tell(words: Words, target: Target, result: BulkResult, *, dry_run: bool) -> None:
    if target.as_json:
        said = {"queue": target.queue, "verb": words.verb, "dry_run": dry_run}
        print_line(said | msgspec.structs.asdict(result))
        return
    if dry_run:
        say(f"Would {words.verb} {plural(result.matched)} of queue {target.queue}.")
        return
    say(f"{words.done} {plural(result.done)} of queue {target.queue}.")
    if result.requested:
        say(f"Asked {plural(result.requested)} that run to stop.")
    for why, number in result.skipped.items():
        say(shown(f"Skipped {plural(number)}: {SKIPPED.get(why, f'{why} by then')}.", "yellow"))


SKIPPED = {
    "conflict": "another unfinished job owns the deduplication key",
    "gone": "removed meanwhile",
    "refused": "the store refused, as it does a damaged record",
}
