"""A queue's searches and bulk verbs for code without an event loop; see `taskmux.api.blocking`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TypeVar, Unpack

from taskmux.api.filters import Narrowing
from taskmux.driver import Page
from taskmux.model.job import JobRecord, State
from taskmux.model.units import Duration

if TYPE_CHECKING:  # they lead here
    from taskmux.api.bulk import BulkResult, Progress
    from taskmux.api.bulk_verbs import BulkOptions
    from taskmux.api.queue import Queue

__all__ = ["BlockingBulkVerbs", "BlockingSearches"]

R = TypeVar("R")
States = State | str | Iterable[State | str] | None


class Run(Protocol):
    """Runs what a function starts on a background loop, and waits for it."""

    def __call__(self, make: Callable[[], Awaitable[R]]) -> R:
        """Run it."""
        ...


class BlockingSearches:
    """What a queue can be asked for its jobs; see `Queue`."""

    _queue: Queue
    _run: Run

    def find(
        self,
        state: States = None,
        *,
        newest: bool = False,
        cursor: str | None = None,
        limit: int = 100,
        **narrowing: Unpack[Narrowing],
    ) -> Page:
        """Return a page of the jobs that a filter means; see `Queue.find`."""
        return self._run(
            lambda: self._queue.find(state, newest=newest, cursor=cursor, limit=limit, **narrowing)
        )

    def page(
        self,
        state: State | str,
        *,
        tag: str | None = None,
        newest: bool = False,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Return one page of the jobs in a state; see `Queue.page`."""
        return self._run(
            lambda: self._queue.page(state, tag=tag, newest=newest, cursor=cursor, limit=limit)
        )

    def jobs(
        self, state: States = None, *, newest: bool = False, **narrowing: Unpack[Narrowing]
    ) -> Iterator[JobRecord]:
        """Yield the jobs that a filter means, page by page; see `Queue.jobs`."""
        cursor: str | None = None
        while True:
            page = self.find(state, newest=newest, cursor=cursor, limit=500, **narrowing)
            yield from page.jobs
            cursor = page.cursor
            if cursor is None:
                return


class BlockingBulkVerbs:
    """Verbs over the jobs that a filter means; see `Queue`."""

    _queue: Queue
    _run: Run

    def retry(self, **options: Unpack[BulkOptions]) -> BulkResult:
        """Make finished jobs wait again; see `Queue.retry`."""
        return self._run(lambda: self._queue.retry(**options))

    def cancel(self, *, reason: str | None = None, **options: Unpack[BulkOptions]) -> BulkResult:
        """Cancel unfinished jobs; see `Queue.cancel`."""
        return self._run(lambda: self._queue.cancel(reason=reason, **options))

    def promote(self, **options: Unpack[BulkOptions]) -> BulkResult:
        """Make delayed jobs wait now; see `Queue.promote`."""
        return self._run(lambda: self._queue.promote(**options))

    def remove(self, **options: Unpack[BulkOptions]) -> BulkResult:
        """Remove jobs in any state but active; see `Queue.remove`."""
        return self._run(lambda: self._queue.remove(**options))

    def reprioritise(self, priority: int | str, **options: Unpack[BulkOptions]) -> BulkResult:
        """Give jobs another priority; see `Queue.reprioritise`."""
        return self._run(lambda: self._queue.reprioritise(priority, **options))

    def hold(self, **options: Unpack[BulkOptions]) -> BulkResult:
        """Keep waiting and delayed jobs back; see `Queue.hold`."""
        return self._run(lambda: self._queue.hold(**options))

    def unhold(self, **options: Unpack[BulkOptions]) -> BulkResult:
        """Let jobs that were held go on; see `Queue.unhold`."""
        return self._run(lambda: self._queue.unhold(**options))

    def drain(self, *, delayed: bool = False, on_progress: Progress | None = None) -> BulkResult:
        """Remove the waiting jobs; see `Queue.drain`."""
        return self._run(lambda: self._queue.drain(delayed=delayed, on_progress=on_progress))

    def clean(
        self,
        older_than: Duration | datetime,
        *,
        state: States = None,
        limit: int | None = None,
        on_progress: Progress | None = None,
    ) -> BulkResult:
        """Remove jobs that ended so long ago; see `Queue.clean`."""
        return self._run(
            lambda: self._queue.clean(older_than, state=state, limit=limit, on_progress=on_progress)
        )

    def obliterate(self, *, force: bool = False, on_progress: Progress | None = None) -> BulkResult:
        """Remove every job of the queue; see `Queue.obliterate`."""
        return self._run(lambda: self._queue.obliterate(force=force, on_progress=on_progress))
