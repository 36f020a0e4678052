"""What the commands share: options, the app and the store they act on, errors as exit codes."""

from __future__ import annotations

import asyncio
import difflib
import functools
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import unquote, urlsplit

import click

from taskmux.app import Taskmux
from taskmux.cli.loading import load_app
from taskmux.cli.output import complain, settle_streams, shown
from taskmux.config import Settings, load_settings
from taskmux.model.errors import (
    ConfigError,
    InvalidArguments,
    JobNotFound,
    NotEncodable,
    PayloadTooLarge,
    StoreError,
    StoreUnavailable,
    TaskmuxError,
)

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "NO_FLAG",
    "NO_JOB",
    "STORE",
    "TOO_MANY",
    "USAGE",
    "Commands",
    "app_option",
    "errors_to_exit_codes",
    "exit_code",
    "in_process",
    "json_option",
    "run_on_app",
    "settings_from",
    "url_option",
]

P = ParamSpec("P")
R = TypeVar("R")
Command = TypeVar("Command", bound=Callable[..., Any])

FAILED, USAGE, STORE, NO_JOB = 1, 2, 3, 4
TOO_MANY = 6  # 5 is the worker's own
INTERRUPTED = 130  # as shells say it: 128 and SIGINT


NO_FLAG = "The app has no flag. Write it behind `worker`: taskmux worker app:mux"


class Commands(click.Group):
    """A group that says which command was probably meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Tell those who come from Celery where the app goes."""
        if args and args[0] == "-A":
            ctx.fail(NO_FLAG)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the first argument."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.commands, n=1)
            hint = (
                f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(self.commands)}."
            )
            ctx.fail(f"No such command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)


def url_option(command: Command) -> Command:
    """Add `--url`."""
    return click.option(
        "--url",
        help="The store, such as redis://localhost. Left out: the app's; without an app, or where "
        "its code names none, TASKMUX_URL.",
    )(command)


def app_option(command: Command) -> Command:
    """Add `--app`."""
    return click.option(
        "--app", help="The app whose stores are meant: module:variable. [TASKMUX_APP]"
    )(command)


def json_option(command: Command) -> Command:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")(command)


def errors_to_exit_codes(command: Callable[P, R]) -> Callable[P, R]:
    """Show a typed error as one message and end with its exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except TaskmuxError as error:
            notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
            name = shown(f"{type(error).__name__}: ", "bold red")
            complain(name, f"{error}{notes}")
            sys.exit(exit_code(error))
        except KeyboardInterrupt:
            complain("Interrupted.")
            sys.exit(INTERRUPTED)
        except BrokenPipeError:  # of standard output: nobody reads any more, and that is all
            sys.exit(0)
        finally:
            settle_streams()

    return run


def exit_code(error: TaskmuxError) -> int:
    """Return the exit status for an error."""
    match error:
        case ConfigError() | InvalidArguments() | NotEncodable() | PayloadTooLarge():
            return USAGE
        case StoreError():
            return STORE
        case JobNotFound():
            return NO_JOB
        case _:
            return FAILED


def settings_from(**flags: Any) -> Settings:
    """Return the settings in force: flag > environment > file > default.

    Raises:
        ConfigError: a value is wrong.
    """
    return load_settings(flags)


def run_on_app(
    url: str | None,
    app: str | None,
    do: Callable[[Taskmux], Awaitable[R]],
    *,
    looks: bool = True,
) -> R:
    """Run `do` with the app that the options name, or a plain one on the URL; close it after.

    Standard error says which store that is, unless JSON is wanted.

    Args:
        url: `--url`: alone it is the store, with `--app` it takes the place of the app's default.
        app: `--app`; without both, the app of the settings, or the store of the settings.
        do: what to do.
        looks: it changes nothing, so a file that is not there is not made: it counts as empty.
    """
    mux = _mux(url, app)
    if not click.get_current_context().params.get("as_json"):  # machines may read both streams
        complain(shown(f"Store: {', '.join(map(_named, mux.urls))}", "dim"))
    if looks:
        _make_no_file(mux)

    async def call() -> R:
        try:
            return await do(mux)
        finally:
            await mux.close()

    return asyncio.run(call())


def _mux(url: str | None, app: str | None) -> Taskmux:
    if url is not None and app is None:
        return Taskmux(url)
    settings = settings_from(url=url, app=app)
    if settings.app is None:
        return Taskmux(settings.url)
    mux = load_app(settings.app)
    if url is not None:
        mux.use(url)
    return mux


def in_process(url: str) -> bool:
    """Say whether only the process that opens the store sees what is in it."""
    return url.partition(":")[0].lower() == "memory"


def _file_of(url: str) -> Path | None:
    """Return the file of a store that is one."""
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc:
        return None
    return Path(unquote(parts.path).removeprefix("/")).absolute()


def _named(url: str) -> str:
    """Return a store's URL as it is shown: a file by its whole path."""
    file = _file_of(url)
    return url if file is None else f"sqlite:///{file}"


def _make_no_file(mux: Taskmux) -> None:
    """Look at an empty store instead of a file that is not there: opening it would make it.

    Raises:
        StoreUnavailable: the store of a route is not there.
    """
    for number, url in enumerate(mux.urls):
        file = _file_of(url)
        if file is None or file.exists() or not file.parent.is_dir():
            continue
        complain(
            f"There is no file {file}: nothing was enqueued there yet. If you mean another store, "
            f"name it (--url) or your app (--app module:variable)."
        )
        if number:
            raise StoreUnavailable(f"A route leads to {url}, which is not there yet.")
        mux.use("memory://")
