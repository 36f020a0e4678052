"""MongoDB URLs: checked before anything is sent, and made into clients."""

from __future__ import annotations

import re
from typing import Any, Final

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

_DEFAULTS: Final = {
    "appname": "taskmux",
    "serverselectiontimeoutms": 5_000,
    "connecttimeoutms": 5_000,
    "sockettimeoutms": 30_000,
}
"""What the URL may override. PyMongo's own defaults wait for half a minute, or for ever."""


class Address(msgspec.Struct, frozen=True):
    """A checked URL; `shown` is the URL without credentials."""

    url: str
    shown: str
    database: str
    options: dict[str, Any]


def parse(url: str) -> Address:
    """Check a `mongodb://` or `mongodb+srv://` URL without touching the network.

    Raises:
        InvalidURL: host, database or an option is wrong.
    """
    shown = hide_credentials(url)
    parts, options = split_url(url)
    if not parts.netloc:
        raise InvalidURL(f"{shown!r} names no host. Write mongodb://host:27017/database.")
    database = check_database(parts.path.strip("/") or DATABASE)
    if parts.scheme == "mongodb":
        try:
            parse_uri(url, validate=True, warn=False)
        except (InvalidURI, ConfigurationError, ValueError) as error:
            reason = _without_secrets(str(error), parts.netloc)
            raise InvalidURL(f"{shown!r} is not a MongoDB URL: {reason}") from None
    given = {name.lower() for name in options}
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in given}
    return Address(url, shown, database, defaults)


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
    except (InvalidURI, ConfigurationError, ValueError) as error:
        reason = _without_secrets(str(error), split_url(address.url)[0].netloc)
        raise InvalidURL(f"{address.shown!r} is not a MongoDB URL: {reason}") from None


def _without_secrets(text: str, netloc: str) -> str:
    for secret in re.split(r"[:]", netloc.rpartition("@")[0]):
        if secret:
            text = text.replace(secret, "***")
    return hide_credentials(text)
