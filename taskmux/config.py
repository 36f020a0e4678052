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

from taskmux.errors import ConfigError, InvalidURL

__all__ = [
    "DEFAULT_URL",
    "Limits",
    "Settings",
    "check_options",
    "hide_credentials",
    "load_settings",
    "scheme_of",
    "split_url",
]

DEFAULT_URL = "sqlite:///taskmux.db"

_SCHEME = re.compile(r"([a-z][a-z0-9+.\-]{0,31}):", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/?#]*@")
_SECRET = re.compile(r"(?i)([?&][^=&#]*(?:pass|secret|token|key|user|auth)[^=&#]*=)[^&#]*")


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
    drain: str = "25s"
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
            values[field.name] = text.split(",") if field.name == "queues" else text
    values.update({name: value for name, value in (flags or {}).items() if value is not None})
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"Configuration is wrong: {error}. Settings are "
            f"{', '.join(field.name for field in msgspec.structs.fields(Settings))}; each can be a "
            f"flag, TASKMUX_<NAME> in the environment, or a line in [tool.taskmux]."
        ) from None


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
            f"{hide_credentials(str(url))!r} is not a backend URL. Write it as scheme://..., for "
            f"example sqlite:///taskmux.db or redis://localhost."
        )
    return match[1].lower()


def split_url(url: str) -> tuple[SplitResult, dict[str, str]]:
    """Return the URL's parts and its query options (a repeated option keeps the last value).

    Raises:
        InvalidURL: it has no scheme, a control character, a bad port or bad brackets.
    """
    scheme_of(url)
    shown = hide_credentials(url)
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in url):  # noqa: PLR2004 - ASCII controls
        raise InvalidURL(f"{shown!r} has a control character. Percent-encode it or take it out.")
    try:
        parts = urlsplit(url)
        _ = parts.hostname if "," in parts.netloc else parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError as error:
        reason = str(error).replace(url, shown)
        raise InvalidURL(f"{shown!r} is not a URL: {reason}. Check host, port, brackets.") from None
    return parts, {name: unquote(value) for name, value in options.items()}


def check_options(url: str, options: Mapping[str, str], known: set[str]) -> None:
    """Refuse query options that the driver does not know.

    Raises:
        InvalidURL: it names the unknown option and the known ones.
    """
    unknown = sorted(set(options) - known)
    if unknown:
        raise InvalidURL(
            f"{hide_credentials(url)!r} has the unknown option {unknown[0]!r}. "
            f"Known options: {', '.join(sorted(known)) or 'none'}."
        )


def hide_credentials(url: str) -> str:
    """Return the URL with user, password and secret-looking options replaced by `***`."""
    if "@" in url:
        url = _USERINFO.sub("***@", url)
    return _SECRET.sub(r"\1***", url)
