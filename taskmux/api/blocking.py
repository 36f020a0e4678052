"""Blocking verbs for code without an event loop: a background thread with one runs the async verbs.

Each verb here does, returns and raises what its namesake does.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, Unpack

from msgspec import UNSET, UnsetType

from taskmux.api.blocking_bulk import BlockingBulkVerbs, BlockingSearches
from taskmux.api.blocking_dead import BlockingDeadLetters
from taskmux.api.options import QueueOptions
from taskmux.model.errors import ConfigError
from taskmux.model.job import JobRecord, State
from taskmux.model.queue import QueueSettings, Rate
from taskmux.model.units import Duration
from taskmux.policy.explain import Explanation
from taskmux.policy.strikes import Strike

if TYPE_CHECKING:  # they lead here
    from taskmux.api.handle import JobHandle, Update
    from taskmux.api.queue import Counts, Queue
    from taskmux.api.task import Task

__all__ = ["BackgroundLoop", "BlockingHandle", "BlockingQueue", "Portal"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Portal(Protocol):
    """The app, as handles and queues see it."""

    def encoded(self, task: str, arguments: Mapping[str, Any]) -> bytes:
        """Return the payload of a call; of a task known to the app, checked by its signature."""
        ...

    def returns_of(self, task: str) -> Any:
        """Return the type of a task's results; Any if the app does not know the task."""
        ...

    def run_blocking(self, make: Callable[[], Awaitable[R]]) -> R:
        """Run a coroutine on a background loop and wait for it."""
        ...


class BackgroundLoop:
    """Runs coroutines on a daemon thread's event loop, started at first use.

    A forked process gets a thread of its own: threads do not survive a fork.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    def run(self, make: Callable[[], Awaitable[R]]) -> R:
        """Run `make()` on the background loop and wait for its result.

        Raises:
            ConfigError: called from a coroutine, which it would block.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise ConfigError(
                "A blocking call inside a running event loop would stop it. Use the async verb: "
                "await task.enqueue(...)."
            )

        async def call() -> R:
            return await make()

        return asyncio.run_coroutine_threadsafe(call(), self._started()).result()

    def stop(self) -> None:
        """Stop the loop and its thread; a later call starts them again."""
        with self._lock:
            loop, thread, pid = self._loop, self._thread, self._pid
            self._loop = self._thread = None
        if loop is None or thread is None or pid != os.getpid():
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="taskmux-blocking", daemon=True
                )
                self._thread.start()
            return self._loop


class BlockingHandle(Generic[R_co]):
    """A handle's verbs for synchronous code; see `JobHandle`."""

    def __init__(self, handle: JobHandle[R_co], portal: Portal) -> None:
        self._handle = handle
        self._run = portal.run_blocking

    def __repr__(self) -> str:
        return f"<BlockingHandle {self._handle.ref}>"

    @property
    def id(self) -> str:
        """The job's id."""
        return self._handle.id

    def record(self) -> JobRecord:
        """Return the stored record; see `JobHandle.record`."""
        return self._run(self._handle.record)

    def status(self) -> State:
        """Return the job's state; see `JobHandle.status`."""
        return self._run(self._handle.status)

    def progress(self) -> Any:
        """Return the last progress, decoded; see `JobHandle.progress`."""
        return self._run(self._handle.progress)

    def result(self, timeout: Duration | None = None) -> R_co:
        """Wait for the result; see `JobHandle.result`."""
        return self._run(lambda: self._handle.result(timeout))

    def watch(self) -> Iterator[Update]:
        """Yield the job's state and progress whenever they have changed; see `JobHandle.watch`."""
        updates = self._handle.watch()
        try:
            while (update := self._run(lambda: anext(updates, None))) is not None:
                yield update
        finally:
            self._run(updates.aclose)

    def explain(self) -> Explanation:
        """Say why the job does not run now; see `JobHandle.explain`."""
        return self._run(self._handle.explain)

    def cancel(self, *, reason: str | None = None, wait: Duration | None = None) -> State:
        """Cancel the job; see `JobHandle.cancel`."""
        return self._run(lambda: self._handle.cancel(reason=reason, wait=wait))

    def retry(self) -> None:
        """Make a finished job wait again; see `JobHandle.retry`."""
        self._run(self._handle.retry)

    def promote(self) -> None:
        """Make a delayed job wait now; see `JobHandle.promote`."""
        self._run(self._handle.promote)

    def reschedule(self, *, delay: Duration | None = None, run_at: datetime | None = None) -> None:
        """Let the job run later, or sooner; see `JobHandle.reschedule`."""
        self._run(lambda: self._handle.reschedule(delay=delay, run_at=run_at))

    def set_priority(self, priority: int | str) -> None:
        """Give the job another priority; see `JobHandle.set_priority`."""
        self._run(lambda: self._handle.set_priority(priority))

    def edit(self, arguments: Mapping[str, Any], *, replace: bool = False) -> None:
        """Change arguments of the job; see `JobHandle.edit`."""
        self._run(lambda: self._handle.edit(arguments, replace=replace))

    def hold(self) -> None:
        """Keep the job back; see `JobHandle.hold`."""
        self._run(self._handle.hold)

    def unhold(self) -> None:
        """Let a job that was held go on; see `JobHandle.unhold`."""
        self._run(self._handle.unhold)

    def remove(self) -> None:
        """Remove the job's record; see `JobHandle.remove`."""
        self._run(self._handle.remove)


class BlockingQueue(BlockingSearches, BlockingBulkVerbs):
    """A queue's verbs for synchronous code; see `Queue`."""

    def __init__(self, queue: Queue, portal: Portal) -> None:
        self._queue = queue
        self._portal = portal
        self._run = portal.run_blocking

    def __repr__(self) -> str:
        return f"<BlockingQueue {self._queue.name}>"

    @property
    def dead(self) -> BlockingDeadLetters:
        """The queue's dead letters; see `Queue.dead`."""
        return BlockingDeadLetters(self._queue.dead, self._run)

    def counts(self) -> Counts:
        """Return the number of jobs in each state; see `Queue.counts`."""
        return self._run(self._queue.counts)

    def job(self, job_id: str) -> BlockingHandle[object]:
        """Return a handle on a job; nothing is asked yet."""
        return BlockingHandle(self._queue.job(job_id), self._portal)

    def get(self, job_id: str) -> JobRecord:
        """Return a job's record; see `Queue.get`."""
        return self._run(lambda: self._queue.get(job_id))

    def dedup_owner(self, key: str) -> BlockingHandle[object] | None:
        """Return the job that owns a deduplication key; see `Queue.dedup_owner`."""
        owner = self._run(lambda: self._queue.dedup_owner(key))
        return None if owner is None else BlockingHandle(owner, self._portal)

    def release_dedup(self, key: str) -> bool:
        """Free a deduplication key; see `Queue.release_dedup`."""
        return self._run(lambda: self._queue.release_dedup(key))

    def settings(self) -> QueueSettings:
        """Return the queue's stored settings; see `Queue.settings`."""
        return self._run(self._queue.settings)

    def pause(self, *, group: str | None = None, task: str | None = None) -> None:
        """Let no worker claim from the queue; see `Queue.pause`."""
        self._run(lambda: self._queue.pause(group=group, task=task))

    def resume(self, *, group: str | None = None, task: str | None = None) -> None:
        """Let workers claim again; see `Queue.resume`."""
        self._run(lambda: self._queue.resume(group=group, task=task))

    def limit(
        self,
        *,
        rate: str | Rate | None | UnsetType = UNSET,
        concurrency: int | None | UnsetType = UNSET,
        group: str | None = None,
        task: str | None = None,
        max_waiting: int | None | UnsetType = UNSET,
    ) -> None:
        """Limit how many jobs start or run; see `Queue.limit`."""
        self._run(
            lambda: self._queue.limit(
                rate=rate, concurrency=concurrency, group=group, task=task, max_waiting=max_waiting
            )
        )

    def reset(self, *, group: str | None = None, task: str | None = None) -> None:
        """Forget what was said about a group or task by name; see `Queue.reset`."""
        self._run(lambda: self._queue.reset(group=group, task=task))

    def strike(
        self,
        *,
        task: str | Task[Any, Any, Any, Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
        reason: str | None = None,
        **values: Any,
    ) -> Strike:
        """Set jobs aside instead of running them; see `Queue.strike`."""
        return self._run(
            lambda: self._queue.strike(task=task, arguments=arguments, reason=reason, **values)
        )

    def strikes(self) -> list[Strike]:
        """Return the strikes in force; see `Queue.strikes`."""
        return self._run(self._queue.strikes)

    def lift(self, strike: Strike | str) -> int:
        """Lift a strike; see `Queue.lift`."""
        return self._run(lambda: self._queue.lift(strike))

    def keep_events(self, count: int) -> None:
        """Let the queue keep so many events; see `Queue.keep_events`."""
        self._run(lambda: self._queue.keep_events(count))

    def set_defaults(self, **options: Unpack[QueueOptions]) -> None:
        """Store options for the queue's jobs; see `Queue.set_defaults`."""
        self._run(lambda: self._queue.set_defaults(**options))
