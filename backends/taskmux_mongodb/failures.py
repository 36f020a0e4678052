"""MongoDB's errors as the store's errors: what happened, and what to do next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import bson.errors
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from taskmux.driver import (
    StoreBusy,
    StoreDenied,
    StoreFull,
    StoreIncompatible,
    StoreUnavailable,
    errors,
)

__all__ = ["FAULTS", "store_error", "translate"]

FAULTS: Final = (PyMongoError, bson.errors.BSONError, OverflowError, UnicodeEncodeError, OSError)
"""What a call of the client may raise."""

Mapped = errors.StoreError | errors.PayloadError
_Say = Callable[[str], Mapped]


def store_error(code: int | None, text: str) -> Mapped:
    """Return the error to raise for one that the server answered with."""
    if "No space left" in text:
        return _full(text)
    return _BY_CODE.get(code, _refused)(f"{text[:300]} (code {code})")


def translate(error: BaseException, where: str) -> Mapped:
    """Return the error to raise in place of the client's; `where` holds no credentials."""
    if isinstance(error, BulkWriteError):
        return _of_bulk(error)
    if isinstance(error, OperationFailure):
        return store_error(error.code, str((error.details or {}).get("errmsg", error)))
    for kinds, say in _BY_KIND:
        if isinstance(error, kinds):
            return say(f"{where} ({type(error).__name__}: {_reason(error)})")
    return _again(f"{where} ({type(error).__name__})")


def _reason(error: BaseException) -> str:
    # A topology's whole description follows; it helps nobody who reads one line.
    return str(error).partition(", Timeout:")[0][:200]


def _of_bulk(error: BulkWriteError) -> Mapped:
    details = error.details
    for one in details.get("writeConcernErrors") or ():
        return _again(f"no majority acknowledged the write: {str(one.get('errmsg'))[:200]}")
    first = (details.get("writeErrors") or [{}])[0]
    return store_error(first.get("code"), str(first.get("errmsg")))


def _denied(text: str) -> Mapped:
    return StoreDenied(
        f"MongoDB refused the credentials or the permission: {text}. Check user, password and "
        f"authSource; docs/mongodb.md lists what taskmux needs."
    )


def _full(text: str) -> Mapped:
    return StoreFull(f"MongoDB has no room: {text[:300]}. Free its disk, then send it again.")


def _busy(text: str) -> Mapped:
    return StoreBusy(f"MongoDB is busy: {text}. The operation may be sent again.")


def _again(text: str) -> Mapped:
    return StoreUnavailable(
        f"MongoDB did not acknowledge: {text}. The operation may be sent again; if this lasts, "
        f"look at the replica set's state (rs.status())."
    )


def _unreachable(text: str) -> Mapped:
    hint = "check host, port, firewall and replicaSet"
    if "SSL" in text or "certificate" in text:
        hint = "check tls=, tlsCAFile= and the server's certificate"
    return StoreUnavailable(
        f"No MongoDB server can be written to at {text}. Start it, or {hint}; the operation may be "
        f"sent again."
    )


def _broken(text: str) -> Mapped:
    return StoreUnavailable(f"The connection broke to {text}. The operation may be sent again.")


def _closed(text: str) -> Mapped:
    return StoreUnavailable(f"The client is closed: {text}. Open the driver again.")


def _unfit(text: str) -> Mapped:
    return StoreIncompatible(
        f"This MongoDB server or its client cannot do what taskmux needs: {text}. "
        f"docs/mongodb.md says what it needs."
    )


def _refused(text: str) -> Mapped:
    return StoreIncompatible(
        f"MongoDB refused an operation: {text}. Look at the server's log; another program may "
        f"have changed taskmux's collections."
    )


def _too_large(text: str) -> Mapped:
    return errors.PayloadTooLarge(
        f"A job's document would be over MongoDB's 16 MiB: {text}. Store large data elsewhere and "
        f"pass a reference."
    )


def _no_bson(text: str) -> Mapped:
    return errors.NotEncodable(
        f"A value has no BSON form: {text}. Integers have 64 bits, and text is Unicode without "
        f"lone surrogates. Nothing was stored for it."
    )


_CODES: Final[dict[_Say, tuple[int, ...]]] = {
    _denied: (11, 13, 18, 31, 8000),
    _full: (12501, 14031, 14032),
    _too_large: (10334, 17419, 17420),
    _busy: (24, 46, 112, 117),
    # Timeouts, lost cursors, and every way in which a server stops being primary.
    _again: (
        6, 7, 43, 50, 64, 89, 91, 133, 134, 136, 175, 189, 202, 237, 262, 317, 358, 384,
        9001, 10058, 10107, 11600, 11602, 13388, 13435, 13436,
    ),
    _unfit: (20, 59, 67, 72, 85, 86, 100, 115, 166, 238, 303, 323),
}  # fmt: skip

_BY_CODE: Final[dict[int | None, _Say]] = {
    code: say for say, codes in _CODES.items() for code in codes
}

_BY_KIND: Final[tuple[tuple[type[BaseException], _Say], ...]] = (
    (ServerSelectionTimeoutError, _unreachable),
    (DocumentTooLarge, _too_large),
    (ConnectionFailure, _broken),
    (OSError, _broken),
    (InvalidOperation, _closed),
    (ConfigurationError, _unfit),
    (bson.errors.BSONError, _no_bson),
    (OverflowError, _no_bson),
    (UnicodeEncodeError, _no_bson),
)
"""The first that fits counts."""
