"""What the commands share: options, the app they act on, and errors as exit codes."""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import msgspec
from rich.console import Console

from taskmux.app import Taskmux
from taskmux.config import Settings, load_settings
from taskmux.model.errors import ConfigError, JobNotFound, StoreError, TaskmuxError

__all__ = [
    "app_option",
    "console",
    "errors_to_exit_codes",
    "json_option",
    "load_app",
    "print_json",
    "run_on_app",
    "url_option",
]

P = ParamSpec("P")
R = TypeVar("R")
Command = TypeVar("Command", bound=Callable[..., Any])

console = Console(highlight=False)
complaints = Console(stderr=True, highlight=False)

FAILED, USAGE, STORE, NO_JOB = 1, 2, 3, 4


def url_option(command: Command) -> Command:
    """Add `--url`."""
    return click.option("--url", help="The store, e.g. sqlite:///taskmux.db [TASKMUX_URL].")(
        command
    )


def app_option(command: Command) -> Command:
    """Add `--app`."""
    return click.option("--app", help="Where your app is: module:variable [TASKMUX_APP].")(command)


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
            complaints.print(f"[bold red]{type(error).__name__}:[/] ", end="")
            complaints.print(str(error), markup=False, soft_wrap=True)
            sys.exit(_exit_code(error))

    return run


def _exit_code(error: TaskmuxError) -> int:
    match error:
        case ConfigError():
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


def load_app(path: str) -> Taskmux:
    """Import an app from `module:variable`, looking in the working directory first.

    Raises:
        ConfigError: there is no such module or variable, it is no app, or importing it failed.
    """
    module_name, _, variable = path.partition(":")
    if not module_name or not variable:
        raise ConfigError(f"{path!r} names no app. Write module:variable, such as app:mux.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except TaskmuxError:
        raise
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise ConfigError(
                f"There is no module {module_name!r} in {here} or on the import path. Run the "
                f"command where the module is, or install its package."
            ) from None
        raise _broken(module_name, error) from None
    except Exception as error:  # noqa: BLE001 - the user's module may raise anything
        raise _broken(module_name, error) from None
    app = getattr(module, variable, None)
    if not isinstance(app, Taskmux):
        raise ConfigError(
            f"{path!r} is {'missing' if app is None else 'no Taskmux app'}. Name the variable "
            f"that holds Taskmux(...)."
        )
    return app


def _broken(module: str, error: Exception) -> ConfigError:
    frames = "".join(traceback.format_exception(error, limit=-3)).rstrip()
    return ConfigError(f"Importing {module!r} failed; mend it and start again.\n{frames}")


def run_on_app(url: str | None, app: str | None, do: Callable[[Taskmux], Awaitable[R]]) -> R:
    """Run `do` with the app that the options name, or a plain one on the URL; close it after."""
    settings = settings_from(url=url, app=app)
    mux = Taskmux(settings.url) if settings.app is None else load_app(settings.app)
    if settings.app is not None and url is not None:
        mux.use(url)

    async def call() -> R:
        try:
            return await do(mux)
        finally:
            await mux.close()

    return asyncio.run(call())


def print_json(value: Any) -> None:
    """Print a value as JSON; payloads and results, which are JSON already, as what they are."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    match value:
        case msgspec.Struct():  # every field, also those that have their default
            return _plain(msgspec.structs.asdict(value))
        case bytes():
            try:
                return json.loads(value)
            except ValueError:
                return value.decode("utf-8", "replace")
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
