"""Forks: a child that a handler forked must not go on as a second copy of the worker."""

from __future__ import annotations

import contextvars
import os
from typing import Any, NoReturn

__all__ = ["alone", "count", "leave"]

count = 0
"""How many forks this process is away from the one that imported this module."""

CANNOT_WAIT = (
    "This is a forked child: the event loop is its parent's, and nothing here can wait in it. "
    "Use os._exit when its work is done, or subprocess or multiprocessing instead of os.fork."
)


def alone(coroutine: Any, variables: contextvars.Context, awaited: object) -> NoReturn:
    """Run on a coroutine that has just forked, in the child, and end that with it.

    The event loop that it would go back to is full of what its parent is about to do. So it never
    gets there: `await asyncio.sleep(0)` needs no loop, and to wait for anything else is an error.

    Args:
        coroutine: the handler's.
        variables: what it runs in.
        awaited: what it waits for.
    """
    try:
        while True:
            if awaited is None:
                awaited = variables.run(coroutine.send, None)
            else:
                awaited = variables.run(coroutine.throw, RuntimeError(CANNOT_WAIT))
    except StopIteration:
        leave()
    except BaseException as error:  # noqa: BLE001 - the handler's, whatever it is
        leave(error)


def leave(raised: BaseException | int | None = None) -> NoReturn:
    """End a forked child that came back from its handler, as `sys.exit` would have ended it."""
    code = raised.code if isinstance(raised, SystemExit) else raised
    os._exit(0 if code is None else code if isinstance(code, int) else 1)


def _forked() -> None:
    global count  # noqa: PLW0603 - it is the process's own
    count += 1


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_forked)
