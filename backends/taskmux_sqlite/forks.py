"""Forks: an open SQLite connection must not be carried into a forked process.

SQLite's locks belong to a process. With a copied connection the library would believe that the new
process has locks which it does not have, and could remove the log while others use it. So all
connections of this process are closed before it forks, and each is opened again when it is used.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final, Protocol

__all__ = ["Closable", "inherited", "register", "unregister"]


class Closable(Protocol):
    """Something that has a connection, and uses it only after taking its lock."""

    @property
    def file(self) -> Path:
        """The database."""
        ...

    @property
    def using(self) -> threading.Lock:
        """The lock: taken while the connection is in use."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the connection is open."""
        ...

    def disconnect(self) -> None:
        """Close the connection for now."""
        ...


class _Process:
    """What one process has open."""

    def __init__(self, inherited: frozenset[Path]) -> None:
        self.pid: Final = os.getpid()
        self.inherited: Final = inherited
        self.open: Final[set[Closable]] = set()
        self.forking: Final = threading.Lock()


_process = _Process(frozenset())


def _here() -> _Process:
    """Return this process's record, a new one if it has been forked."""
    global _process  # noqa: PLW0603 - it is the process's
    if _process.pid != os.getpid():
        copied = {one.file for one in _process.open if one.connected}
        _process = _Process(_process.inherited | copied)
    return _process


def register(one: Closable) -> None:
    """Close this one's connection before each fork. Returns with its lock taken."""
    here = _here()
    with here.forking:
        here.open.add(one)
        one.using.acquire()


def unregister(one: Closable) -> None:
    """Forget one that closed for good. Its lock must be free."""
    here = _here()
    with here.forking:
        here.open.discard(one)


def inherited(file: Path) -> bool:
    """Return whether a copy of an open connection to the file came with a fork all the same.

    A server written in C may fork without running Python's hooks. The file is then out of bounds
    here for good: even closing the copy could harm the process that it was copied from.
    """
    return file in _here().inherited


def _before() -> None:
    here = _here()
    here.forking.acquire()
    for one in here.open:
        one.using.acquire()
        one.disconnect()


def _after_in_parent() -> None:
    here = _here()
    for one in here.open:
        one.using.release()
    here.forking.release()


if hasattr(os, "register_at_fork"):  # there is no fork elsewhere
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_here)
