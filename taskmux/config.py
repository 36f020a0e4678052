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
from urllib.parse import SplitResult, parse_qsl, unquote_plus, urlsplit

import msgspec

from taskmux.model.errors import ConfigError, InvalidURL
from taskmux.model.units import brief

__all__ = [
    "DEFAULT_URL",
    "Limits",
    "Settings",
    "check_options",
    "hide_credentials",
    "load_settings",
    "parent_process",
    "scheme_of",
    "split_url",
]

DEFAULT_URL = "sqlite:///taskmux.db"

_SCHEME = re.compile(r"([a-z][a-z0-9+.\-]{0,31}):", re.IGNORECASE)
_HEAD = re.compile(r"[a-z][a-z0-9+.\-]{0,31}://", re.IGNORECASE)
_SECRET = re.compile(r"pass|secret|token|key|user|auth", re.IGNORECASE)
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
    """What flags, environment and file can say. Durations are text such as `"30s"`."""

    url: str = DEFAULT_URL
    app: str | None = None
    queues: tuple[str, ...] = ("default",)
    concurrency: int = 10
    lease: str = "30s"
    drain: str = "20s"
    processes: int = 1
    log_level: str = "info"


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
    values: dict[str, Any] = _from_file(directory or Path.cwd())
    for field in msgspec.structs.fields(Settings):
        text = environ.get(f"TASKMUX_{field.name.upper()}")
        if text is not None:
            values[field.name] = _listed(text) if field.name == "queues" else text
    values.update({name: value for name, value in (flags or {}).items() if value is not None})
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"Configuration is wrong: {_named(error)}. Settings are "
            f"{', '.join(field.name for field in msgspec.structs.fields(Settings))}; each can be a "
            f"flag, TASKMUX_<NAME> in the environment, or a line in [tool.taskmux]."
        ) from None


def _named(error: msgspec.ValidationError) -> str:
    """Return what is wrong, with the setting by its name: msgspec says `$.concurrency`."""
    what, _, where = str(error).partition(" - at `$.")
    return f"{where.rstrip('`')}: {what}" if where else what


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def parent_process() -> int | None:
    """Return the process that supervises this one and said so, or None."""
    text = os.environ.get("TASKMUX_PARENT", "")
    return int(text) if text.isdigit() else None


def _from_file(directory: Path) -> dict[str, Any]:
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
        return table
    return {}


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
        InvalidURL: it has no scheme, a control character, a bad port or bad brackets.
    """
    scheme_of(url)
    shown = _shown(url)
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in url):  # noqa: PLR2004 - ASCII controls
        raise InvalidURL(f"{shown} has a control character. Percent-encode it or take it out.")
    try:
        parts = urlsplit(url)
        _ = parts.hostname if "," in parts.netloc else parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        astray = parts.netloc and "@" in parts.path + parts.query + parts.fragment
    except ValueError:  # its text may quote a piece of the password
        astray = True
    if astray:
        raise InvalidURL(
            f"{shown} is not a URL: its host, port or brackets are malformed, or its password has "
            f"characters that end it. Percent-encode '@', ':', '/', '?' and '#' in credentials."
        )
    return parts, options


def check_options(url: str, options: Mapping[str, str], known: set[str]) -> None:
    """Refuse query options that the driver does not know.

    Raises:
        InvalidURL: it names the unknown option and the known ones.
    """
    unknown = sorted(set(options) - known)
    if unknown:
        raise InvalidURL(
            f"{_shown(url)} has the unknown option {brief(unknown[0])}. "
            f"Known options: {', '.join(sorted(known)) or 'none'}."
        )


def hide_credentials(url: str) -> str:
    """Return the URL with user, password and secret-looking options replaced by `***`.

    People write passwords with `@`, `/` or `?` in them and forget to encode those, so whatever
    stands before the last `@` goes, unless the authority is empty, as in `sqlite:///a@b.db`.
    """
    match = _HEAD.match(url)
    head = match[0] if match else ""
    rest = url.removeprefix(head)
    if "@" in rest and not (head and rest.startswith("/")):
        rest = "***@" + rest.rpartition("@")[2]
    start, mark, query = rest.partition("?")
    return head + start + mark + "&".join(map(_hide_option, query.split("&")))


def _hide_option(option: str) -> str:
    name, equals, _ = option.partition("=")
    return f"{name}=***" if equals and _SECRET.search(unquote_plus(name)) else option


def _shown(url: str) -> str:
    return brief(hide_credentials(url), MAX_SHOWN)
