"""`taskmux worker`: run an app's handlers until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from taskmux.app import Taskmux
from taskmux.cli.common import complaints, errors_to_exit_codes, load_app, settings_from
from taskmux.cli.processes import supervise
from taskmux.cli.signals import CUT_OFF, Signals, quietly
from taskmux.config import Settings, parent_process
from taskmux.model.errors import ConfigError
from taskmux.model.units import milliseconds, show_ms
from taskmux.worker import Worker

__all__ = ["worker"]


class _Run(click.Group):
    """A group whose first word may be left out: what is none of its commands is an app to run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `run` before arguments that begin with no command of this group."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Run)
def worker() -> None:
    """Run an app's tasks (`taskmux worker app:mux`), or see and command live workers.

    `taskmux worker run --help` lists the options of running.
    """


@worker.command("run")
@click.argument("app", required=False)
@click.option(
    "--queues",
    help="Queues by preference, a,b, or by weight, a=3,b=1 [TASKMUX_QUEUES].",
)
@click.option("--concurrency", type=int, help="Handlers at once [TASKMUX_CONCURRENCY].")
@click.option("--lease", help="How long a silent worker keeps a job: 30s [TASKMUX_LEASE].")
@click.option("--drain", help="How long stopping waits for handlers: 20s [TASKMUX_DRAIN].")
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    help="Worker processes, restarted [TASKMUX_PROCESSES].",
)
@click.option("--url", help="The default store, whatever the app says.")
@click.option("--log-level", help="debug, info, warning or error [TASKMUX_LOG_LEVEL].")
@errors_to_exit_codes
def worker_run(app: str | None, queues: str | None, url: str | None, **flags: Any) -> None:
    """Run the tasks of APP (module:variable, such as app:mux).

    The first Ctrl-C or SIGTERM drains: running handlers finish, the rest goes back to the queue.
    The second ends the wait.
    """
    names = None if queues is None else [name.strip() for name in queues.split(",")]
    settings = settings_from(app=app, queues=names, url=url, **flags)
    if settings.app is None:
        raise ConfigError("Name the app: taskmux worker app:mux (or set TASKMUX_APP).")
    _log(settings.log_level)
    mux = load_app(settings.app)
    if url is not None:
        mux.use(url)
    one = mux.worker(
        _weighted(settings.queues),
        concurrency=settings.concurrency,
        lease=settings.lease,
        drain=settings.drain,
    )
    if settings.processes > 1:
        sys.exit(supervise(settings.processes, _again(settings, url)))
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(_serve(mux, one, settings))
    sys.exit(code)


def _weighted(queues: Sequence[str]) -> Sequence[str] | dict[str, int]:
    """Return the queues as `Taskmux.worker` takes them: `email=3` is a name and its weight."""
    if not any("=" in name for name in queues):
        return queues
    weights = {}
    for entry in queues:
        name, _, weight = entry.partition("=")
        if not name or not (weight.isdecimal() or "=" not in entry):
            raise ConfigError(f"{entry!r} is no queue with a weight. Write name=number: email=3.")
        weights[name] = int(weight or 1)
    return weights


async def _serve(mux: Taskmux, one: Worker, settings: Settings) -> int:
    signals = Signals(
        one,
        complaints.print,
        drain=show_ms(milliseconds(settings.drain)),
        supervised=parent_process() is not None,
    )
    signals.listen()
    try:
        async with one:
            quietly(
                complaints.print,
                f"Worker {one.name} serves {', '.join(one.options.queues)} on {mux.url} "
                f"({one.options.concurrency} at once, lease {show_ms(one.options.lease_ms)}, "
                f"{len(mux.tasks.names())} tasks). Ctrl-C drains.",
            )
            watching = asyncio.get_running_loop().create_task(_stop_with_parent(one))
            await one.stopping_began()
            watching.cancel()
    finally:
        signals.ended()
        await mux.close()
    return _farewell(one)


def _farewell(one: Worker) -> int:
    """Say how it ended; return the exit status."""
    code = 0
    if one.cut_off:
        code = CUT_OFF
        jobs = ", ".join(map(str, one.cut_off))
        quietly(complaints.print, f"Handlers were stopped at the drain deadline: {jobs}.")
    quietly(complaints.print, "Stopped.")
    if one.left_behind:
        _leave(code)
    return code


async def _stop_with_parent(one: Worker) -> None:
    """Drain when the supervising parent is gone: nobody would stop this process any more."""
    parent = parent_process()
    while parent is not None and os.getppid() == parent:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(1)
    if parent is not None:
        one.stop_soon()
        quietly(complaints.print, "The supervising process is gone; draining.")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where uvloop is installed: it is about a third faster."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _leave(code: int) -> None:
    """End the process at once: a handler that ignores its cancellation would keep it for ever."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _log(level: str) -> None:
    if level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ConfigError(f"log level {level!r} is none of debug, info, warning, error.")
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )


def _again(settings: Settings, url: str | None) -> list[str]:
    command = [sys.executable, "-m", "taskmux", "worker", str(settings.app), "--processes", "1"]
    command += ["--queues", ",".join(settings.queues)]
    command += ["--concurrency", str(settings.concurrency)]
    command += ["--lease", settings.lease, "--drain", settings.drain]
    command += ["--log-level", settings.log_level]
    return command if url is None else [*command, "--url", url]
