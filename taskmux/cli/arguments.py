"""Arguments of a task on the command line: `name=value`, or all of them as JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from taskmux.model.errors import InvalidArguments
from taskmux.model.units import brief

__all__ = ["arguments_option", "given"]

arguments_option = click.option(
    "--arguments", metavar="JSON", help="All arguments, as a JSON object; - reads standard input."
)

NAME = re.compile(r"[^\W\d]\w*\Z")


def given(pairs: Sequence[str], whole: str | None, *, needed: bool = False) -> dict[str, Any]:
    """Return the arguments that were given.

    Args:
        pairs: `name=value`: what parses as JSON is that value, other text is itself.
        whole: a JSON object instead; `-` reads it from standard input.
        needed: whether something must be given.

    Raises:
        InvalidArguments: they cannot be read, or both kinds are there.
    """
    if whole is not None:
        if pairs:
            raise InvalidArguments("Give name=value or --arguments, not both.")
        return _object(sys.stdin.read() if whole == "-" else whole)
    if needed and not pairs:
        raise InvalidArguments("Nothing to change: give name=value, or --arguments '{...}'.")
    found: dict[str, Any] = {}
    for pair in pairs:
        name, mark, value = pair.partition("=")
        if not mark or not NAME.match(name):
            raise InvalidArguments(
                f"{brief(pair)} is no argument. Write name=value, such as user_id=42, or all of "
                f"them: --arguments '{{\"user_id\": 42}}'."
            )
        if name in found:
            raise InvalidArguments(f"The argument {name!r} is given twice.")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(word: str) -> NoReturn:
    raise ValueError(word)  # NaN and Infinity are no JSON


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidArguments(f"--arguments {brief(text)} is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidArguments(
            f"--arguments {brief(text)} is no JSON object. Write '{{\"name\": value}}'."
        )
    return value
