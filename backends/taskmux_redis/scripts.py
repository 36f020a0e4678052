"""Lua scripts: a file each, with a header that is its contract and gives its parameters names.

A header is the comment at the top of the file. Its line `-- KEYS: base, ready` becomes
`local base, ready = KEYS[1], KEYS[2]`, and `-- ARGV: origin, number, items...` names arguments
alike; `items...` is where the variable ones begin. `--! include name` puts `lib/name.lua` there.
Sources are constant: nothing is ever formatted into them.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

import msgspec

__all__ = ["Script", "script"]

_FIELD = re.compile(r"^-- (KEYS|ARGV): ((?:.*,\n-- +)*.*)$", re.MULTILINE)
_INCLUDE = re.compile(r"^--! include ([a-z_]+)$", re.MULTILINE)


class Script(msgspec.Struct, frozen=True):
    """A script ready to be sent: its source, its SHA1, and the names of what it takes."""

    name: str
    source: str
    sha: str
    keys: tuple[str, ...]
    arguments: tuple[str, ...]
    """Fixed arguments, in order; variable ones may follow."""


@cache
def script(name: str) -> Script:
    """Return the script of `lua/<name>.lua`."""
    text = _read(name)
    names = {kind: _names(listed) for kind, listed in _FIELD.findall(text)}
    keys = names.get("KEYS", ())
    arguments = names.get("ARGV", ())
    body = _INCLUDE.sub(lambda match: _read(f"lib/{match[1]}"), text)
    source = _locals("KEYS", keys) + _locals("ARGV", arguments) + body
    fixed = tuple(name for name in arguments if not name.endswith("..."))
    digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name, source, digest, keys, fixed)


def _read(name: str) -> str:
    return (files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.replace("\n--", "").split(","))


def _locals(table: str, names: tuple[str, ...]) -> str:
    values = [
        str(at) if name.endswith("...") else f"{table}[{at + 1}]" for at, name in enumerate(names)
    ]
    left = ", ".join(name.removesuffix("...") for name in names)
    return f"local {left} = {', '.join(values)}\n" if names else ""
