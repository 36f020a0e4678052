"""The directory: a file for each queue, changed whole or not at all, whoever is killed when.

One lock lets one operation run at a time, in all processes. It reads the queue's file, changes
what it read, writes all of it beside the file and renames that over it. The rename is the commit:
jobs, places, keys and the memory of operations are in one file, so they cannot disagree.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote

import msgspec
from taskmux.driver import JobRecord, Keep, Op, QueueSettings, State, StoreError, StoreIncompatible

__all__ = ["Directory", "Queue", "Stored"]

Reply = TypeVar("Reply")

FORMAT = b"taskmux-files 1\n"
FORGET_MS = 600_000
"""How long an origin's last operation is remembered at least."""


class Stored(msgspec.Struct):
    """A job: the record, and what the contracts need beside it."""

    job: JobRecord
    number: int
    """The queue's tick when it was created: breaks ties between jobs of one instant."""
    sequence: int = 0
    """Its place within its priority when it was last waiting."""
    retention: Keep = Keep()


class Remembered(msgspec.Struct):
    """An operation that was answered."""

    number: int
    at: int
    answer: bytes


class Owner(msgspec.Struct):
    """Who owns a deduplication key."""

    id: str
    until: int | None = None
    """None: until it is finished."""
    successor: str | None = None
    """The job that waits for its end."""


class Saved(msgspec.Struct):
    """A queue's file. Jobs are encoded one by one, so that a bad one spoils no other."""

    jobs: dict[str, bytes] = {}
    corrupt: dict[str, bytes] = {}
    memory: dict[str, Remembered] = {}
    owners: dict[str, Owner] = {}
    settings: QueueSettings = QueueSettings()
    fence_of_removed: int = 0
    """The highest fence of all jobs that were removed."""
    ticks: int = 0
    """Rises with every change of work or settings: gives places, and wakes who waits."""


_encode = msgspec.msgpack.Encoder().encode
_stored = msgspec.msgpack.Decoder(Stored).decode
_saved = msgspec.msgpack.Decoder(Saved).decode


class Queue:
    """A queue in memory, during one operation at one instant."""

    def __init__(self, name: str, saved: Saved, now: int) -> None:
        self.name = name
        self.saved = saved
        self.now = now
        self.jobs: dict[str, Stored] = {}
        for job_id, data in saved.jobs.items():
            try:
                self.jobs[job_id] = _stored(data)
            except msgspec.MsgspecError:
                saved.corrupt[job_id] = data

    def in_state(self, state: State) -> list[Stored]:
        """Return the jobs in one state, in no order."""
        return [stored for stored in self.jobs.values() if stored.job.state is state]

    def is_used(self) -> bool:
        """Return whether there is a job or a setting."""
        return bool(self.jobs) or self.saved.settings.rev > 0

    def tick(self) -> int:
        """Raise the count of changes; return it."""
        self.saved.ticks += 1
        return self.saved.ticks

    def remove(self, stored: Stored) -> None:
        """Forget a job, but for its fence."""
        del self.jobs[stored.job.id]
        self.saved.fence_of_removed = max(self.saved.fence_of_removed, stored.job.fence)

    def recall(self, op: Op, verb: str, kind: type[Reply]) -> Reply | None:
        """Return what this operation was answered before; None: it is new."""
        known = self.saved.memory.get(f"{verb} {op.origin}")
        if known is None or known.number < op.number:
            return None
        if known.number > op.number:  # nobody waits for its answer any more
            raise StoreError(f"Operation {op} came after a later one of its origin: not done.")
        return msgspec.msgpack.decode(known.answer, type=kind)

    def remember(self, op: Op, verb: str, answer: Reply) -> Reply:
        """Note the answer to an origin's last operation; return it."""
        self.saved.memory[f"{verb} {op.origin}"] = Remembered(op.number, self.now, _encode(answer))
        return answer

    def forget(self) -> None:
        """Drop the memory of origins that have been silent for long."""
        memory = self.saved.memory.items()
        self.saved.memory = {key: one for key, one in memory if one.at + FORGET_MS > self.now}

    def encoded(self) -> bytes:
        """Return what the queue's file will hold."""
        self.saved.jobs = {job_id: _encode(stored) for job_id, stored in self.jobs.items()}
        return _encode(self.saved)


EMPTY = _encode(Saved())


class Directory:
    """The files. Raises `OSError` as the system does."""

    def __init__(self, root: Path, clock: Callable[[], int]) -> None:
        self.root = root
        self._clock = clock

    def prepare(self) -> None:
        """Make the directory, or check that it is ours."""
        self.root.mkdir(exist_ok=True)
        mark = self.root / "format"
        with self._locked():
            found = {path.name for path in self.root.iterdir()}
            if found <= {"lock", "format.new"}:
                _replace(mark, FORMAT)
            elif mark.name not in found or mark.read_bytes() != FORMAT:
                raise StoreIncompatible(f"{self.root} holds something else. Name an empty one.")

    def run(self, name: str, do: Callable[[Queue], Reply]) -> Reply:
        """Return what `do` answers once all that it changed in a queue is in its file."""
        with self._locked():
            path = self.root / f"{quote(name, safe='')}.queue"
            before = path.read_bytes() if path.exists() else EMPTY
            queue = Queue(name, _saved(before), self._clock())
            ticks = queue.saved.ticks
            answer = do(queue)
            after = queue.encoded()
            if after != before:
                _replace(path, after)
            if queue.saved.ticks != ticks:  # after the commit: a hint that is lost harms nobody
                _replace(path.with_suffix(".ticks"), str(queue.saved.ticks).encode())
            return answer

    def ticks(self, name: str) -> int:
        """Return about how many changes a queue has seen. Takes no lock."""
        try:
            return int((self.root / f"{quote(name, safe='')}.ticks").read_bytes())
        except FileNotFoundError:
            return 0

    def names(self) -> list[str]:
        """Return the names of all queues that have a file."""
        return sorted(unquote(path.stem) for path in self.root.glob("*.queue"))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # it ends with the file, and so with the process
            yield


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(data)
    new.replace(path)
