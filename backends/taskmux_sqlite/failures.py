"""SQLite's errors as the store's errors: what happened, and what to do next."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from taskmux.driver import (
    StoreBusy,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreIncompatible,
    StoreUnavailable,
    errors,
)

__all__ = ["store_error"]

_PRIMARY = 0xFF
"""An extended result code keeps its primary code in the low byte."""

_DENIED = (
    StoreDenied,
    (
        "Give this user the right to read and write the file and its directory: SQLite keeps "
        "'-wal' and '-shm' files beside it."
    ),
)

_BUSY = (
    StoreBusy,
    (
        "Another process has the lock for longer than busy_timeout. End its transaction, or "
        "raise ?busy_timeout= (milliseconds)."
    ),
)

_KNOWN: dict[int, tuple[type[errors.TaskmuxError], str]] = {
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_PERM: _DENIED,
    sqlite3.SQLITE_READONLY: _DENIED,
    sqlite3.SQLITE_AUTH: _DENIED,
    sqlite3.SQLITE_FULL: (
        StoreFull,
        "Make room on the disk. Jobs that finish may still be written where space can be reused.",
    ),
    sqlite3.SQLITE_TOOBIG: (
        errors.PayloadTooLarge,
        "A value is larger than SQLite's limit, usually 1 GB. Make the payload or result smaller.",
    ),
    sqlite3.SQLITE_NOTADB: (
        StoreIncompatible,
        "The file is no SQLite database. Choose another file.",
    ),
    sqlite3.SQLITE_CORRUPT: (
        StoreIncompatible,
        "The file is damaged. Keep a copy, then restore a backup or try the shell's .recover.",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        StoreUnavailable,
        "Check that the path is right and that the directory can be written.",
    ),
    sqlite3.SQLITE_IOERR: (
        StoreUnavailable,
        "Check the disk and the file system. The database must be on a local disk.",
    ),
    sqlite3.SQLITE_PROTOCOL: (
        StoreIncompatible,
        "The file system does not lock as SQLite needs. The database must be on a local disk.",
    ),
}


def store_error(error: Exception, file: Path) -> Exception:
    """Return the store's error for one of SQLite's, or of a value that SQLite cannot store."""
    if isinstance(error, (OverflowError, UnicodeEncodeError)):
        return StoreError(
            f"A value does not fit into {file}: {error}. Integers have 64 bits, and a text must be "
            f"valid Unicode."
        )
    if not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised by the sqlite3 module itself
        return StoreError(f"SQLite refused an operation on {file}: {error}.")
    kind, advice = _KNOWN.get(code & _PRIMARY, (StoreError, "This should not happen: report it."))
    return kind(f"SQLite on {file}: {error} ({error.sqlite_errorname}). {advice}")
