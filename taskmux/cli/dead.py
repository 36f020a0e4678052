"""`taskmux dead show|stats|redrive|purge`: what went wrong, and what is done about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from taskmux.app import Taskmux
from taskmux.cli.bulk import Target, Words, bulk_options, carry_out, followed, narrowed
from taskmux.cli.cells import ago, clipped, error_name, plural, task_cell
from taskmux.cli.common import (
    NO_JOB,
    app_option,
    errors_to_exit_codes,
    json_option,
    run_on_app,
    url_option,
)
from taskmux.cli.filters import filter_options
from taskmux.cli.inspect import dead, show_job
from taskmux.cli.output import Cell, complain, console, print_json, say, shown, table
from taskmux.model.errors import DeclarationError
from taskmux.model.job import JobRecord, State
from taskmux.policy.deadstats import WINDOWS, DeadStats
from taskmux.policy.fingerprints import fingerprint

__all__ = ["dead"]


@dead.command("show")
@click.argument("queue")
@click.argument("job_id", metavar="ID")
@url_option
@app_option
@json_option
@errors_to_exit_codes
def dead_show(queue: str, job_id: str, url: str | None, app: str | None, *, as_json: bool) -> None:
    """Show one dead job of QUEUE: its arguments, its attempts with their tracebacks."""
    record: JobRecord = run_on_app(url, app, lambda mux: mux.queue(queue).get(job_id))
    if record.state is not State.DEAD:
        complain(f"Job {record.ref} is {record.state}, not dead: taskmux job show {queue} {job_id}")
        raise SystemExit(NO_JOB)
    show_job(record, as_json=as_json)
    if not as_json:
        mark = fingerprint(record.task, record.error, record.reason)
        say(f"Fails like: taskmux dead ls {queue} --fingerprint {mark}")
        say(f"Run again:  taskmux dead redrive {queue} {job_id}")


@dead.command("stats")
@click.argument("queue")
@url_option
@app_option
@json_option
@errors_to_exit_codes
@filter_options(state=False)
def dead_stats(
    queue: str, where: dict[str, Any], *, url: str | None, app: str | None, as_json: bool
) -> None:
    """Count the dead jobs of QUEUE by task and way of failing, and by error and time."""
    with followed("Counting", as_json=as_json) as course:

        async def count(mux: Taskmux) -> DeadStats:
            return await mux.queue(queue).dead.stats(on_progress=course, **where)

        stats = run_on_app(url, app, count)
    if as_json:
        print_json(stats)
        return
    if not stats.total:
        say(f"No dead jobs in queue {queue}.")
        return
    say(shown(f"{plural(stats.total, 'dead job')} in queue {queue}", "bold"))
    _show_groups(stats)
    say("")
    spans = (*WINDOWS, "all")
    table(
        ("Error", *spans),
        [
            (kind, *(_number(row[span]) for span in spans))
            for kind, row in sorted(stats.errors.items(), key=lambda one: -one[1]["all"])
        ],
    )


def _show_groups(stats: DeadStats) -> None:
    if console.is_terminal:
        table(
            ("Count", "Task", "Failed with", "Fingerprint", "Last"),
            [
                (
                    f"{one.count:,}",
                    task_cell(one.task),
                    clipped(f"{error_name(one.error)}: {one.pattern}"),
                    one.fingerprint,
                    ago(one.last_at, stats.at),
                )
                for one in stats.groups
            ],
        )
        return
    table(
        ("Count", "Task", "Error", "Message", "Fingerprint", "Last"),
        [
            (
                f"{one.count:,}",
                task_cell(one.task),
                one.error,
                one.pattern,
                one.fingerprint,
                ago(one.last_at, stats.at),
            )
            for one in stats.groups
        ],
    )


def _number(count: int) -> Cell:
    return shown(f"{count:,}", "" if count else "dim")


def _named(where: dict[str, Any], job_ids: Sequence[str]) -> dict[str, Any]:
    """Return a filter with ids that were given as arguments.

    Raises:
        DeclarationError: ids were given in both ways.
    """
    if job_ids and "ids" in where:
        raise DeclarationError("Give ids as arguments or by --id, not both.")
    return where | {"ids": job_ids} if job_ids else where


def _run(
    words: Words,
    queue: str,
    job_ids: tuple[str, ...],
    where: dict[str, Any],
    *,
    everything: bool,
    dry_run: bool,
    limit: int | None,
    url: str | None,
    app: str | None,
    as_json: bool,
    **more: Any,
) -> None:
    where = _named(where, job_ids)
    narrowed(words.verb, where, everything=everything, state=False)
    bulk = more | where | {"all": everything, "dry_run": dry_run, "limit": limit}
    result = carry_out(
        words,
        Target(queue=queue, url=url, app=app, as_json=as_json),
        lambda mux, course: getattr(mux.queue(queue).dead, words.verb)(on_progress=course, **bulk),
        dry_run=dry_run,
        limit=limit,
    )
    missing = len(set(job_ids)) - result.matched
    if job_ids and missing > 0 and limit is None:
        complain(f"{plural(missing, 'id')} of no dead job in queue {queue}: nothing to do for it.")
        raise SystemExit(NO_JOB)


@dead.command("redrive")
@click.argument("queue")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@click.option("--rate", help="Spread them over time: 10/s, 100/m. Without: all at once.")
@click.option("--keep-attempts", is_flag=True, help="One more try each, not all of them anew.")
@bulk_options
@url_option
@app_option
@json_option
@errors_to_exit_codes
@filter_options(state=False)
def dead_redrive(*, keep_attempts: bool, **said: Any) -> None:
    """Let dead jobs of QUEUE run again: by ID, or by a filter. The oldest come first."""
    _run(Words("redrive", "Redrove"), reset_attempts=not keep_attempts, **said)


@dead.command("purge")
@click.argument("queue")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@bulk_options
@url_option
@app_option
@json_option
@errors_to_exit_codes
@filter_options(state=False)
def dead_purge(**said: Any) -> None:
    """Remove dead jobs of QUEUE for good: by ID, or by a filter."""
    _run(Words("purge", "Purged"), **said)
