"""MongoDB URLs: checked before anything is sent, and made into clients."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from pymongo import AsyncMongoClient
from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.uri_parser import parse_uri
from taskmux.driver import InvalidURL, hide_credentials, split_url

__all__ = ["DATABASE", "Address", "Document", "check_database", "connect", "parse"]

Document = dict[str, Any]

DATABASE: Final = "taskmux"
"""The database if the URL names none."""

_DATABASE = re.compile(r"[A-Za-z0-9_\-]{1,63}\Z")

_AZURE: Final = re.compile(r"(?<=[?&])appname=@[\w\-]+@(?=&|$)", re.IGNORECASE)
"""Azure gives out URLs whose `appName` has the account's name between two '@'."""

_MANY: Final = re.compile(r":|,")
_REFUSED: Final = (InvalidURI, ConfigurationError, ValueError)

_ANSWERED_WITHIN_MS: Final = 30_000

_DEFAULTS: Final = {
    "appname": "taskmux",
    "serverselectiontimeoutms": 5_000,
    "connecttimeoutms": 5_000,
    "sockettimeoutms": _ANSWERED_WITHIN_MS,
}
"""What the URL may override. PyMongo's own defaults wait for half a minute, or for ever."""


class Address(msgspec.Struct, frozen=True):
    """A checked URL.

    Attributes:
        url: as the client takes it.
        shown: the URL without credentials.
        database: where the collections go.
        options: defaults for what the URL does not say.
        patience: seconds within which a small command must be answered; None: the URL limits
            whole operations itself, by `timeoutMS`.
    """

    url: str
    shown: str
    database: str
    options: dict[str, Any]
    patience: float | None


def parse(url: str) -> Address:
    """Check a `mongodb://` or `mongodb+srv://` URL without touching the network.

    Raises:
        InvalidURL: host, database or an option is wrong.
    """
    url = _AZURE.sub(lambda match: match[0].replace("@", "%40"), url)
    shown = hide_credentials(url)
    parts, options = split_url(url)
    if not parts.netloc:
        raise InvalidURL(f"{shown!r} names no host. Write mongodb://host:27017/database.")
    database = check_database(parts.path.strip("/") or DATABASE)
    if parts.scheme == "mongodb":
        try:
            parse_uri(url, validate=True, warn=False)
        except (*_REFUSED, OSError) as error:
            raise _no_url(url, shown, error) from None
    elif _MANY.search(parts.netloc.rpartition("@")[2]):
        raise InvalidURL(
            f"{shown!r} has a port, or several hosts. mongodb+srv:// takes one name, and finds "
            f"hosts and ports by DNS. Take them out, or write mongodb://host:27017/database."
        )
    given = {name.lower(): value for name, value in options.items()}
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in given}
    return Address(url, shown, database, defaults, _patience(given))


def _patience(given: Mapping[str, str]) -> float | None:
    text = given.get("sockettimeoutms", str(_ANSWERED_WITHIN_MS))
    unlimited = "timeoutms" in given or not text.isdigit() or int(text) == 0
    return None if unlimited else int(text) / 1000


def check_database(name: str) -> str:
    """Return the database's name if it can be one.

    Raises:
        InvalidURL: it cannot.
    """
    if not _DATABASE.match(name):
        raise InvalidURL(
            f"{name!r} cannot be a database's name here. Use letters, digits, '_' and '-', at "
            f"most 63."
        )
    return name


def connect(address: Address) -> AsyncMongoClient[Document]:
    """Return a client that has not connected yet. It never resends a write by itself.

    Raises:
        InvalidURL: PyMongo refuses an option.
    """
    try:
        return AsyncMongoClient(
            address.url, retryWrites=False, retryReads=False, connect=False, **address.options
        )
    except (*_REFUSED, OSError) as error:
        raise _no_url(address.url, address.shown, error) from None


def _no_url(url: str, shown: str, error: Exception) -> InvalidURL:
    """Return the error for what PyMongo refuses; with its reason, if that quotes no secret."""
    if isinstance(error, OSError):
        return InvalidURL(
            f"{shown!r} names a file for TLS that cannot be read as one ({type(error).__name__}). "
            f"Mend tlsCAFile or tlsCertificateKeyFile."
        )
    parts, options = split_url(url)
    given = [*parts.netloc.rpartition("@")[0].split(":"), *options.values()]
    reason = str(error)
    if any(one and (one in reason or unquote(one) in reason) for one in given):
        reason = "PyMongo refuses a part of it"
    return InvalidURL(
        f"{shown!r} is not a MongoDB URL: {reason}. Write mongodb://user:password@host:27017/"
        f"database?option=value with PyMongo's options, and percent-encode '@', ':' and '/' in "
        f"credentials."
    )
