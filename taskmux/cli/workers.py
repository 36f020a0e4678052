"""`taskmux worker ls|pause|resume|stop|concurrency`: the live workers of a store."""

from __future__ import annotations

import time
from typing import Literal

import click

from taskmux.app import Taskmux
from taskmux.cli.common import (
    NO_JOB,
    app_option,
    errors_to_exit_codes,
    json_option,
    run_on_app,
    url_option,
)
from taskmux.cli.output import complain, print_lines, say, shown, table
from taskmux.cli.worker import worker
from taskmux.model.units import show_ms
from taskmux.model.workers import Command

__all__ = ["worker"]


@worker.command("ls")
@url_option
@app_option
@json_option
@errors_to_exit_codes
def worker_ls(url: str | None, app: str | None, *, as_json: bool) -> None:
    """List the live workers: what they serve, how busy they are."""
    rows = run_on_app(url, app, Taskmux.workers)
    if as_json:
        print_lines(rows)
        return
    if not rows:
        say("No live workers. Start one: taskmux worker app:mux")
        return
    now = time.time_ns() // 1_000_000
    table(
        ("Worker", "Queues", "Running", "State", "Up", "Seen", "Tasks"),
        [
            (
                row.id,
                ", ".join(row.queues),
                f"{row.running} of {row.concurrency}",
                shown("paused", "yellow") if row.paused else "works",
                show_ms(max(0, now - row.started_at) // 1000 * 1000),
                f"{show_ms(max(0, now - row.seen_at) // 1000 * 1000)} ago",
                str(len(row.tasks)),
            )
            for row in rows
        ],
    )


def _tell(worker_id: str, command: Command, url: str | None, app: str | None) -> None:
    async def tell(mux: Taskmux) -> bool:
        return await mux.tell(worker_id, command)

    if not run_on_app(url, app, tell):
        complain(f"There is no live worker {worker_id}. `taskmux worker ls` lists them.")
        raise SystemExit(NO_JOB)
    say(f"Told {worker_id} to {command}; it does so within two seconds.")


def _command(verb: Literal["pause", "resume", "stop"], about: str) -> None:
    @worker.command(verb, help=about)
    @click.argument("worker_id", metavar="ID")
    @url_option
    @app_option
    @errors_to_exit_codes
    def tell(worker_id: str, url: str | None, app: str | None) -> None:
        _tell(worker_id, Command(verb), url, app)


_command("pause", "Let worker ID claim nothing more; what it has is run.")
_command("resume", "Let worker ID claim again.")
_command("stop", "Drain worker ID and end it.")


@worker.command("concurrency")
@click.argument("worker_id", metavar="ID")
@click.argument("number", type=click.IntRange(1, 10_000))
@url_option
@app_option
@errors_to_exit_codes
def worker_concurrency(worker_id: str, number: int, url: str | None, app: str | None) -> None:
    """Let worker ID run NUMBER handlers at once from now on."""
    _tell(worker_id, Command("concurrency", number), url, app)
