"""Which functions can be handlers at all: what could never run is refused when it is declared."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from taskmux.model.errors import DeclarationError

__all__ = ["annotated", "handler"]


def handler(function: Any, name: str) -> Callable[..., Any]:
    """Return the function that a worker is to call.

    Raises:
        DeclarationError: it is a generator, or a method that nobody would pass its `self`.
    """
    if isinstance(function, staticmethod):
        function = function.__func__
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DeclarationError(
            f"Task {name!r} is a generator: its body would never run. Return a value instead, "
            f"and use ctx.progress() or ctx.step() on the way."
        )
    if isinstance(function, classmethod) or _is_method(function):
        raise DeclarationError(
            f"Task {name!r} is a method, and a worker has no object to call it on. Make it a "
            f"function, or put @staticmethod below @mux.task()."
        )
    checked: Callable[..., Any] = function
    return checked


def annotated(function: Any) -> Callable[..., Any]:
    """Return the function that has the annotations: of a partial, what it calls."""
    while isinstance(function, functools.partial):
        function = function.func
    found: Callable[..., Any] = function
    return found


def _is_method(function: Any) -> bool:
    """Say whether it was defined in a class and takes the object, or the class, first."""
    if not inspect.isfunction(function):
        return False
    around = function.__qualname__.rpartition(".")[0]
    first = next(iter(inspect.signature(function).parameters), "")
    return bool(around) and not around.endswith("<locals>") and first in ("self", "cls")
