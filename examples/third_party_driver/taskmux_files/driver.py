"""The driver: the verbs, on a thread of its own so that the event loop never waits for a disk.

One thread for each instance: a call whose caller went away ends before the next one begins.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import unquote

import msgspec
from taskmux.driver import (
    Applied,
    ClaimAsk,
    Claimed,
    Driver,
    Extended,
    FindAsk,
    HeldLease,
    InvalidURL,
    JobRecord,
    NewJob,
    Note,
    Op,
    Page,
    PruneAsk,
    Pushed,
    QueueSettings,
    ReclaimAsk,
    Ref,
    State,
    StoreDenied,
    StoreFull,
    StoreIncompatible,
    StoreUnavailable,
    Transition,
    check_options,
    hookimpl,
    split_url,
)

from taskmux_files import keys, verbs
from taskmux_files.files import Directory, Queue

__all__ = ["FilesDriver", "taskmux_driver"]

Item = TypeVar("Item")
Reply = TypeVar("Reply")

POLL = 0.02
"""Seconds between two looks of a waiting instance."""

ERRORS = {
    errno.ENOSPC: (StoreFull, "Make room on the disk."),
    errno.EDQUOT: (StoreFull, "Make room within the quota."),
    errno.EACCES: (StoreDenied, "Let this user read and write the directory."),
    errno.EROFS: (StoreDenied, "Mount the file system for writing."),
    errno.EEXIST: (StoreIncompatible, "Name a directory."),
    errno.ENOENT: (StoreUnavailable, "Make the directory that it should be in."),
}


def epoch_ms() -> int:
    """Return the machine's clock in milliseconds."""
    return time.time_ns() // 1_000_000


class FilesDriver(Driver):
    """Jobs as files in a directory, for processes of one machine. It survives kills, no power cut.

    Args:
        url: `files:///absolute/path`; `files://` alone is `taskmux-jobs` in the working directory.
        clock: the store's clock, in epoch milliseconds.

    Raises:
        InvalidURL: the URL has a host, an option, a fragment or a NUL.
    """

    def __init__(self, url: str = "files://", *, clock: Callable[[], int] = epoch_ms) -> None:
        parts, options = split_url(url)
        check_options(url, options, set())
        path = unquote(parts.path)
        if parts.netloc not in {"", "localhost"} or parts.fragment or "\0" in path:
            raise InvalidURL("A files:// URL is a path and nothing else, as in files:///var/jobs.")
        self._url = url
        self._clock = clock
        self._root = Path(path or "taskmux-jobs").absolute()
        self._directory = Directory(self._root, clock)
        self._thread: ThreadPoolExecutor | None = None
        self._seen: dict[str, int] = {}

    @property
    def url(self) -> str:
        """The store's URL."""
        return self._url

    async def open(self) -> None:
        """See `Driver.open`."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "taskmux-files")
            try:
                await self._run(self._directory.prepare)
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """See `Driver.close`."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.shutdown)

    def fork(self) -> Self:
        """See `Driver.fork`."""
        fork = type(self)(self._url, clock=self._clock)
        fork._directory = self._directory  # noqa: SLF001 - a relative path stays what it was
        return fork

    async def push(self, op: Op, jobs: Sequence[NewJob]) -> Sequence[Pushed]:
        """See `Driver.push`."""
        return await self._each(
            lambda new: new.job.queue, lambda queue, part: verbs.push(queue, op, part), jobs
        )

    async def claim(self, op: Op, ask: ClaimAsk) -> Claimed:
        """See `Driver.claim`."""

        def claim(queue: Queue) -> tuple[Claimed, int]:
            return verbs.claim(queue, op, ask), queue.saved.ticks

        claimed, self._seen[ask.queue] = await self._do(ask.queue, claim)
        return claimed

    async def apply(self, op: Op, transitions: Sequence[Transition]) -> Sequence[Applied]:
        """See `Driver.apply`."""
        return await self._each(
            lambda one: one.ref.queue, lambda queue, part: verbs.apply(queue, op, part), transitions
        )

    async def annotate(self, notes: Sequence[Note]) -> Sequence[Applied]:
        """See `Driver.annotate`."""
        return await self._each(lambda note: note.ref.queue, verbs.annotate, notes)

    async def extend(self, leases: Sequence[HeldLease], lease: int) -> Sequence[Extended]:
        """See `Driver.extend`."""
        return await self._each(
            lambda held: held.ref.queue,
            lambda queue, part: verbs.extend(queue, part, lease),
            leases,
        )

    async def reclaim(self, op: Op, ask: ReclaimAsk) -> Sequence[JobRecord]:
        """See `Driver.reclaim`."""
        return await self._do(ask.queue, partial(verbs.reclaim, op=op, ask=ask))

    async def get(self, refs: Sequence[Ref]) -> Sequence[JobRecord | None]:
        """See `Driver.get`."""
        return await self._each(lambda ref: ref.queue, verbs.get, refs)

    async def find(self, ask: FindAsk) -> Page:
        """See `Driver.find`."""
        return await self._do(ask.queue, partial(verbs.find, ask=ask))

    async def counts(self, queue: str) -> dict[State, int]:
        """See `Driver.counts`."""
        return await self._do(queue, verbs.counts)

    async def queues(self) -> Sequence[str]:
        """See `Driver.queues`."""
        names = await self._run(self._directory.names)
        return [name for name in names if await self._do(name, Queue.is_used)]

    async def prune(self, ask: PruneAsk) -> int:
        """See `Driver.prune`."""
        return await self._do(ask.queue, partial(verbs.prune, ask=ask))

    async def dedup_owner(self, queue: str, key: str) -> str | None:
        """See `Driver.dedup_owner`."""
        return await self._do(queue, partial(keys.dedup_owner, key=key))

    async def release_dedup(self, queue: str, key: str, owner: str) -> bool:
        """See `Driver.release_dedup`."""
        return await self._do(queue, partial(keys.release_dedup, key=key, owner=owner))

    async def settings(self, queue: str) -> QueueSettings:
        """See `Driver.settings`."""
        return await self._do(queue, lambda loaded: loaded.saved.settings)

    async def put_settings(self, queue: str, settings: QueueSettings) -> bool:
        """See `Driver.put_settings`."""
        return await self._do(queue, partial(verbs.put_settings, settings=settings))

    async def wait(self, queues: Sequence[str], timeout: float) -> bool:  # noqa: ASYNC109 - as the interface has it
        """See `Driver.wait`."""
        deadline = time.monotonic() + timeout
        while True:
            ticks = await self._run(lambda: {name: self._directory.ticks(name) for name in queues})
            if any(ticks[name] > self._seen.get(name, 0) for name in queues):  # W1, W3
                self._seen |= ticks
                return True
            left = deadline - time.monotonic()
            if left <= 0:  # W2
                return False
            await asyncio.sleep(min(POLL, left))

    async def _each(
        self,
        queue_of: Callable[[Item], str],
        verb: Callable[[Queue, Sequence[Item]], Sequence[Reply]],
        items: Sequence[Item],
    ) -> Sequence[Reply]:
        """Hand each queue its part of a batch; return the answers in the batch's order."""
        parts: dict[str, list[Item]] = {}
        for item in items:
            parts.setdefault(queue_of(item), []).append(item)
        answers = {
            name: iter(await self._do(name, lambda queue: verb(queue, parts[queue.name])))
            for name in parts
        }
        return [next(answers[queue_of(item)]) for item in items]

    async def _do(self, name: str, verb: Callable[[Queue], Reply]) -> Reply:
        return await self._run(partial(self._directory.run, name, verb))

    async def _run(self, work: Callable[[], Reply]) -> Reply:
        if self._thread is None:
            raise StoreUnavailable(f"The driver of {self.url} is not open. Await its open() first.")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OSError as error:
            kind, advice = ERRORS.get(error.errno or 0, (StoreUnavailable, "Send it again."))
            raise kind(f"{error.filename or self._root}: {error.strerror}. {advice}") from error
        except msgspec.MsgspecError as error:
            raise StoreIncompatible(f"{self._root} is damaged: {error}. Restore it.") from error


@hookimpl
def taskmux_driver(url: str) -> Driver | None:
    """Serve `files://` URLs."""
    return FilesDriver(url) if url.startswith("files:") else None
