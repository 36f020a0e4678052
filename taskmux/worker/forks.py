"""Forks: a child that a handler forked must not go on as a second copy of the worker."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["generation", "leave"]

_generation = 0


def generation() -> int:
    """Return how many forks this process is away from the one that imported this module."""
    return _generation


def leave(raised: BaseException | None = None) -> Any:
    """End a forked child that came back from its handler, as `sys.exit` would have ended it."""
    code = raised.code if isinstance(raised, SystemExit) else raised
    os._exit(0 if code is None else code if isinstance(code, int) else 1)


def _forked() -> None:
    global _generation  # noqa: PLW0603 - it is the process's own
    _generation += 1


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_forked)
