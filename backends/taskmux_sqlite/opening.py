"""Opening a file: what is checked, and how the connection is set up."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from taskmux.driver import StoreDenied, StoreIncompatible, StoreUnavailable

from taskmux_sqlite import forks
from taskmux_sqlite.address import Address
from taskmux_sqlite.schema import check_owner, migrate

__all__ = ["connect", "identity", "patiently", "stat"]

Reply = TypeVar("Reply")

OLDEST = (3, 35, 0)
"""The first SQLite with `RETURNING`."""

WAL_LIMIT = 64 * 1024 * 1024
"""A log that grew beyond this is cut back to it, in bytes, when it starts anew."""

CACHE_KIB = 16 * 1024

RETRY = (0.0001, 0.001)
"""Seconds between two tries for a lock, at random.

A transaction needs the lock for a millisecond or two. SQLite's own busy handler waits longer after
each try, up to 100 ms, so that the unlucky one of two busy processes hardly ever gets it.
"""


def connect(address: Address) -> sqlite3.Connection:
    """Return a connection to the file, which is made if there is none, with this schema.

    Raises:
        StoreError: see `Store`.
        sqlite3.Error: whatever else SQLite says.
    """
    file = address.file
    if sqlite3.sqlite_version_info < OLDEST:
        raise StoreIncompatible(
            f"This Python has SQLite {sqlite3.sqlite_version}; taskmux needs 3.35 or newer. "
            f"Use a newer Python build."
        )
    if forks.inherited(file):
        raise StoreUnavailable(
            f"This process was forked, without Python's knowledge, from one that had {file} open, "
            f"and SQLite cannot be carried over a fork. Open the app in the server's post-fork "
            f"hook, or close it before the fork."
        )
    _check_path(file)
    connection = sqlite3.connect(
        file,
        timeout=0,
        isolation_level=None,
        check_same_thread=False,  # whoever forks closes it
        cached_statements=200,
    )
    try:
        patiently(address, lambda: _prepare(connection, address))
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


def stat(file: Path) -> os.stat_result | None:
    """Return what the system knows of the file that the path leads to; None if there is none."""
    try:
        return file.stat()
    except OSError:
        return None


def identity(found: os.stat_result) -> tuple[int, int]:
    """Return what tells a file from every other, whatever it is called."""
    return found.st_dev, found.st_ino


def _prepare(connection: sqlite3.Connection, address: Address) -> None:
    if check_owner(connection, address.file) == 0:  # before anything is written
        _remove_leftovers(connection, address.file)
    _use_wal(connection, address)
    connection.execute(f"PRAGMA synchronous = {address.synchronous}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    migrate(connection, address.file)


def _remove_leftovers(connection: sqlite3.Connection, file: Path) -> None:
    """Remove the log's index of a former database from beside an empty file.

    SQLite removes a former log by itself, but would take the index for this file's, and processes
    that still have the former database open would share it. The lock makes sure that nobody uses
    the index for this file: a file is not empty any more when its log is begun.
    """
    index = file.with_name(f"{file.name}-shm")
    if not index.exists() or file.stat().st_size > 0:
        return
    connection.execute("BEGIN EXCLUSIVE")
    try:
        if file.stat().st_size == 0:
            index.unlink(missing_ok=True)
    finally:
        connection.rollback()


def _use_wal(connection: sqlite3.Connection, address: Address) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreIncompatible(
            f"{address.file} cannot use SQLite's write-ahead log, as on some network file "
            f"systems. Put the database on a local disk."
        )


def patiently(address: Address, do: Callable[[], Reply]) -> Reply:
    """Return what `do` returns, tried again while another process has the lock that it needs."""
    deadline = time.monotonic() + address.busy_timeout / 1000
    while True:
        try:
            return do()
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorcode", 0)  # none: the sqlite3 module's own
            busy = code & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(*RETRY))  # noqa: S311 - no secret
