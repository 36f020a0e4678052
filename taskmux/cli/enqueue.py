"""`taskmux enqueue`: a job by its task's name."""

from __future__ import annotations

import difflib
from typing import Any

import click

from taskmux.api.handle import JobHandle
from taskmux.app import Taskmux
from taskmux.cli.arguments import arguments_option, given
from taskmux.cli.common import (
    app_option,
    errors_to_exit_codes,
    json_option,
    run_on_app,
    url_option,
)
from taskmux.cli.filters import instant_of
from taskmux.cli.output import complain, print_line, say, shown
from taskmux.model.errors import DeclarationError, InvalidArguments
from taskmux.model.units import milliseconds

__all__ = ["enqueue"]


@click.command()
@click.argument("task")
@click.argument("pairs", metavar="[NAME=VALUE]...", nargs=-1)
@arguments_option
@click.option("--queue", help="The queue, if not the task's.")
@click.option("--id", help="The job's id: enqueued again, it is not stored twice.")
@click.option("--delay", metavar="TIME", help="Run it so long from now, such as 10m.")
@click.option("--run-at", metavar="INSTANT", help="Run it then: 2026-12-24T18:00Z.")
@click.option("--priority", help="critical, high, normal, low, or 0 (first) to 2047.")
@click.option("--tag", "tags", multiple=True, help="A tag to find it by; may be repeated.")
@click.option("--header", "headers", multiple=True, metavar="NAME=TEXT", help="May be repeated.")
@click.option("--group", help="A line of its own in the queue.")
@click.option("--dedup", metavar="KEY", help="At most one unfinished job has this key.")
@click.option("--max-attempts", type=int, metavar="N", help="How often it is tried at most.")
@click.option("--timeout", metavar="TIME", help="How long one run may take.")
@click.option("--lifo", is_flag=True, default=None, help="Run it before those that wait already.")
@click.option("--wait", metavar="TIME", help="Wait so long for its result, and print that.")
@url_option
@app_option
@json_option
@errors_to_exit_codes
def enqueue(
    task: str,
    pairs: tuple[str, ...],
    arguments: str | None,
    *,
    wait: str | None,
    url: str | None,
    app: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Enqueue a job of TASK, and print its queue and id.

    A value that parses as JSON is that (42, true, '["a"]', '"42"'), other text is itself. If the
    app (--app) has the task, its options hold and its signature is checked.
    """
    values, said = given(pairs, arguments), _options(options)
    if wait is not None:
        milliseconds(wait, "--wait")

    async def put(mux: Taskmux) -> None:
        _warn_of_unknown(mux, task)
        job = await _enqueue(mux, task, values, said)
        told = {"queue": job.queue, "id": job.id, "status": job.pushed}
        if not as_json:
            say(str(job.ref))
            if job.duplicate:
                complain(shown("It was there already: nothing was enqueued.", "yellow"))
        elif wait is None:
            print_line(told)
        if wait is not None:
            result = await mux.job(job.queue, job.id).result(wait)  # plain: only printed
            print_line(told | {"result": result} if as_json else result)

    run_on_app(url, app, put, looks=False)


async def _enqueue(
    mux: Taskmux, task: str, values: dict[str, Any], options: dict[str, Any]
) -> JobHandle[Any]:
    try:
        return await mux.enqueue(task, values, **options)
    except InvalidArguments as error:
        if "Expected `str" in str(error):
            error.add_note("A text that looks like a number goes in quotes: name='\"42\"'.")
        raise


def _options(said: dict[str, Any]) -> dict[str, Any]:
    """Return what was said as options of a job.

    Raises:
        DeclarationError: a header or an instant cannot be read.
    """
    options = {name: value for name, value in said.items() if value not in (None, ())}
    priority = options.get("priority", "")
    if priority.isdecimal() and priority.isascii():
        options["priority"] = int(priority)
    if "run_at" in options:
        at = options["run_at"]
        options["run_at"] = instant_of(at, "--run-at")
        if isinstance(options["run_at"], str):
            raise DeclarationError(f"--run-at {at!r} is no instant. Write 2026-12-24T18:00Z.")
    if "headers" in options:
        headers = [entry.partition("=") for entry in options["headers"]]
        if wrong := [name for name, mark, _ in headers if not mark or not name]:
            raise DeclarationError(f"--header {wrong[0]!r} is no header. Write name=text.")
        options["headers"] = {name: text for name, _, text in headers}
    return options


def _warn_of_unknown(mux: Taskmux, task: str) -> None:
    """Say that an app with tasks has none of this name: it may be misspelt."""
    names = mux.tasks.names()
    if not names or task in names:
        return
    near = difflib.get_close_matches(task, names, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    complain(
        shown(f"The app has no task {task}: a worker that has one must run it.{hint}", "yellow")
    )
