"""The journal: what everybody in a chaos run did, in the order in which it happened.

Producers, handlers, hooks and the fault injector append to one file. A line is one `write` to a
descriptor opened with O_APPEND: lines of different processes never mix, their order in the file
is the order of the writes, and a process that is killed takes nothing back. (Linux does cut a
write short if the process is killed between two pages: each line begins with a newline of its
own, and the reader leaves out what is no whole line.)
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
from taskmux.driver import Ref, State

__all__ = [
    "Acked",
    "Down",
    "Ended",
    "Entry",
    "Fault",
    "Intent",
    "Journal",
    "LeaseLost",
    "Line",
    "Settled",
    "Started",
    "Tail",
    "Up",
]


class Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="what"):
    """What every line says: who wrote it, and when.

    `at` is the monotonic clock, which all processes of a machine share; `epoch` is for people.
    """

    pid: int = msgspec.field(default_factory=os.getpid)
    at: float = msgspec.field(default_factory=time.monotonic)
    epoch: float = msgspec.field(default_factory=time.time)


class Intent(Line, frozen=True, kw_only=True, tag="intent"):
    """A producer is about to push a job."""

    ref: Ref


class Acked(Line, frozen=True, kw_only=True, tag="acked"):
    """The store acknowledged a push."""

    ref: Ref


class Started(Line, frozen=True, kw_only=True, tag="started"):
    """A handler begins."""

    ref: Ref
    fence: int


class Ended(Line, frozen=True, kw_only=True, tag="ended"):
    """A handler is about to return."""

    ref: Ref
    fence: int


class Settled(Line, frozen=True, kw_only=True, tag="settled"):
    """The store took a run's outcome. Written afterwards: a kill in between leaves no line."""

    ref: Ref
    fence: int
    to: State | None


class LeaseLost(Line, frozen=True, kw_only=True, tag="lost"):
    """A worker was told that a run is a zombie: its lease went, or its outcome was refused."""

    ref: Ref
    fence: int


class Up(Line, frozen=True, kw_only=True, tag="up"):
    """A worker began to fetch."""


class Down(Line, frozen=True, kw_only=True, tag="down"):
    """A worker has drained."""


class Fault(Line, frozen=True, kw_only=True, tag="fault"):
    """Something is about to be done to process `pid`: its name, such as `SIGKILL`."""

    name: str


Entry = Intent | Acked | Started | Ended | Settled | LeaseLost | Up | Down | Fault

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Entry).decode


class Journal:
    """The writing end. Any number of processes may have the same file open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, entry: Entry) -> None:
        """Append a line."""
        os.write(self._file, b"\n" + _encode(entry) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        os.close(self._file)


class Tail:
    """The reading end: what was written since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.torn = 0
        """How many lines were cut short by their writer's end."""

    def new(self) -> list[Entry]:
        """Return the entries that are complete by now and were not returned before."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        entries: list[Entry] = []
        for line in filter(None, whole.split(b"\n")):
            try:
                entries.append(_decode(line))
            except msgspec.DecodeError:
                self.torn += 1
        return entries
