"""How the tasks that taskmux lives by begin; `task.py` is about tasks of users."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["begin"]

T = TypeVar("T")


def begin(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Begin a task in the running loop, past any task factory that an app or a handler has set.

    A factory that raises would end what the loop's other users depend on.
    """
    return asyncio.Task(coroutine, loop=asyncio.get_running_loop())
