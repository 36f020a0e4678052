"""What the commands print: for people on a terminal, in plain lines for pipes, as JSON on demand.

Whatever came out of a store is escaped here: a job's name, error or log line may hold characters
that a terminal obeys.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec
from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

__all__ = [
    "complain",
    "complaints",
    "console",
    "dumps",
    "facts",
    "panel",
    "print_json",
    "print_line",
    "print_lines",
    "safe",
    "say",
    "settle_streams",
    "shown",
    "table",
]

_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters (C0, C1), marks that turn the direction of text, and lone surrogates."""

Cell = str | Text


class _Console(Console):
    """A console that outlives whoever reads it: `taskmux worker app:mux | head` works on."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, or be silent from now on if nobody reads."""
        try:
            super().print(*objects, **options)
        except (OSError, ValueError):  # the pipe or the file is closed
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Be silent from now on."""
        self.quiet = True
        settle_streams()


console = _Console(highlight=False, markup=False, emoji=False)
complaints = _Console(stderr=True, highlight=False, markup=False, emoji=False)


def settle_streams() -> None:
    """Let what nobody reads go nowhere, so that the end of the process does not stumble on it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name, None)
        try:
            if stream is not None:
                stream.flush()
        except BaseException:  # noqa: BLE001 - an app can put anything there
            if not _led_nowhere(stream):
                setattr(sys, name, None)


def _led_nowhere(stream: Any) -> bool:
    """Open the null device in the place of a stream's file; False where it has none."""
    try:
        descriptor = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if nowhere != descriptor:
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
        stream.flush()
    except BaseException:  # noqa: BLE001 - as above
        return False
    return True


def safe(text: str, *, lines: bool = False) -> str:
    """Return text with every character that a terminal obeys escaped: `<ESC>` as backslash, x1b.

    `lines`: line breaks and tabs stay, as in a traceback.
    """
    return _OBEYED.sub(lambda found: _escaped(found[0], lines=lines), text)


def _escaped(char: str, *, lines: bool) -> str:
    if lines and char in "\n\t":
        return char
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char) or (
        f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"  # noqa: PLR2004
    )


def shown(text: str, style: str = "", *, lines: bool = False) -> Text:
    """Return text as it may be shown, in a style."""
    return Text(safe(text, lines=lines), style=style)


def say(*parts: Cell) -> None:
    """Print one line to standard output, never wrapped: a terminal does that by itself."""
    _print(console, parts)


def complain(*parts: Cell) -> None:
    """Print one line to standard error."""
    _print(complaints, parts)


def _print(to: Console, parts: Iterable[Cell]) -> None:
    texts = (part if isinstance(part, Text) else shown(part, lines=True) for part in parts)
    line = Text("").join(texts)
    if to.is_terminal:
        to.print(line, soft_wrap=True)
    elif not to.quiet:  # as it is: rich would make spaces of tabs
        try:
            encoding = getattr(to.file, "encoding", None) or "utf-8"
            to.file.write(line.plain.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            to.file.flush()
        except (OSError, ValueError):
            to.on_broken_pipe()


WHOLE = frozenset({"id", "job", "worker", "queue", "scheme", "task", "fingerprint"}) | frozenset(
    {"count", "state", "when", "died", "last"}
)
"""Columns that are copied from, or short: they are not broken if the terminal has room for them."""

GAP = 2
"""Characters between two columns."""

NARROWEST = 8
"""Characters that are left to a column that is cut to what room there is."""


def table(
    headers: Sequence[str], rows: Iterable[Sequence[Cell]], *, one_line: bool = False
) -> None:
    """Print a table: with lines around it for people, else one line a row, with tabs between.

    On a terminal that is too narrow for it, texts are wrapped between words; only a single word
    that has no room is broken.

    Args:
        headers: of the columns.
        rows: the cells.
        one_line: on a terminal a row takes one line: the last column is cut to what room there is.
    """
    cells = [[cell if isinstance(cell, Text) else shown(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        for row in (headers, *([cell.plain for cell in row] for row in cells)):
            say("\t".join(row))
        return
    columns = [[header, *map(str, cells)] for header, *cells in zip(headers, *cells, strict=True)]
    wanted = [max(map(cell_len, column)) for column in columns]
    least = [_least(column) for column in columns]
    if one_line:
        least[-1] = min(wanted[-1], NARROWEST)
    room = console.width - GAP * len(columns)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for header, width in zip(headers, _widths(wanted, least, room), strict=True):
        drawn.add_column(header, overflow="fold", width=width)
    if one_line:
        drawn.columns[-1].overflow, drawn.columns[-1].no_wrap = "ellipsis", True
    for drawn_row in cells:
        drawn.add_row(*drawn_row)
    console.print(drawn)


def _least(column: Sequence[str]) -> int:
    """Return the width that a column needs so that no word in it, or no cell, is broken."""
    header = column[0]
    parts = (
        column if header.lower() in WHOLE else [word for cell in column for word in cell.split()]
    )
    return max(map(cell_len, parts), default=1)


def _widths(wanted: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Return the widths of columns: what each needs, and of the rest what it can use.

    Where there is not even room for what they need, the widest give.
    """
    widths = list(least)
    while (over := sum(widths) - room) > 0 and max(widths) > NARROWEST:
        widest = widths.index(max(widths))
        widths[widest] -= min(over, widths[widest] - NARROWEST)
    left = max(0, room - sum(widths))
    modest_first = sorted(range(len(widths)), key=lambda at: wanted[at] - widths[at])
    for turn, at in enumerate(modest_first):
        more = min(wanted[at] - widths[at], left // (len(widths) - turn))
        widths[at] += more
        left -= more
    return widths


def facts(rows: dict[str, str | None]) -> None:
    """Print names and values, without those that are empty."""
    said = {name: shown(value, lines=True) for name, value in rows.items() if value}
    if not console.is_terminal:
        for name, value in said.items():
            say(f"{name}: ", value)
        return
    drawn = Table.grid(padding=(0, 2))
    for name, value in said.items():
        drawn.add_row(Text(name, style="bold"), value)
    console.print(drawn)


def panel(title: str, text: str) -> None:
    """Print a longer text under a title."""
    if not console.is_terminal:
        say(f"-- {title}")
        say(text)
        return
    body: RenderableType = shown(text, lines=True)
    console.print(Panel(body, title=shown(title), title_align="left"))


def print_json(value: Any) -> None:
    """Print a value as JSON; payloads and results, which are JSON already, as what they are."""
    click.echo(dumps(_plain(value), indent=2))


def print_line(value: Any) -> None:
    """Print a value as one line of JSON.

    Raises:
        BrokenPipeError: nobody reads.
    """
    click.echo(dumps(_plain(value)))


def print_lines(values: Iterable[Any]) -> None:
    """Print each value as one line of JSON."""
    for value in values:
        print_line(value)


def dumps(value: Any, indent: int | None = None) -> str:
    """Return plain values as JSON that any reader takes, with nothing in it that terminals obey."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=str)
    return _OBEYED.sub(lambda found: _in_json(found[0]), text)


def _in_json(char: str) -> str:
    # json.dumps has escaped C0 already: a line break here is one of its own
    return char if char == "\n" else f"\\u{ord(char):04x}"


def _plain(value: Any) -> Any:
    match value:
        case msgspec.Struct():  # every field, also those that have their default
            return _plain(msgspec.structs.asdict(value))
        case bytes():
            return _decoded(value)
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case float() if not math.isfinite(value):  # JSON has no such number
            return str(value)
        case _:
            return value


def _decoded(data: bytes) -> Any:
    """Return what JSON bytes say; as text if they are none, or hold what JSON has no word for."""
    try:
        return _plain(json.loads(data, parse_constant=str))
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")
