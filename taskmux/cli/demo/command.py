"""The command `taskmux demo`: live progress, then a summary and what to try next."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
import msgspec
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from taskmux.api.queue import Counts
from taskmux.cli.common import FAILED, errors_to_exit_codes, in_process
from taskmux.cli.output import console, print_json, say, shown
from taskmux.model.errors import ConfigError
from taskmux.model.job import JobRecord, State

if TYPE_CHECKING:
    from taskmux.cli.demo.run import Course, Outcome

__all__ = ["demo"]


@click.command(short_help="See it work: a hundred e-mails, some with trouble.")
@click.option(
    "--url",
    help="The store, such as redis://localhost: any that several processes reach. Left out: a new "
    "SQLite file in --dir, whatever TASKMUX_URL says.",
)
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Where to put its files.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON for machines.")
@errors_to_exit_codes
def demo(url: str | None, folder: Path | None, *, as_json: bool) -> None:
    """Deliver a hundred e-mails into a local Maildir, and see what goes wrong on the way.

    Two worker processes run the jobs: some fail and are retried, one crashes its worker until it
    is put aside, urgent ones overtake, late ones wait. It ends by itself in some seconds.
    """
    if url is not None and in_process(url):
        raise ConfigError(
            "The demo runs worker processes, but memory:// is seen by one process alone. "
            "Leave out --url for a file, or name a server: --url redis://localhost"
        )
    # The demo's app reads its URL when it is imported, as any app does.
    from taskmux.cli.demo.app import mux  # noqa: PLC0415
    from taskmux.cli.demo.run import Course, run_demo  # noqa: PLC0415

    folder = folder or Path(tempfile.mkdtemp(prefix="taskmux-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    url = url or f"sqlite:///{folder.resolve() / 'demo.db'}"
    mux.use(url)
    course = Course(url, mux.url, f"demo-{os.urandom(3).hex()}", folder.resolve())
    if not as_json:
        say("Store ", shown(course.shown_url, "bold"), ", queue ", shown(course.queue, "bold"))
    with _Display(quiet=as_json) as display:
        outcome = asyncio.run(run_demo(course, display.show))
    facts = _facts(outcome, course)
    if as_json:
        print_json(facts | {"complete": outcome.complete, "folder": str(course.folder)})
    else:
        _summary(facts, outcome, course)
    if not outcome.complete:
        sys.exit(FAILED)


class _Display:
    """The progress bar, or nothing."""

    def __init__(self, *, quiet: bool) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[states]}"),
            console=console,
            disable=quiet,
        )
        self._task = self._bar.add_task("jobs ended", total=None, states="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, counts: Counts, total: int) -> None:
        ended = counts.completed + counts.dead
        states = ", ".join(
            f"{number} {state}"
            for state in ("waiting", "delayed", "active", "completed", "dead")
            if (number := getattr(counts, state))
        )
        self._bar.update(self._task, completed=ended, total=total, states=states)


def _facts(outcome: Outcome, course: Course) -> dict[str, Any]:
    jobs: list[JobRecord] = outcome.finished
    by_end = sorted(
        (job for job in jobs if job.state is State.COMPLETED), key=lambda job: job.finished_at or 0
    )
    urgent = [rank for rank, job in enumerate(by_end, 1) if job.task == "demo.password_reset"]
    late = [
        (job.finished_at or 0) - (job.run_at or 0)
        for job in jobs
        if job.task == "demo.getting_started"
    ]
    return {
        "queue": course.queue,
        "enqueued": outcome.enqueued,
        "seconds": round(outcome.seconds, 1),
        "delivered": outcome.mails,
        "delivered_twice": outcome.duplicates,
        "retried": sum(job.attempts > 1 for job in by_end),
        "redelivered_after_crash": sum(job.crashes > 0 for job in by_end),
        "dead": [
            {"id": job.id, "to": _recipient(job), "reason": job.reason}
            for job in jobs
            if job.state is State.DEAD
        ],
        "urgent_ranks": urgent,
        "delayed_ms_after_due": late,
        "worker_processes_lost": outcome.crashed_workers,
        "unfinished": outcome.counts.unfinished,
    }


def _recipient(job: JobRecord) -> str:
    return str(msgspec.json.decode(job.payload).get("email", "?"))


def _summary(facts: dict[str, Any], outcome: Outcome, course: Course) -> None:
    table = Table.grid(padding=(0, 2))
    rows = {
        "Delivered": f"{facts['delivered']} of {facts['enqueued']} mails in {facts['seconds']} s",
        "Retried": f"{facts['retried']} whose server was busy at first, delivered later",
        "Urgent": f"{len(facts['urgent_ranks'])} enqueued last, finished as number "
        f"{', '.join(map(str, facts['urgent_ranks']))}",
        "Delayed": f"{len(facts['delayed_ms_after_due'])} waited for their time and were sent "
        f"{max(facts['delayed_ms_after_due'], default=0)} ms after it or sooner",
        "Crashes": f"{facts['worker_processes_lost']} worker processes lost; "
        f"{facts['redelivered_after_crash']} of their other jobs redelivered, "
        f"{facts['delivered_twice']} mails delivered twice",
        "Dead": f"{len(facts['dead'])} kept as dead letters, each with its reason:",
    }
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), value)
    for letter in facts["dead"]:
        table.add_row("", shown(f"{letter['to']}: {letter['reason']}", "red"))
    verdict = (
        shown("every job accounted for", "green")
        if outcome.complete
        else shown(f"not complete: {facts['unfinished']} jobs unfinished", "red")
    )
    title = Text("What happened: ").append_text(verdict)
    console.print(Panel(table, title=title, title_align="left"))
    if not outcome.complete:  # below the box, which would cut the path
        say(f"What the worker processes said: {course.log}")
    first = facts["dead"][0]["id"] if facts["dead"] else "ID"
    at = f"--url '{course.shown_url}'"
    me = "taskmux" if shutil.which("taskmux") else sys.argv[0]
    say(shown("Try next", "bold"))
    for command, why in (
        (f"ls {course.maildir}/new", "the mail"),
        (f"{me} queue ls {at}", "how many jobs are in each state"),
        (f"{me} dead ls {course.queue} {at}", "the dead letters"),
        (f"{me} job show {course.queue} {first} {at}", "one of them, with its history"),
        _elsewhere(me, course),
    ):
        say("  ", shown(command, "cyan"), " ", shown(f"# {why}", "dim"))


def _elsewhere(me: str, course: Course) -> tuple[str, str]:
    """Return the command that runs the demo on another kind of store, and what it does."""
    if course.url.lower().startswith(("redis", "unix:")):
        return f"{me} demo", "the same in a file, with no server"
    return f"{me} demo --url redis://localhost", "the same on a Redis, with its extra installed"
