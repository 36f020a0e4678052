"""Names of tasks: what a function is called in stored jobs, and when two are one and the same."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["module_name", "redefines", "task_name"]


def task_name(function: Callable[..., Any]) -> str:
    """Return the default name of a task: its module, and what the function is called in it."""
    name = f"{module_name(function)}.{_qualname(function)}"
    return name.replace("<locals>.", "").replace("<lambda>", "lambda")


def module_name(function: Callable[..., Any]) -> str:
    """Return the name under which a worker will import the function's module.

    `python app.py` and `python -m package.app` call it `__main__`; its real name follows from its
    file or from how it was started. Without a file (a notebook, `python -c`, `python - < file`)
    it is `main`, which no worker can import: such tasks need `name=` to be run elsewhere.
    """
    module = str(function.__module__)
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    nowhere = file is None or str(file).startswith("<")  # `<stdin>`, as some Pythons call it
    return "main" if nowhere else _name_of(Path(str(file)))


def _name_of(file: Path) -> str:
    """Return the module's name by its file: with its packages, as long as there is one around."""
    parts = [] if file.stem == "__main__" else [file.stem]
    folder = file.resolve().parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts) or "main"


def redefines(new: Callable[..., Any], old: Callable[..., Any]) -> bool:
    """Say whether a function takes the place of another, as Python's own names do.

    So it is when a notebook's cell runs again or a module is reloaded: the same module, the same
    name. Functions made inside others, and lambdas, share a name without being the same.
    """
    if new is old:
        return True
    name = _qualname(new)
    return name == _qualname(old) and "<" not in name and module_name(new) == module_name(old)


def _qualname(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))
