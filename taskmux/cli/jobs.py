"""`taskmux job ls|logs|edit`: finding jobs, following one, changing what it was given."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from taskmux.app import Taskmux
from taskmux.cli.arguments import arguments_option, given
from taskmux.cli.bulk import Target
from taskmux.cli.common import (
    app_option,
    errors_to_exit_codes,
    json_option,
    run_on_app,
    url_option,
)
from taskmux.cli.control import job
from taskmux.cli.filters import filter_options
from taskmux.cli.listing import list_jobs, page_options, show_jobs
from taskmux.cli.output import complain, console, print_line, say
from taskmux.driver import Page
from taskmux.model.job import TERMINAL

__all__ = ["job"]

LOOK_SECONDS = 0.5
"""How often a log that is followed is looked at."""


@job.command("ls")
@click.argument("queue")
@page_options
@click.option("--newest", is_flag=True, help="The newest first.")
@url_option
@app_option
@json_option
@errors_to_exit_codes
@filter_options()
def job_ls(
    queue: str, cursor: str | None, limit: int, where: dict[str, Any], *, newest: bool, **to: Any
) -> None:
    """List jobs of QUEUE, along a job's life: delayed, blocked, waiting, active, finished ones.

    With --json an object a line; the cursor of what follows is on standard error.
    """

    async def look(mux: Taskmux, at: str | None, number: int) -> Page:
        return await mux.queue(queue).find(newest=newest, cursor=at, limit=number, **where)

    list_jobs(Target(queue=queue, **to), look, cursor=cursor, limit=limit, show=show_jobs)


@job.command("logs")
@click.argument("queue")
@click.argument("job_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has finished.")
@url_option
@app_option
@json_option
@errors_to_exit_codes
def job_logs(
    queue: str, job_id: str, url: str | None, app: str | None, *, follow: bool, as_json: bool
) -> None:
    """Print what a job of QUEUE has logged, with `ctx.log`."""

    async def read(mux: Taskmux) -> int:
        handle, printed = mux.job(queue, job_id), 0
        while True:
            record = await handle.record()
            for line in record.logs[printed:]:
                _log_line(line, as_json=as_json)
            printed = len(record.logs)
            if not follow or record.state in TERMINAL or console.quiet:
                return printed
            await asyncio.sleep(LOOK_SECONDS)

    if not run_on_app(url, app, read) and not as_json:
        complain(f"Job {queue}/{job_id} has logged nothing.")


def _log_line(line: str, *, as_json: bool) -> None:
    if as_json:
        print_line({"line": line})
    else:
        say(line)


@job.command("edit")
@click.argument("queue")
@click.argument("job_id", metavar="ID")
@click.argument("changes", metavar="[NAME=VALUE]...", nargs=-1)
@arguments_option
@url_option
@app_option
@json_option
@errors_to_exit_codes
def job_edit(
    queue: str,
    job_id: str,
    changes: tuple[str, ...],
    arguments: str | None,
    *,
    url: str | None,
    app: str | None,
    as_json: bool,
) -> None:
    """Change arguments of a job of QUEUE that does not run: some by name, or all of them.

    A dead job stays dead: let it run again by `taskmux job retry`. With --app the task's signature
    is checked.
    """
    said = given(changes, arguments, needed=True)

    async def edit(mux: Taskmux) -> dict[str, Any]:
        handle = mux.job(queue, job_id)
        everything = said if arguments is not None else (await handle.record()).arguments | said
        await handle.edit(everything, replace=True)
        return everything

    now = run_on_app(url, app, edit)
    if as_json:
        print_line({"queue": queue, "id": job_id, "arguments": now})
    else:
        say(f"Edited {queue}/{job_id}")
