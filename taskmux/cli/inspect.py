"""`taskmux drivers`, `queue ls`, `job show`, `dead ls`: looking, never changing."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import entry_points

import click

from taskmux.api.queue import Counts
from taskmux.app import Taskmux
from taskmux.cli.common import (
    TOO_MANY,
    Commands,
    app_option,
    errors_to_exit_codes,
    json_option,
    run_on_app,
    url_option,
)
from taskmux.cli.output import Cell, complain, facts, panel, print_json, say, shown, table
from taskmux.driver import Page, capabilities_of
from taskmux.model.errors import TaskmuxError
from taskmux.model.job import JobRecord, State
from taskmux.plugins.loading import DRIVERS, driver_for, plugin_manager
from taskmux.policy.expiry import begins_by

__all__ = ["dead", "drivers", "job", "queue"]

SAMPLES = {"sqlite": "sqlite:///taskmux.db"}


@click.command()
@json_option
@errors_to_exit_codes
def drivers(*, as_json: bool) -> None:
    """List the installed drivers, and what each can do."""
    rows = [_driver_row(entry.name, entry.value) for entry in entry_points(group=DRIVERS)]
    rows.sort(key=lambda row: row["scheme"])
    if as_json:
        print_json(rows)
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
    """Look at queues, pause and limit them."""


@queue.command("ls")
@url_option
@app_option
@json_option
@errors_to_exit_codes
def queue_ls(url: str | None, app: str | None, *, as_json: bool) -> None:
    """List the queues with the number of jobs in each state."""

    async def read(mux: Taskmux) -> list[tuple[str, Counts, bool]]:
        return [
            (name, await mux.queue(name).counts(), (await mux.queue(name).settings()).paused)
            for name in await mux.queues()
        ]

    rows = run_on_app(url, app, read)
    if as_json:
        print_json([{"queue": name, "paused": held, "counts": all_} for name, all_, held in rows])
        return
    if not rows:
        say("No queues yet: nothing was enqueued in this store.")
        return
    states = [state.value for state in State if state is not State.MOVED]
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


def _number(count: int, state: str) -> Cell:
    style = "dim" if not count else "red" if state == State.DEAD else ""
    return shown(f"{count:,}", style)


@click.group(cls=Commands)
def job() -> None:
    """Look at single jobs."""


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
    if as_json:
        print_json(record)
        return
    facts(_facts(record))
    for attempt in record.history:
        trace = (attempt.error.traceback or attempt.error.message) if attempt.error else ""
        when = _when(attempt.finished_at)
        panel(f"attempt {attempt.number}: {attempt.outcome}" + (f", {when}" if when else ""), trace)


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
        "Created": _when(record.created_at),
        "Due": _when(record.run_at),
        "Begins by": _when(begins_by(record)),
        "Worker": record.worker,
        "Finished": _when(record.finished_at),
        "Result": _text(record.result),
        "Error": f"{record.error.type}: {record.error.message}" if record.error else None,
        "Progress": _text(record.progress),
        "Steps done": ", ".join(record.steps),
        "Tags": ", ".join(record.tags),
        "Log": "\n".join(record.logs),
    }


@click.group(cls=Commands)
def dead() -> None:
    """Look at dead letters: jobs that failed for good."""


@dead.command("ls")
@click.argument("queue")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, help="At most so many.")
@click.option("--cursor", help="Go on where the page before ended.")
@click.option(
    "--exit-code-if-more-than",
    "most",
    metavar="N",
    type=click.IntRange(0),
    help=f"Exit with status {TOO_MANY} if the queue has more than N dead jobs: for alerts.",
)
@url_option
@app_option
@json_option
@errors_to_exit_codes
def dead_ls(
    queue: str,
    limit: int,
    cursor: str | None,
    *,
    most: int | None,
    url: str | None,
    app: str | None,
    as_json: bool,
) -> None:
    """List the dead jobs of QUEUE, newest first, with the reason of each."""

    async def read(mux: Taskmux) -> tuple[Page, int]:
        page = await mux.queue(queue).page(State.DEAD, newest=True, cursor=cursor, limit=limit)
        return page, 0 if most is None else (await mux.queue(queue).counts()).dead

    page, count = run_on_app(url, app, read)
    if as_json:
        print_json(page)
    else:
        _show_dead(queue, page)
    if most is not None and count > most:
        complain(f"Queue {queue} has {count:,} dead jobs, more than {most:,}.")
        raise SystemExit(TOO_MANY)


def _show_dead(queue: str, page: Page) -> None:
    if not page.jobs:
        say(f"No dead jobs in queue {queue}.")
        return
    table(
        ("Id", "Task", "Died", "Reason", "Last error"),
        [
            (
                one.id,
                one.task,
                _when(one.finished_at) or "",
                one.reason or "",
                f"{one.error.type}: {one.error.message}" if one.error else "-",
            )
            for one in page.jobs
        ],
    )
    if page.cursor is not None:
        complain(f"More: taskmux dead ls {queue} --cursor {page.cursor}")


def _when(ms: int | None) -> str | None:
    return None if ms is None else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")
