"""Finding the app that a command acts on: `module:variable`, from the working directory."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from taskmux.app import Taskmux
from taskmux.model.errors import ConfigError, TaskmuxError
from taskmux.model.units import brief

__all__ = ["load_app"]

MOST_FRAMES = 3
_MINE = str(Path(__file__).parents[1])


def load_app(path: str) -> Taskmux:
    """Import an app from `module:variable`, looking in the working directory first.

    Raises:
        ConfigError: there is no such module or variable, it is no app, or importing it failed.
    """
    module_name, _, variable = path.partition(":")
    if not module_name or not variable:
        raise ConfigError(
            f"{brief(path)} names no app. Write module:variable, such as app:mux for the variable "
            f"mux in app.py."
        )
    if module_name.endswith(".py") or "/" in module_name:
        module = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigError(
            f"{brief(path)} has a file's name where a module's belongs. Write {module}:{variable}."
        )
    app = getattr(_imported(module_name), variable, None)
    if isinstance(app, Taskmux):
        return app
    raise ConfigError(
        f"{brief(path)} is {'missing' if app is None else 'no Taskmux app'}. "
        f"{_apps_in(sys.modules[module_name])}"
    )


def _imported(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except TaskmuxError as error:
        error.add_note(f"Raised by {_place(error)}, while {name} was imported.")
        raise
    except ModuleNotFoundError as error:
        if error.name == name or (error.name and name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"There is no module {error.name!r} in {here} or on the import path. Run the "
                f"command where the module is, or install its package.{_near(here)}"
            ) from None
        raise _broken(name, error, f"it needs {error.name!r}, which is not installed") from None
    except SystemExit as error:
        raise _broken(
            name, error, "it ended the process; put what runs it under if __name__ == '__main__':"
        ) from None
    except Exception as error:  # noqa: BLE001 - the user's module may raise anything
        raise _broken(name, error, "mend it and start again") from None


def _near(here: str) -> str:
    """Return which modules of the directory look as if they had an app."""
    found = []
    for file in sorted(Path(here).glob("*.py"))[:200]:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if "Taskmux(" in text:
            found.append(file.stem)
    return f" An app may be in: {', '.join(found)}." if found else ""


def _apps_in(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, Taskmux)]
    if names:
        listed = ", ".join(f"{module.__name__}:{name}" for name in names)
        return f"The module has {listed}."
    return "Name the variable that holds Taskmux(...)."


def _place(error: BaseException) -> str:
    """Return the line of the user's code that an error came through last."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if _is_users(frame):
            return f"{frame.filename}, line {frame.lineno}"
    return "the app"


def _is_users(frame: traceback.FrameSummary) -> bool:
    """Say whether a frame is neither the import machinery's nor taskmux's."""
    return (
        not frame.filename.startswith((_MINE, "<frozen")) and frame.filename != importlib.__file__
    )


def _broken(module: str, error: BaseException, what: str) -> ConfigError:
    told = traceback.TracebackException.from_exception(error)
    one: traceback.TracebackException | None = told
    while one is not None:
        mine = [frame for frame in one.stack if _is_users(frame)]
        one.stack = traceback.StackSummary.from_list(mine[-MOST_FRAMES:])
        one = one.__cause__ or one.__context__
    frames = "".join(told.format()).rstrip()
    return ConfigError(f"Importing {module!r} failed: {what}.\n{frames}")
