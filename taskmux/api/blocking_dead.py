"""Dead letters for code without an event loop; see `taskmux.api.blocking`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from taskmux.api.blocking_bulk import Run
from taskmux.api.filters import Narrowing
from taskmux.driver import Page
from taskmux.model.job import JobRecord
from taskmux.model.queue import Rate
from taskmux.policy.deadstats import DeadStats

if TYPE_CHECKING:  # they lead here
    from taskmux.api.bulk import BulkResult
    from taskmux.api.bulk_verbs import BulkOptions
    from taskmux.api.dead import DeadLetters

__all__ = ["BlockingDeadLetters"]


class BlockingDeadLetters:
    """The dead letters of a queue; see `DeadLetters`."""

    def __init__(self, dead: DeadLetters, run: Run) -> None:
        self._dead = dead
        self._run = run

    def __repr__(self) -> str:
        return f"<BlockingDeadLetters {self._dead.name}>"

    def count(self) -> int:
        """Return how many there are."""
        return self._run(self._dead.count)

    def find(
        self,
        *,
        newest: bool = True,
        cursor: str | None = None,
        limit: int = 100,
        **narrowing: Unpack[Narrowing],
    ) -> Page:
        """Return a page of them; see `DeadLetters.find`."""
        return self._run(
            lambda: self._dead.find(newest=newest, cursor=cursor, limit=limit, **narrowing)
        )

    def jobs(self, *, newest: bool = True, **narrowing: Unpack[Narrowing]) -> Iterator[JobRecord]:
        """Yield them, page by page; see `DeadLetters.jobs`."""
        cursor: str | None = None
        while True:
            page = self.find(newest=newest, cursor=cursor, **narrowing)
            yield from page.jobs
            cursor = page.cursor
            if cursor is None:
                return

    def stats(self, **narrowing: Unpack[Narrowing]) -> DeadStats:
        """Count them by way of failing and by time; see `DeadLetters.stats`."""
        return self._run(lambda: self._dead.stats(**narrowing))

    def redrive(
        self,
        *,
        rate: str | Rate | None = None,
        reset_attempts: bool = True,
        **options: Unpack[BulkOptions],
    ) -> BulkResult:
        """Let them run again; see `DeadLetters.redrive`."""
        return self._run(
            lambda: self._dead.redrive(rate=rate, reset_attempts=reset_attempts, **options)
        )

    def purge(self, **options: Unpack[BulkOptions]) -> BulkResult:
        """Remove them for good; see `DeadLetters.purge`."""
        return self._run(lambda: self._dead.purge(**options))

    def edit(self, job_id: str, arguments: Mapping[str, Any], *, replace: bool = False) -> None:
        """Change arguments of one; see `DeadLetters.edit`."""
        self._run(lambda: self._dead.edit(job_id, arguments, replace=replace))
