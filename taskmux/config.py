"""Configuration: flag > environment > file > default. The only reader of the environment.

Environment variables are `TASKMUX_` and a setting's name in capitals (`TASKMUX_LEASE=30s`). The
file is `taskmux.toml`, or the table `[tool.taskmux]` of `pyproject.toml`, in the working
directory. Credentials in URLs are hidden wherever taskmux shows one.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from taskmux.model.errors import ConfigError, InvalidURL
from taskmux.model.units import brief

__all__ = [
    "DEFAULT_URL",
    "PARENT",
    "PARENT_PIPE",
    "Limits",
    "Settings",
    "check_options",
    "hide_credentials",
    "load_settings",
    "parent_process",
    "scheme_of",
    "split_url",
    "take_parent_pipe",
]

DEFAULT_URL = "sqlite:///taskmux.db"

PARENT = "TASKMUX_PARENT"
"""Tells a worker process its parent, so that it drains when that one is gone."""
PARENT_PIPE = "TASKMUX_PARENT_PIPE"
"""Tells it the open file in which it reports to that parent."""

_SCHEME = re.compile(r"([a-z][a-z0-9+.\-]{0,31}):", re.IGNORECASE)
_HEAD = re.compile(r"[a-z][a-z0-9+.\-]{0,31}://", re.IGNORECASE)
_HOST = re.compile(r"(?:\[[0-9A-Za-z:.%_\-]+\]|[^\[\]:@/?#\\]*)(?::([0-9]{1,5}))?")
_PLAIN_HOSTS = re.compile(r"[0-9A-Za-z_.,:\[\]\-]*")
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,63}")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.\-]{0,64}")
_PARAMETERS = re.compile(r";[^/]*=")
"""What no path of a URL has here, as in `/0;password=...`; a file's name may."""
_AZURE = re.compile(r"appname=@[\w\-]+@", re.IGNORECASE)
"""The one option with '@' in it: Azure gives out MongoDB URLs with the account's name like that."""
_FILES = frozenset({"sqlite", "unix"})
"""Schemes whose path is a file's, which may have '@' or ':' in its name."""
_HARMLESS = frozenset(
    [
        "allow_eviction",
        "busy_timeout",
        "connecttimeoutms",
        "db",
        "directconnection",
        "journal",
        "maxpoolsize",
        "prefix",
        "readpreference",
        "replicaset",
        "retryreads",
        "retrywrites",
        "serverselectiontimeoutms",
        "sockettimeoutms",
        "ssl",
        "synchronous",
        "timeout",
        "tls",
        "w",
    ]
)
"""Options that say how a store is reached and never who reaches it: their values are shown."""
MAX_SHOWN = 300


class Limits(msgspec.Struct, frozen=True):
    """Sizes, in bytes or lines, refused before anything is sent."""

    payload: int = 1_048_576
    result: int = 1_048_576
    progress: int = 65_536
    log_line: int = 4_096
    log_lines: int = 100
    message: int = 2_048
    traceback: int = 8_192
    history: int = 20


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What flags, environment and file can say. Durations are text such as `"30s"`.

    `queues`: empty means every queue of the app's tasks.
    """

    url: str = DEFAULT_URL
    app: str | None = None
    queues: tuple[str, ...] = ()
    concurrency: int = 10
    lease: str = "30s"
    drain: str = "20s"
    processes: int = 1
    log_level: str = "info"
    log_format: str = "text"


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Settings:
    """Return the settings in force; `flags` that are None count as not given.

    Raises:
        ConfigError: a value is of the wrong kind, a name is unknown, or the file is not TOML.
    """
    environ = os.environ if environ is None else environ
    values, path = _from_file(directory or Path.cwd())
    places = dict.fromkeys(values, str(path))
    for field in msgspec.structs.fields(Settings):
        variable = f"TASKMUX_{field.name.upper()}"
        text = environ.get(variable)
        if text is not None:
            values[field.name] = _listed(text) if field.name == "queues" else text
            places[field.name] = variable
    said = {name: value for name, value in (flags or {}).items() if value is not None}
    values.update(said)
    places.update(dict.fromkeys(said, "a flag"))
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"Configuration is wrong: {_named(error, values, places)}. Settings are "
            f"{', '.join(field.name for field in msgspec.structs.fields(Settings))}; each can be a "
            f"flag, TASKMUX_<NAME> in the environment, or a line in [tool.taskmux]."
        ) from None


def _named(
    error: msgspec.ValidationError, values: Mapping[str, Any], places: Mapping[str, str]
) -> str:
    """Return what is wrong, with the setting, its value and its place; msgspec says `$.queues`."""
    what, _, where = str(error).partition(" - at `$.")
    if not where:
        known = {field.name for field in msgspec.structs.fields(Settings)}
        unknown = next((name for name in values if name not in known), None)
        return what if unknown is None else f"{places[unknown]} has no setting {brief(unknown)}"
    name = re.split(r"[.\[`]", where)[0]
    value = "a URL" if name == "url" else brief(values[name])  # it may hold a password
    wanted = re.sub(", got .*", "", what).replace("Expected", "expected")
    return f"{name} is {value} in {places[name]}: {wanted}"


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def parent_process() -> int | None:
    """Return the process that supervises this one and said so, or None."""
    text = os.environ.get(PARENT, "")
    return int(text) if text.isdigit() else None


def take_parent_pipe() -> int | None:
    """Return the open file that leads to that process, or None.

    It is taken from the environment: in a child of this process it is no open file, or another.
    """
    text = os.environ.pop(PARENT_PIPE, "")
    return int(text) if text.isdigit() else None


def _from_file(directory: Path) -> tuple[dict[str, Any], Path | None]:
    """Return what the file says, and which it is."""
    for name in ("taskmux.toml", "pyproject.toml"):
        path = directory / name
        if not path.is_file():
            continue
        try:
            table: Any = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read as TOML: {error}. Mend the file.") from None
        if name == "pyproject.toml":
            tools = table.get("tool", {})
            if "taskmux" not in tools:
                continue
            table = tools["taskmux"]
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: [tool.taskmux] is not a table. Write name = value lines.")
        return table, path
    return {}, None


def scheme_of(url: object) -> str:
    """Return the URL's scheme in lower case.

    Raises:
        InvalidURL: there is none.
    """
    match = _SCHEME.match(url) if isinstance(url, str) else None
    if match is None:
        raise InvalidURL(
            f"{_shown(str(url))} is not a backend URL. Write it as scheme://..., for "
            f"example sqlite:///taskmux.db or redis://localhost."
        )
    return match[1].lower()


def split_url(url: str) -> tuple[SplitResult, dict[str, str]]:
    """Return the URL's parts and its query options (a repeated option keeps the last value).

    Raises:
        InvalidURL: it has no `scheme://`, a control character, a host or port that cannot be one,
            or an `@` where no URL has it: a password that was not percent-encoded.
    """
    scheme = scheme_of(url)
    shown = _shown(url)
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in url):  # noqa: PLR2004 - C0, C1
        raise InvalidURL(f"{shown} has a control character. Percent-encode it or take it out.")
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError:  # its text may quote a piece of the password
        parts, options = None, {}
    if parts is None or not _HEAD.match(url) or _astray(scheme, parts):
        raise InvalidURL(
            f"{shown} is not a URL: its host, port or brackets are malformed, or its password has "
            f"characters that end it. Write scheme://user:password@host:port/path, and "
            f"percent-encode '@', ':', '/', '?' and '#' in credentials."
        )
    return parts, options


def _astray(scheme: str, parts: SplitResult) -> bool:
    """Say whether something stands where it cannot: then a piece of a password may be anywhere."""
    hosts = parts.netloc.rpartition("@")[2]
    return (
        not all(map(_is_host, hosts.split(",")))
        or _odd_path(scheme, parts.path)
        or "@" in parts.fragment
        or any("@" in option and not _AZURE.fullmatch(option) for option in parts.query.split("&"))
    )


def _is_host(text: str) -> bool:
    match = _HOST.fullmatch(text)
    return match is not None and int(match[1] or 0) < 2**16


def _odd_path(scheme: str, path: str) -> bool:
    """Say whether a path looks like credentials: `/u:p@h`. A file's name may have one `@`."""
    decoded = unquote(path)
    credentials = "@" in decoded and ":" in decoded
    if scheme in _FILES:
        return credentials
    return credentials or "@" in path or _PARAMETERS.search(decoded) is not None


def check_options(url: str, options: Mapping[str, str], known: set[str]) -> None:
    """Refuse query options that the driver does not know.

    Raises:
        InvalidURL: it names the unknown option and the known ones.
    """
    unknown = sorted(set(options) - known)
    if unknown:
        # A name without a value may be a piece of a password that began with '?'.
        name = brief(unknown[0]) if options[unknown[0]] else "(one without a value)"
        raise InvalidURL(
            f"{_shown(url)} has the unknown option {name}. "
            f"Known options: {', '.join(sorted(known)) or 'none'}."
        )


def hide_credentials(url: str) -> str:
    """Return the URL as it may be shown: user and password are `***`, as are most options.

    What cannot be taken apart without doubt is shown as its scheme alone, `redis://…`: people
    write passwords with `@`, `/` or `?` in them, and forget the user, the host or a slash. Nothing
    is shown of a text without a scheme. Of the options, those of `_HARMLESS` keep their values; of
    others only the name is shown.
    """
    match = _SCHEME.match(url)
    if match is None:
        return "…"  # a single word may be the password itself
    scheme = match[1]
    try:
        parts = urlsplit(url)
        plain = _HEAD.match(url) and not parts.fragment and not _astray(scheme.lower(), parts)
    except ValueError:
        plain = False
    if not plain:
        return f"{scheme}://…"
    credentials, at, hosts = parts.netloc.rpartition("@")
    path = unquote(parts.path)
    path_is_odd = (scheme.lower() not in _FILES and ":" in path) or _PARAMETERS.search(path)
    if path_is_odd or not _PLAIN_HOSTS.fullmatch(hosts) or "\\" in credentials:
        return f"{scheme}://…"
    query = "&".join(map(_hide_option, parts.query.split("&")))
    mark = "?" if "?" in url else ""
    return f"{scheme}://{'***' if at else ''}{at}{hosts}{parts.path}{mark}{query}"


def _hide_option(option: str) -> str:
    name, equals, value = option.partition("=")
    if not equals or not value:  # the name itself may be a piece of a password
        return "***" if option else ""
    if name.lower() in _HARMLESS and _PLAIN_VALUE.fullmatch(value):
        return option
    return f"{name}=***" if _OPTION.fullmatch(name) else "***"


def _shown(url: str) -> str:
    return brief(hide_credentials(url), MAX_SHOWN)
