"""`taskmux events`: what happens in a queue, or in all, line by line, like `tail -f`."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

import click
import msgspec

from taskmux.api.events import Event
from taskmux.app import Taskmux
from taskmux.cli.common import (
    app_option,
    errors_to_exit_codes,
    json_option,
    run_on_app,
    url_option,
)
from taskmux.cli.output import complain, console, dumps, safe, say, shown

__all__ = ["events"]

_STYLES = {
    "completed": "green",
    "failed": "yellow",
    "stalled": "yellow",
    "gap": "yellow",
    "dead": "red",
}
_KIND, _SHORT = 9, 20


@click.command()
@click.argument("queue", required=False)
@click.option("--after", metavar="CURSOR", help="Go on behind this event; needs QUEUE.")
@url_option
@app_option
@json_option
@errors_to_exit_codes
def events(
    queue: str | None, after: str | None, url: str | None, app: str | None, *, as_json: bool
) -> None:
    """Follow what happens in QUEUE, or in all queues, from now on, until Ctrl-C.

    A line has the time (UTC), the queue if all are followed, what happened, the job's id, and why.
    With --json it is an object, whose `cursor` --after takes.
    """
    if after is not None and queue is None:
        raise click.UsageError("--after needs QUEUE: a cursor is of one queue.")
    last: list[str] = []

    async def follow(mux: Taskmux) -> None:
        async with mux.events(queue, after=after) as stream:
            async for event in stream:
                if as_json:
                    say(dumps(msgspec.structs.asdict(event)))
                else:
                    _show(event, names_queue=queue is None)
                last[:] = [event.cursor]
                if console.quiet:  # nobody reads any more
                    return

    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        run_on_app(url, app, follow, looks=False)
    if queue is not None and last and not as_json:
        complain(shown(f"Go on: taskmux events {queue} --after {last[0]}", "dim"))


def _show(event: Event, *, names_queue: bool) -> None:
    when = f"{datetime.fromtimestamp(event.at / 1000, UTC):%H:%M:%S.%f}"[:-3] if event.at else "-"
    names = [event.queue] if names_queue else []
    cells = [when, *names, event.kind, event.id or "-", _why(event)]
    if not console.is_terminal:
        say("\t".join(map(safe, cells)).rstrip())
        return
    name = [f"{safe(event.queue):<{_SHORT}}"] if names_queue else []
    line = "  ".join([when, *name, f"{event.kind:<{_KIND}}", safe(event.id), safe(_why(event))])
    text = shown(line.rstrip(), _STYLES.get(event.kind, ""))
    text.truncate(console.width, overflow="ellipsis")
    say(text)


def _why(event: Event) -> str:
    match event.data:
        case None:
            return ""
        case _ if event.kind == "progress":
            return dumps(event.data)
        case {"error": error, "reason": reason}:
            return f"{reason}: {error}"
        case {"error": said} | {"reason": said}:
            return str(said)
        case {"state": str(state)} if state != "waiting":
            return state
        case _:
            return "events were lost here" if event.kind == "gap" else ""
