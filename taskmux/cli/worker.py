"""`taskmux worker`: run an app's handlers until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import faulthandler
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from taskmux.app import Taskmux
from taskmux.cli.common import NO_FLAG, Commands, errors_to_exit_codes, in_process, settings_from
from taskmux.cli.loading import load_app
from taskmux.cli.logs import check_logging, set_up_logging
from taskmux.cli.loop import loop_factory, run
from taskmux.cli.output import complain, settle_streams
from taskmux.cli.processes import Reports, supervise
from taskmux.cli.signals import CUT_OFF, UNCLEAN, Signals, quietly
from taskmux.config import Settings, parent_process
from taskmux.model.errors import ConfigError
from taskmux.model.log import Log
from taskmux.model.units import milliseconds, show_ms
from taskmux.worker import Worker

__all__ = ["worker"]

logger = Log("taskmux.worker")


class _Run(Commands):
    """A group whose first word may be left out: what is none of its commands is an app to run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `run` before arguments that begin with no command of this group."""
        first = args[0] if args else ""
        if first not in self.commands and {"-A", "--app"} & set(args):
            ctx.fail(NO_FLAG)
        known = first in self.commands or first in ctx.help_option_names
        misspelt = ":" not in first and difflib.get_close_matches(first, self.commands)
        if not known and not misspelt:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write how a worker is run, and that there are commands."""
        formatter.write_usage(ctx.command_path, "[OPTIONS] APP")
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of running, then the commands."""
        run = self.commands["run"]
        run.format_options(click.Context(run, ctx, info_name="run"), formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=_Run, short_help="Run an app's tasks; list and steer live workers.")
def worker() -> None:
    """Run an app's tasks (`taskmux worker app:mux`), or see and command live workers.

    APP is module:variable: app:mux is the variable mux in app.py. [TASKMUX_APP]

    \b
    Signals: the first Ctrl-C or SIGTERM drains, the second ends the wait.
    It ends by itself 10 s after the drain deadline, or after the second, whatever hangs.
    Exit codes: 0 stopped; 2 wrong usage; 3 the store cannot be used; 5 handlers were
    stopped at the drain deadline; 7 something hung, or the lifespan failed at its end.
    """  # noqa: D301 - click wants the character that it stands for


@worker.command("run")
@click.argument("app", required=False)
@click.option(
    "-q",
    "--queues",
    multiple=True,
    help="Queues by preference, a,b, or by weight, a=3,b=1. Default: those of the app's tasks. "
    "[TASKMUX_QUEUES]",
)
@click.option("-c", "--concurrency", type=int, help="Handlers at once: 10. [TASKMUX_CONCURRENCY]")
@click.option("--lease", help="How long a silent worker keeps a job: 30s. [TASKMUX_LEASE]")
@click.option("--drain", help="How long stopping waits for handlers: 20s. [TASKMUX_DRAIN]")
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    help="Worker processes: 1, which nothing restarts. From 2 on a parent process restarts those "
    "that die. [TASKMUX_PROCESSES]",
)
@click.option(
    "--url",
    help="The default store, whatever the app says. Left out: the app's; where its code names "
    "none, TASKMUX_URL.",
)
@click.option("--log-level", help="debug, info, warning or error: info. [TASKMUX_LOG_LEVEL]")
@click.option("--log-format", help="text or json: text. [TASKMUX_LOG_FORMAT]")
@errors_to_exit_codes
def worker_run(app: str | None, queues: tuple[str, ...], url: str | None, **flags: Any) -> None:
    """Run the tasks of APP (module:variable, such as app:mux).

    The first Ctrl-C or SIGTERM drains: running handlers finish, the rest goes back to the queue.
    The second ends the wait. The process ends 10 s after the drain deadline, whatever hangs.
    """
    names = [name.strip() for entry in queues for name in entry.split(",")] or None
    settings = settings_from(app=app, queues=names, url=url, **flags)
    if settings.app is None:
        raise ConfigError("Name the app: taskmux worker app:mux (or set TASKMUX_APP).")
    check_logging(settings.log_level, settings.log_format)
    mux = load_app(settings.app)
    set_up_logging(settings.log_level, settings.log_format)
    if url is not None:
        mux.use(url)
    for here in filter(in_process, mux.urls):
        complain(
            f"What is in {here} is seen by this process alone: no producer outside it reaches this "
            f"worker, and the jobs end with it. Give the app another store: --url, or TASKMUX_URL."
        )
    one = mux.worker(
        _weighted(settings.queues),
        concurrency=settings.concurrency,
        lease=settings.lease,
        drain=settings.drain,
    )
    if settings.processes > 1:
        limit = one.options.drain_ms / 1000
        sys.exit(supervise(settings.processes, _again(settings, url), limit))
    _tell_of_crashes()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        code = run(runner.get_loop(), _serve(mux, one, settings))
    sys.exit(code)


def _tell_of_crashes() -> None:
    """Let the process say where it was when an extension or a full stack kills it."""
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        with contextlib.suppress(OSError, ValueError):  # there is no such file
            faulthandler.enable(sys.__stderr__)


async def _until_told(one: Worker) -> None:
    """Wait until the worker is told to stop: a handler may cancel every task, this one too."""
    while not one.stopping:
        try:
            await one.stopping_began()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()


def _weighted(queues: Sequence[str]) -> Sequence[str] | dict[str, int] | None:
    """Return the queues as `Taskmux.worker` takes them: `email=3` is a name and its weight."""
    if not any("=" in name for name in queues):
        return queues or None
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
        complain,
        drain=show_ms(milliseconds(settings.drain)),
        parent=parent_process(),
    )
    signals.listen()
    reports = Reports()
    try:
        async with one:
            reports.serves()
            quietly(
                complain,
                f"Worker {one.name} serves {_places(one)} "
                f"({one.options.concurrency} at once, lease {show_ms(one.options.lease_ms)}, "
                f"tasks: {len(mux.tasks.names())}). Ctrl-C drains.",
            )
            await _until_told(one)
            reports.told()
            signals.told()
    except BaseException as error:
        if error is not one.lifespan_error:
            raise
    finally:
        signals.ended()
        await mux.close()
    return _farewell(one)


def _places(one: Worker) -> str:
    return "; ".join(f"{', '.join(queues)} on {url}" for url, queues in one.places)


def _farewell(one: Worker) -> int:
    """Say how it ended; return the exit status."""
    code = 0
    if one.cut_off:
        code = CUT_OFF
        jobs = ", ".join(map(str, one.cut_off))
        quietly(complain, f"Handlers were stopped at the drain deadline: {jobs}.")
    if one.lifespan_error is not None:
        code = UNCLEAN
        name = type(one.lifespan_error).__name__
        quietly(complain, f"The lifespan raised {name} at its end; the log has its traceback.")
    quietly(complain, "Stopped.")
    if one.left_behind:
        _leave(code)
    return code


def _leave(code: int) -> None:
    """End the process at once: a handler that ignores its cancellation would keep it for ever."""
    with contextlib.suppress(BaseException):  # the app's log handlers may raise anything
        logging.shutdown()
    settle_streams()
    os._exit(code)


def _again(settings: Settings, url: str | None) -> list[str]:
    command = [sys.executable, "-m", "taskmux", "worker", str(settings.app), "--processes", "1"]
    if settings.queues:
        command += ["--queues", ",".join(settings.queues)]
    command += ["--concurrency", str(settings.concurrency)]
    command += ["--lease", settings.lease, "--drain", settings.drain]
    command += ["--log-level", settings.log_level, "--log-format", settings.log_format]
    return command if url is None else [*command, "--url", url]
