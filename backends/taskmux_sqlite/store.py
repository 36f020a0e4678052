"""One connection to the file, on one thread: opened with care, used in transactions."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from taskmux.driver import StoreError, StoreIncompatible, StoreUnavailable

from taskmux_sqlite import forks
from taskmux_sqlite.address import Address
from taskmux_sqlite.opening import connect, identity, patiently, stat
from taskmux_sqlite.records import text
from taskmux_sqlite.schema import check_owner
from taskmux_sqlite.transaction import Transaction
from taskmux_sqlite.wait import Waiter, Watch

__all__ = ["Store"]

Reply = TypeVar("Reply")


class Store:
    """An open database. Everything about it happens on one thread, which takes `using` for it.

    Args:
        address: the file and its options.
        clock: returns epoch milliseconds.
        brought: called after a commit that left more to claim, or (False) events alone.

    Raises:
        StoreUnavailable: there is no such directory, or the path is one; or the file was open in
            the process that this one was forked from.
        StoreDenied: the file or its directory may not be written.
        StoreIncompatible: the library is too old, the file is another's, or WAL cannot work there.
        sqlite3.Error: whatever else SQLite says.
    """

    def __init__(
        self, address: Address, clock: Callable[[], int], brought: Callable[[bool], None]
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
        if transaction.brought or (transaction.told and self.watch.follows()):
            self.watch.brought()
        if transaction.brought or transaction.told:
            self._brought(transaction.brought)
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
            self._connection = connect(self._address)
            found = stat(self.file)
            self._identity = None if found is None else identity(found)
            self.watch.use(self._connection)
        return self._connection

    def _check_file(self, opened: tuple[int, int]) -> None:
        """Look whether the path still leads to the file that was opened: SQLite does not.

        A file that is gone may come back, so it is not made anew here; whoever opens the store
        makes a new one, and then this connection follows.
        """
        found = stat(self.file)
        if found is None:
            raise StoreUnavailable(
                f"{self.file} was moved or deleted while it was open; what is written now would "
                f"be lost. Put it back with its -wal and -shm files, or restart the application "
                f"to begin with an empty file."
            )
        if identity(found) != opened:
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
            return patiently(self._address, lambda: self._run(connection, begin, do))
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
