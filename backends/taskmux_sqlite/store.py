"""One connection to the file, on one thread: opened with care, used in transactions."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from taskmux.driver import StoreDenied, StoreIncompatible, StoreUnavailable

from taskmux_sqlite.location import Location
from taskmux_sqlite.schema import check_owner, migrate
from taskmux_sqlite.transaction import Transaction
from taskmux_sqlite.watch import Watch

__all__ = ["Store"]

Reply = TypeVar("Reply")

OLDEST = (3, 35, 0)
"""The first SQLite with `RETURNING`."""

WAL_LIMIT = 64 * 1024 * 1024
"""A log that grew beyond this is cut back to it, in bytes, when it starts anew."""

CACHE_KIB = 16 * 1024

RETRY = (0.0001, 0.001)
"""Seconds between two tries for a lock, at random.

A transaction holds the lock for a millisecond or two. SQLite's own busy handler waits longer after
each try, up to 100 ms, so that the unlucky one of two busy processes hardly ever gets it.
"""


class Store:
    """An open database. Everything about it happens on the thread that opened it.

    Args:
        location: the file and its options.
        clock: returns epoch milliseconds.
        brought: called after a commit that left more to claim.

    Raises:
        StoreUnavailable: there is no such directory, or the path is one.
        StoreDenied: the file or its directory may not be written.
        StoreIncompatible: the library is too old, the file is another's, or WAL cannot work there.
        sqlite3.Error: whatever else SQLite says.
    """

    def __init__(
        self, location: Location, clock: Callable[[], int], brought: Callable[[], None]
    ) -> None:
        self._location = location
        self._clock = clock
        self._brought = brought
        self._connection = _connect(location)
        self._inode = _inode(location.file)
        self.watch = Watch(self._connection)

    def close(self) -> None:
        """Wake the waiters and close; the last connection to a file removes its log."""
        self.watch.release()
        self._connection.close()

    def read(self, do: Callable[[Transaction], Reply]) -> Reply:
        """Return what `do` reads from one snapshot."""
        return self._locked("BEGIN", do)[0]

    def write(self, do: Callable[[Transaction], Reply]) -> Reply:
        """Return what `do` answers once all that it wrote is committed.

        The write lock is taken first: a transaction that reads before it locks can find that it
        has to start over.

        Raises:
            StoreIncompatible: the file was moved or deleted, which SQLite would not notice.
        """
        if _inode(self._location.file) != self._inode:
            raise StoreIncompatible(
                f"{self._location.file} was moved, deleted or replaced while it was open; what is "
                f"written now would be lost. Restart this process."
            )
        reply, transaction = self._locked("BEGIN IMMEDIATE", do)
        if transaction.brought:
            self.watch.brought()
            self._brought()
        return reply

    def _locked(self, begin: str, do: Callable[[Transaction], Reply]) -> tuple[Reply, Transaction]:
        return _patiently(self._location, lambda: self._run(begin, do))

    def _run(self, begin: str, do: Callable[[Transaction], Reply]) -> tuple[Reply, Transaction]:
        self._connection.execute(begin)
        try:
            transaction = Transaction(
                self._connection, self._clock(), self.watch, self._location.file.parent
            )
            reply = do(transaction)
            transaction.finish()
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.rollback()
            raise
        return reply, transaction


def _connect(location: Location) -> sqlite3.Connection:
    file = location.file
    if sqlite3.sqlite_version_info < OLDEST:
        raise StoreIncompatible(
            f"This Python has SQLite {sqlite3.sqlite_version}; taskmux needs 3.35 or newer. "
            f"Use a newer Python build."
        )
    _check_path(file)
    connection = sqlite3.connect(file, timeout=0, isolation_level=None, cached_statements=200)
    try:
        _patiently(location, lambda: _prepare(connection, location))
    except BaseException:
        connection.close()
        raise
    return connection


def _check_path(file: Path) -> None:
    """Say what is wrong with the path, where SQLite would only say that it cannot open it."""
    try:
        if not file.parent.is_dir():
            raise StoreUnavailable(
                f"There is no directory {file.parent} for the database {file.name}. Create it, "
                f"or check the URL: a relative path counts from the working directory."
            )
        if file.is_dir():
            raise StoreUnavailable(f"{file} is a directory. Name a file in it.")
        usable = os.access(file if file.exists() else file.parent, os.R_OK | os.W_OK)
    except PermissionError:
        usable = False
    except OSError as error:
        raise StoreUnavailable(f"{file} cannot be used: {error.strerror}. Check the URL.") from None
    if not usable:
        raise StoreDenied(
            f"This user may not read and write {file}. Change the file's or the directory's mode."
        )


def _inode(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _prepare(connection: sqlite3.Connection, location: Location) -> None:
    check_owner(connection, location.file)  # before anything is written
    _use_wal(connection, location)
    connection.execute(f"PRAGMA synchronous = {location.synchronous}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    migrate(connection, location.file)


def _use_wal(connection: sqlite3.Connection, location: Location) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreIncompatible(
            f"{location.file} cannot use SQLite's write-ahead log, as on some network file "
            f"systems. Put the database on a local disk."
        )


def _patiently(location: Location, do: Callable[[], Reply]) -> Reply:
    """Return what `do` returns, tried again while another process holds the lock it needs."""
    deadline = time.monotonic() + location.busy_timeout / 1000
    while True:
        try:
            return do()
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(*RETRY))  # noqa: S311 - no secret
