"""Where the database is, and how it is used: a `sqlite://` URL taken apart."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import msgspec
from taskmux.driver import InvalidURL, check_options, hide_credentials, split_url

__all__ = ["Location", "parse"]

MAX_BUSY_TIMEOUT = 600_000


class Location(msgspec.Struct, frozen=True):
    """A database file and its options.

    `busy_timeout`: milliseconds to wait for a lock that another process holds.
    `synchronous`: `full` syncs every commit to disk, `normal` only checkpoints.
    """

    url: str
    file: Path
    busy_timeout: int = 5000
    synchronous: Literal["full", "normal"] = "full"


def parse(url: str) -> Location:
    """Return the location that a URL names; a relative path is resolved now.

    Raises:
        InvalidURL: it names no file, has a host, or has an option that is unknown or out of range.
    """
    parts, options = split_url(url)
    check_options(url, options, {"busy_timeout", "synchronous"})
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
    return Location(
        url=hide_credentials(url),
        file=Path(path).resolve(),
        busy_timeout=_busy_timeout(url, options.get("busy_timeout", "5000")),
        synchronous=_synchronous(url, options.get("synchronous", "full")),
    )


def _busy_timeout(url: str, text: str) -> int:
    if text.isascii() and text.isdigit() and int(text[:9]) <= MAX_BUSY_TIMEOUT and len(text) < 10:  # noqa: PLR2004 - longer is out of range, and slow to parse
        return int(text)
    raise _wrong(
        url, f"busy_timeout={text!r}. It is a number of milliseconds from 0 to {MAX_BUSY_TIMEOUT}"
    )


def _synchronous(url: str, text: str) -> Literal["full", "normal"]:
    match text.lower():
        case "full" | "normal" as level:
            return level
        case _:
            raise _wrong(url, f"synchronous={text!r}. It is 'full' or 'normal'")


def _wrong(url: str, what: str) -> InvalidURL:
    return InvalidURL(f"{hide_credentials(url)!r} has {what}.")
