"""One connection to the file, on one thread: opened with care, used in transactions."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from taskmux.driver import StoreDenied, StoreError, StoreIncompatible, StoreUnavailable

from taskmux_sqlite import forks
from taskmux_sqlite.address import Address
from taskmux_sqlite.records import text
from taskmux_sqlite.schema import check_owner, migrate
from taskmux_sqlite.transaction import Transaction
from taskmux_sqlite.wait import Waiter, Watch

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
    """An open database. Everything about it happens on one thread, which holds `using` for it.

    Args:
        address: the file and its options.
        clock: returns epoch milliseconds.
        brought: called after a commit that left more to claim.

    Raises:
        StoreUnavailable: there is no such directory, or the path is one; or the file was open in
            the process that this one was forked from.
        StoreDenied: the file or its directory may not be written.
        StoreIncompatible: the library is too old, the file is another's, or WAL cannot work there.
        sqlite3.Error: whatever else SQLite says.
    """

    def __init__(
        self, address: Address, clock: Callable[[], int], brought: Callable[[], None]
    ) -> None:
        self._address = address
        self._clock = clock
        self._brought = brought
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self.file: Final = address.file
        self.using: Final = threading.Lock()
        self.watch: Final = Watch()
        forks.register(self)
        try:
            self._connected()
        except BaseException:
            self.using.release()
            forks.unregister(self)
            raise
        self.using.release()

    def close(self) -> None:
        """Wake the waiters and close; the last connection to a file removes its log."""
        with self.using:
            self.watch.release()
            self.disconnect()
        forks.unregister(self)

    @property
    def connected(self) -> bool:
        """Whether the connection is open; it is not after a fork, until it is used again."""
        return self._connection is not None

    def disconnect(self) -> None:
        """Close the connection for now."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):  # what was committed is safe in any case
                connection.close()

    def read(self, do: Callable[[Transaction], Reply]) -> Reply:
        """Return what `do` reads from one snapshot."""
        return self._locked("BEGIN", do)[0]

    def write(self, do: Callable[[Transaction], Reply]) -> Reply:
        """Return what `do` answers once all that it wrote is committed.

        The write lock is taken first: a transaction that reads before it locks can find that it
        has to start over.

        """
        reply, transaction = self._locked("BEGIN IMMEDIATE", do)
        if transaction.brought:
            self.watch.brought()
            self._brought()
        return reply

    def add(self, waiter: Waiter) -> bool:
        """See `Watch.add`."""
        self._connected()
        try:
            return self.watch.add(waiter)
        except sqlite3.OperationalError as error:
            raise self._dropped(error) from error

    def look(self) -> bool:
        """Wake those whose work has come; return whether anything changed since the last look."""
        if not self.watch.waits():
            return False
        try:
            self._connected()
            return self.watch.check()
        except (sqlite3.Error, StoreError):
            self.watch.release()  # their next claim meets the same error, and can say so
            return True

    def _connected(self) -> sqlite3.Connection:
        """Return the connection, opened again if need be.

        Raises:
            StoreUnavailable: the file was moved, deleted or replaced.
            StoreIncompatible: it was emptied.
        """
        if self._identity is not None:
            self._check_file(self._identity)
        if self._connection is None:
            self._connection = _connect(self._address)
            found = _stat(self.file)
            self._identity = None if found is None else _identity(found)
            self.watch.use(self._connection)
        return self._connection

    def _check_file(self, opened: tuple[int, int]) -> None:
        """Look whether the path still leads to the file that was opened: SQLite does not.

        A file that is gone may come back, so it is not made anew here; whoever opens the store
        makes a new one, and then this connection follows.
        """
        found = _stat(self.file)
        if found is None:
            raise StoreUnavailable(
                f"{self.file} was moved or deleted while it was open; what is written now would "
                f"be lost. Put it back with its -wal and -shm files, or restart the application "
                f"to begin with an empty file."
            )
        if _identity(found) != opened:
            self.disconnect()
            self._identity = None
            raise StoreUnavailable(
                f"{self.file} was replaced by another file while it was open. The next try opens "
                f"that one; jobs of the former one are not in it."
            )
        if found.st_size == 0:
            raise StoreIncompatible(
                f"{self.file} was emptied while it was open. Stop every process that uses it, "
                f"delete it with its -wal and -shm files or restore a backup, and start again."
            )

    def _dropped(self, error: sqlite3.OperationalError) -> Exception:
        """Return what to raise for an error of SQLite, if it is that tables were dropped.

        The next call then opens the file again, which makes the tables anew if all are gone.
        """
        connection = self._connection
        if connection is None or getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_ERROR:
            return error
        try:
            check_owner(connection, self.file)
        except StoreIncompatible as reason:
            self.disconnect()  # until somebody mends the file, opening it says the same
            return reason
        if "no such" not in str(error):
            return error
        self.disconnect()
        return StoreUnavailable(
            f"The tables of {self.file} were dropped while it was open. The next try makes them "
            f"anew, without the jobs that were in them."
        )

    def _locked(self, begin: str, do: Callable[[Transaction], Reply]) -> tuple[Reply, Transaction]:
        connection = self._connected()
        try:
            return _patiently(self._address, lambda: self._run(connection, begin, do))
        except sqlite3.OperationalError as error:
            raise self._dropped(error) from error

    def _run(
        self, connection: sqlite3.Connection, begin: str, do: Callable[[Transaction], Reply]
    ) -> tuple[Reply, Transaction]:
        try:
            return self._attempt(connection, begin, do)
        except sqlite3.OperationalError as error:
            if hasattr(error, "sqlite_errorcode") or connection.text_factory is text:
                raise
            # The module's own complaint: a text is no UTF-8. Read on with a factory that can tell
            # such a row from the others; it is slow, so only from here on.
            connection.text_factory = text
            return self._attempt(connection, begin, do)

    def _attempt(
        self, connection: sqlite3.Connection, begin: str, do: Callable[[Transaction], Reply]
    ) -> tuple[Reply, Transaction]:
        connection.execute(begin)
        try:
            transaction = Transaction(connection, self._clock(), self.watch, self.file.parent)
            reply = do(transaction)
            transaction.finish()
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise
        return reply, transaction


def _connect(address: Address) -> sqlite3.Connection:
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
        _patiently(address, lambda: _prepare(connection, address))
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


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except OSError:
        return None


def _identity(found: os.stat_result) -> tuple[int, int]:
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


def _patiently(address: Address, do: Callable[[], Reply]) -> Reply:
    """Return what `do` returns, tried again while another process holds the lock it needs."""
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
