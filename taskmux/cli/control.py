"""`taskmux queue pause|resume|limit|show` and `job explain`: who runs, and who does not."""

from __future__ import annotations

from typing import Any, Literal

import click
import msgspec

from taskmux.api.queue import Counts
from taskmux.app import Taskmux
from taskmux.cli.common import (
    app_option,
    errors_to_exit_codes,
    json_option,
    run_on_app,
    url_option,
)
from taskmux.cli.inspect import job, queue
from taskmux.cli.listing import unknown
from taskmux.cli.output import Cell, complain, print_json, say, shown, table
from taskmux.model.errors import DeclarationError
from taskmux.model.queue import LineSettings, QueueSettings, Rate
from taskmux.model.units import show_ms
from taskmux.policy.explain import Explanation

__all__ = ["job", "queue"]

group_option = click.option("--group", help="This group only; '*' is every group.")
task_option = click.option("--task", help="This task only; it must have a line of its own.")


def _on_a_line(verb: Literal["pause", "resume", "reset"], about: str) -> None:
    @queue.command(verb, help=about)
    @click.argument("name", metavar="QUEUE")
    @group_option
    @task_option
    @url_option
    @app_option
    @json_option
    @errors_to_exit_codes
    def change(name: str, url: str | None, app: str | None, *, as_json: bool, **of: Any) -> None:
        _change(name, url, app, lambda mux: getattr(mux.queue(name), verb)(**of), as_json=as_json)


_on_a_line("pause", "Let no worker claim from QUEUE; jobs stay waiting, running ones finish.")
_on_a_line("resume", "Let workers claim from QUEUE again.")
_on_a_line("reset", "Forget what was said about a group or task of QUEUE by name.")


@queue.command("limit")
@click.argument("name", metavar="QUEUE")
@click.option("--rate", help="Starts per time, such as 100/m or 100/m+20; none takes it away.")
@click.option("--concurrency", help="Jobs that run at once; none takes it away.")
@click.option("--max-waiting", help="With --group '*': how many jobs of a group may wait.")
@group_option
@task_option
@url_option
@app_option
@json_option
@errors_to_exit_codes
def queue_limit(
    name: str,
    url: str | None,
    app: str | None,
    group: str | None,
    task: str | None,
    *,
    as_json: bool,
    **limits: str | None,
) -> None:
    """Limit how many jobs of QUEUE start or run, on all workers, from now on."""
    said = {what: _said(what, text) for what, text in limits.items() if text is not None}
    if not said:
        raise DeclarationError("Nothing to change: give --rate, --concurrency or --max-waiting.")
    _change(
        name,
        url,
        app,
        lambda mux: mux.queue(name).limit(group=group, task=task, **said),
        as_json=as_json,
    )


def _said(what: str, text: str) -> Any:
    if text.lower() == "none":
        return None
    return int(text) if what != "rate" and text.isdecimal() else text


def _change(name: str, url: str | None, app: str | None, do: Any, *, as_json: bool) -> None:
    async def change(mux: Taskmux) -> tuple[list[str], QueueSettings]:
        known = await mux.queues()
        await do(mux)
        return known, await mux.queue(name).settings()

    known, settings = run_on_app(url, app, change, looks=False)
    _show(name, settings, None, as_json=as_json)
    if name not in known:
        complain(f"This is for jobs to come.{unknown(name, known)}")


@queue.command("show")
@click.argument("name", metavar="QUEUE")
@url_option
@app_option
@json_option
@errors_to_exit_codes
def queue_show(name: str, url: str | None, app: str | None, *, as_json: bool) -> None:
    """Show what is stored about QUEUE: pauses, limits, defaults, and its counts."""

    async def read(mux: Taskmux) -> tuple[QueueSettings, Counts]:
        return await mux.queue(name).settings(), await mux.queue(name).counts()

    settings, counts = run_on_app(url, app, read)
    _show(name, settings, counts, as_json=as_json)


def _show(name: str, settings: QueueSettings, counts: Counts | None, *, as_json: bool) -> None:
    if as_json:
        told: dict[str, object] = {"queue": name, "settings": settings}
        print_json(told if counts is None else told | {"counts": counts})
        return
    rows = [_row(f"queue {name}", settings)]
    if settings.groups != LineSettings():
        rows.append(_row("every group", settings.groups))
    for line, own in sorted(settings.lines.items()):
        rows.append(_row(f"task {line[1:]}" if line.startswith("@") else f"group {line}", own))
    table(("Line", "Paused", "Rate", "Concurrency"), rows)
    if settings.group_size is not None:
        say(f"At most {settings.group_size:,} jobs of a group may wait.")
    if settings.defaults is not None:
        say(f"Defaults for jobs: {settings.defaults.decode('utf-8', 'replace')}")
    if settings.moved_to is not None:
        say(shown(f"Moved to {settings.moved_to}", "yellow"))
    if counts is not None:
        numbers = msgspec.structs.asdict(counts).items()
        say(", ".join(f"{number:,} {state}" for state, number in numbers))


def _row(title: str, own: QueueSettings | LineSettings) -> tuple[Cell, ...]:
    limit = "-" if own.concurrency is None else f"{own.concurrency:,}"
    paused = shown("paused", "yellow") if own.paused else "-"
    return title, paused, _rate(own.rate), limit


def _rate(rate: Rate | None) -> str:
    return "-" if rate is None else f"{rate.count:,} per {show_ms(rate.per)}, burst {rate.burst:,}"


@job.command("explain")
@click.argument("queue_name", metavar="QUEUE")
@click.argument("job_id", metavar="ID")
@url_option
@app_option
@json_option
@errors_to_exit_codes
def job_explain(
    queue_name: str, job_id: str, url: str | None, app: str | None, *, as_json: bool
) -> None:
    """Say why a job of QUEUE does not run."""

    async def ask(mux: Taskmux) -> Explanation:
        return await mux.queue(queue_name).job(job_id).explain()

    found = run_on_app(url, app, ask)
    if as_json:
        print_json(found)
        return
    say(shown(f"{found.ref} is {found.state}.", "bold"))
    for reason in found.reasons:
        say(f"  {reason.cause}: {reason.text}")
