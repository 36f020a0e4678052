"""Lists of jobs: page by page, as JSON lines as they come, or as one table."""

from __future__ import annotations

import difflib
import shlex
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import click
from msgspec.structs import replace

from taskmux.app import Taskmux
from taskmux.cli.bulk import Target
from taskmux.cli.cells import ago, failure, task_cell
from taskmux.cli.common import run_on_app
from taskmux.cli.output import Cell, complain, console, dumps, print_line, say, shown, table
from taskmux.driver import Page
from taskmux.model.job import JobRecord, State

__all__ = ["list_jobs", "page_options", "print_rows", "show_jobs", "unknown"]

MOST = 1000
"""Jobs that one look at a store asks for."""

T = TypeVar("T")

Look = Callable[[Taskmux, str | None, int], Awaitable[Page]]
"""Returns the page at a cursor, of so many jobs at most."""

STYLES = {State.DEAD: "red", State.ACTIVE: "green", State.CANCELLED: "dim"}


def page_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--limit` and `--cursor`."""
    limit = click.option("--limit", type=click.IntRange(1), default=50, help="At most so many: 50.")
    cursor = click.option("--cursor", help="Go on where the list before ended.")
    return limit(cursor(command))


def list_jobs(
    target: Target,
    look: Look,
    *,
    cursor: str | None,
    limit: int,
    show: Callable[[Sequence[JobRecord], int], None],
    none: str = "jobs that fit",
) -> None:
    """Print the jobs that a search finds, and how to go on.

    Args:
        target: where, and how.
        look: asks for a page; one may be short or empty though more follow.
        cursor: where to begin.
        limit: the most jobs.
        show: prints them for people; given the store's time, too.
        none: what there is none of, if there is none.
    """

    async def read(mux: Taskmux) -> tuple[Page, list[str]]:
        at, found, page = cursor, list[JobRecord](), Page(())
        left = limit
        while left:
            page = await look(mux, at, min(left, MOST))
            at, left = page.cursor, left - len(page.jobs)
            if target.as_json:
                for one in page.jobs:
                    print_line(one)
            else:
                found += page.jobs
            if at is None:
                break
        empty = not found and not target.as_json and cursor is None
        return replace(page, jobs=found, cursor=at), await mux.queues() if empty else []

    page, queues = run_on_app(target.url, target.app, read)
    if target.as_json:
        if page.cursor is not None:
            complain(dumps({"cursor": page.cursor}))
        return
    if page.jobs:
        show(page.jobs, page.now or time.time_ns() // 1_000_000)
    else:
        say(f"No {none} in queue {target.queue}.{unknown(target.queue, queues)}")
    if page.cursor is not None:
        complain(f"More: the same command with --cursor {shlex.quote(page.cursor)}")


def unknown(queue: str, queues: Sequence[str]) -> str:
    """Return a sentence if a store has no such queue (any more): it may be misspelt."""
    if queue in queues:
        return ""
    near = difflib.get_close_matches(queue, queues, n=1)
    hint = f"did you mean {near[0]}?" if near else "`taskmux queue ls` lists them."
    return f" The store has no queue of that name now: {hint}"


def show_jobs(jobs: Sequence[JobRecord], now: int) -> None:
    """Print jobs as a table."""
    rows = [(job.id, task_cell(job.task), *_row(job, now)) for job in jobs]
    print_rows(("Id", "Task", "State", "When", "Note"), rows)


def print_rows(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a row a job; on a terminal a task that all have is said once, to leave room."""
    tasks = {str(row[1]) for row in rows}
    if console.is_terminal and len(tasks) == 1 and len(rows) > 1:
        say(shown(f"Task {tasks.pop()}", "bold"))
        headers, rows = _without_task(headers), [_without_task(row) for row in rows]
    table(headers, rows, one_line=True)


def _without_task(row: Sequence[T]) -> list[T]:
    return [row[0], *row[2:]]


def _row(job: JobRecord, now: int) -> Sequence[Cell]:
    at = job.run_at if job.state is State.DELAYED else job.finished_at or job.created_at
    return shown(job.state.value, STYLES.get(job.state, "")), ago(at, now), _note(job)


def _note(job: JobRecord) -> str:
    """Return what else is worth knowing of a job in a list."""
    if job.error is not None and job.state is not State.COMPLETED:
        return failure(job)
    if job.reason:
        return job.reason
    if job.state is State.ACTIVE and job.worker:
        return f"attempt {job.attempts + 1}, on {job.worker}"
    return ", ".join(job.tags)
