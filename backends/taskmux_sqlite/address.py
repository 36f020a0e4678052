"""Where the database is, and how it is used: a `sqlite://` URL taken apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import msgspec
from msgspec import Meta
from taskmux.driver import InvalidURL, check_options, hide_credentials, split_url

__all__ = ["Address", "parse"]

MAX_BUSY_TIMEOUT = 600_000
LONGEST = 100
"""Characters of an option's value that an error shows."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL may say after `?`. The descriptions complete the message about a wrong value.

    `busy_timeout`: milliseconds to wait for a lock that another process has.
    `synchronous`: `full` syncs every commit to disk, `normal` only checkpoints.
    """

    busy_timeout: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_BUSY_TIMEOUT,
            description=f"a number of milliseconds from 0 to {MAX_BUSY_TIMEOUT}",
        ),
    ] = 5000
    synchronous: Annotated[Literal["full", "normal"], Meta(description="'full' or 'normal'")] = (
        "full"
    )


class Address(Options, frozen=True, kw_only=True):
    """A database file and its options. `url` is safe to show."""

    url: str
    file: Path


def parse(url: str) -> Address:
    """Return the address that a URL names; a relative path is resolved now.

    Raises:
        InvalidURL: it names no file, has a host, or has an option that is unknown or out of range.
    """
    parts, options = split_url(url)
    fields = msgspec.structs.fields(Options)
    check_options(url, options, {field.name for field in fields})
    if parts.netloc or parts.fragment:
        raise _wrong(
            url,
            "a host or a fragment: only a path is wanted. Write three slashes before a relative "
            "path, four before an absolute one, and %23 for '#'",
        )
    path = unquote(parts.path).removeprefix("/")
    if path in ("", ":memory:"):
        raise _wrong(
            url,
            "no file: a database in memory could not be seen by a worker in another process. "
            "Use memory:// for that, or name a file, such as sqlite:///taskmux.db",
        )
    if "\0" in path:
        raise _wrong(url, "a NUL character in its path. Take it out")
    given: dict[str, Any] = {
        one.name: _value(url, one, options[one.name]) for one in fields if one.name in options
    }
    return Address(url=hide_credentials(url), file=Path(path).resolve(), **given)


def _value(url: str, field: msgspec.structs.FieldInfo, text: str) -> object:
    """Return an option's value.

    Raises:
        InvalidURL: it is not of the option's type.
    """
    try:
        return msgspec.convert(text.lower(), field.type, strict=False)
    except msgspec.ValidationError:
        shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
        wanted = next(one.description for one in field.type.__metadata__ if one.description)
        raise _wrong(url, f"{field.name}={shown!r}. It is {wanted}") from None


def _wrong(url: str, what: str) -> InvalidURL:
    return InvalidURL(f"{hide_credentials(url)!r} has {what}.")
