"""`taskmux drivers`, `queue ls`, `job show`, `dead ls`: looking, never changing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

import click

from taskmux.api.queue import Counts
from taskmux.app import Taskmux
from taskmux.cli.bulk import Target
from taskmux.cli.cells import ago, failure, plural, task_cell, when
from taskmux.cli.common import (
    TOO_MANY,
    Commands,
    app_option,
    errors_to_exit_codes,
    json_option,
    run_on_app,
    url_option,
)
from taskmux.cli.filters import filter_options
from taskmux.cli.listing import list_jobs, page_options, print_rows
from taskmux.cli.output import (
    Cell,
    complain,
    console,
    facts,
    panel,
    print_json,
    print_lines,
    say,
    shown,
    table,
)
from taskmux.driver import Page, capabilities_of
from taskmux.model.errors import TaskmuxError, UnsupportedFeature
from taskmux.model.job import JobRecord, State
from taskmux.plugins.loading import DRIVERS, driver_for, plugin_manager
from taskmux.policy.expiry import begins_by

__all__ = ["dead", "drivers", "job", "queue", "show_job"]

SAMPLES = {
    "sqlite": "sqlite:///taskmux.db",
    "redis+sentinel": "redis+sentinel://localhost/mymaster",
}
"""URLs of schemes where `scheme://localhost` is none."""


@click.command()
@json_option
@errors_to_exit_codes
def drivers(*, as_json: bool) -> None:
    """List the installed drivers, and what each can do."""
    rows = [_driver_row(entry.name, entry.value) for entry in entry_points(group=DRIVERS)]
    rows.sort(key=lambda row: row["scheme"])
    if as_json:
        print_lines(rows)
        return
    table(
        ("URL", "Module", "Capabilities", "Ready"),
        [
            (
                f"{row['scheme']}://",
                row["module"],
                row["capabilities"] or "-",
                shown("yes", "green") if row["ready"] else row["problem"],
            )
            for row in rows
        ],
    )


def _driver_row(scheme: str, module: str) -> dict[str, str]:
    row = {"scheme": scheme, "module": module, "capabilities": "", "ready": "yes", "problem": ""}
    try:
        driver = driver_for(SAMPLES.get(scheme, f"{scheme}://localhost"), plugin_manager())
    except Exception as error:  # noqa: BLE001 - a broken driver must not hide the others
        words = str(error) if isinstance(error, TaskmuxError) else repr(error)
        return row | {"ready": "", "problem": words}
    return row | {"capabilities": ", ".join(capabilities_of(driver))}


@click.group(cls=Commands)
def queue() -> None:
    """Look at queues, pause, limit and empty them."""


@queue.command("ls")
@url_option
@app_option
@json_option
@errors_to_exit_codes
def queue_ls(url: str | None, app: str | None, *, as_json: bool) -> None:
    """List the queues with the number of jobs in each state."""
    rows, served = run_on_app(url, app, _queues)
    if as_json:
        print_lines(
            [
                {
                    "queue": name,
                    "paused": paused,
                    "workers": None if served is None else served[name],
                    "counts": counts,
                }
                for name, counts, paused in rows
            ]
        )
        return
    if not rows:
        say("No queues yet: nothing was enqueued in this store.")
        return
    states = _columns([counts for _, counts, _ in rows])
    table(
        ("Queue", *(state.title() for state in states)),
        [
            (
                f"{name} (paused)" if paused else name,
                *(_number(getattr(counts, state), state) for state in states),
            )
            for name, counts, paused in rows
        ],
    )
    for name, counts, _ in rows:
        if served is not None and not served[name] and counts.waiting:
            waiting = f"{plural(counts.waiting)} wait" + ("s" if counts.waiting == 1 else "")
            complain(shown(f"No live worker serves {name}, where {waiting}.", "yellow"))


USUAL = (State.WAITING, State.ACTIVE, State.COMPLETED, State.DEAD)


def _columns(counts: Sequence[Counts]) -> list[str]:
    """Return the states that have a column; on a terminal the rarer ones only if jobs are there."""
    return [
        state.value
        for state in State
        if state is not State.MOVED
        and (
            not console.is_terminal
            or state in USUAL
            or any(getattr(one, state.value) for one in counts)
        )
    ]


async def _queues(mux: Taskmux) -> tuple[list[tuple[str, Counts, bool]], Counter[str] | None]:
    """Return the queues, and how many live workers serve each; None: no store can tell."""
    rows = [
        (name, await mux.queue(name).counts(), (await mux.queue(name).settings()).paused)
        for name in await mux.queues()
    ]
    try:
        workers = await mux.workers()
    except UnsupportedFeature:
        return rows, None
    return rows, Counter(name for one in workers for name in one.queues)


def _number(count: int, state: str) -> Cell:
    style = "dim" if not count else "red" if state == State.DEAD else ""
    return shown(f"{count:,}", style)


@click.group(cls=Commands)
def job() -> None:
    """Find jobs, look at them, and change them: by id, or all that a filter means."""


@job.command("show")
@click.argument("queue")
@click.argument("job_id", metavar="ID")
@url_option
@app_option
@json_option
@errors_to_exit_codes
def job_show(queue: str, job_id: str, url: str | None, app: str | None, *, as_json: bool) -> None:
    """Show one job of QUEUE: its state and why, its arguments, its past attempts."""
    record = run_on_app(url, app, lambda mux: mux.queue(queue).get(job_id))
    show_job(record, as_json=as_json)


def show_job(record: JobRecord, *, as_json: bool) -> None:
    """Print a job: its facts, and its past attempts."""
    if as_json:
        print_json(record)
        return
    facts(_facts(record))
    for attempt in record.history:
        trace = (attempt.error.traceback or attempt.error.message) if attempt.error else ""
        at = when(attempt.finished_at)
        panel(f"attempt {attempt.number}: {attempt.outcome}" + (f", {at}" if at else ""), trace)


def _facts(record: JobRecord) -> dict[str, str | None]:
    policy = record.policy
    return {
        "Job": f"{record.queue}/{record.id}",
        "Task": record.task,
        "State": record.state.value + (f": {record.reason}" if record.reason else ""),
        "Arguments": record.payload.decode("utf-8", "replace"),
        "Priority": str(record.priority),
        "Attempts": f"{record.attempts} of {policy.max_attempts}",
        "Crashes": f"{record.crashes} of {policy.max_crashes}",
        "Created": when(record.created_at),
        "Due": _due(record),
        "Begins by": when(begins_by(record)),
        "Worker": record.worker,
        "Finished": when(record.finished_at),
        "Result": _text(record.result),
        "Error": " ".join(str(record.error).split()) if record.error else None,
        "Progress": _text(record.progress),
        "Steps done": ", ".join(record.steps),
        "Tags": ", ".join(record.tags),
        "Log": "\n".join(record.logs),
    }


def _due(record: JobRecord) -> str | None:
    """Return when it is or was due. One that was promoted waits now, whatever it was due at."""
    promoted = record.state is State.WAITING and (record.run_at or 0) > time.time() * 1000
    return None if promoted else when(record.run_at)


@click.group(cls=Commands)
def dead() -> None:
    """Dead letters, jobs that failed for good: look at them, count them, run them again."""


@dead.command("ls")
@click.argument("queue")
@page_options
@click.option(
    "--exit-code-if-more-than",
    "most",
    metavar="N",
    type=click.IntRange(0),
    help=f"Exit with status {TOO_MANY} if more than N dead jobs are meant: for alerts.",
)
@url_option
@app_option
@json_option
@errors_to_exit_codes
@filter_options(state=False)
def dead_ls(
    queue: str,
    cursor: str | None,
    limit: int,
    *,
    most: int | None,
    where: dict[str, Any],
    **target: Any,
) -> None:
    """List the dead jobs of QUEUE, those that died last first, with the reason of each.

    With --json an object a line; the cursor of what follows is on standard error.
    """
    count: int | None = None

    async def look(mux: Taskmux, at: str | None, number: int) -> Page:
        nonlocal count
        dead = mux.queue(queue).dead
        if most is not None and count is None:
            count = (await dead.purge(dry_run=True, all=True, **where)).matched
        return await dead.find(cursor=at, limit=number, **where)

    at = Target(queue=queue, **target)
    list_jobs(at, look, cursor=cursor, limit=limit, show=_show_dead, none="dead jobs")
    if most is not None and (count or 0) > most:
        complain(f"Queue {queue} has {count:,} dead jobs, more than {most:,}.")
        raise SystemExit(TOO_MANY)


def _show_dead(jobs: Sequence[JobRecord], now: int) -> None:
    whole = [(job.id, task_cell(job.task), ago(job.finished_at, now)) for job in jobs]
    if console.is_terminal:  # the error says more than that its attempts are spent
        whys = [failure(job) if job.error else job.reason or "-" for job in jobs]
        rows = [(*row, why) for row, why in zip(whole, whys, strict=True)]
        print_rows(("Id", "Task", "Died", "Why"), rows)
    else:
        told = [(job.reason or "", failure(job)) for job in jobs]
        lines = [(*row, *why) for row, why in zip(whole, told, strict=True)]
        table(("Id", "Task", "Died", "Reason", "Last error"), lines)


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")
