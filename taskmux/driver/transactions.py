"""The capability `transactions`: jobs that become visible with the application's own commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from taskmux.driver.messages import NewJob, Pushed

__all__ = ["Transactions"]


@runtime_checkable
class Transactions(Protocol):
    """Takes jobs inside a transaction that the application began on its own client."""

    async def push_within(self, session: Any, jobs: Sequence[NewJob]) -> Sequence[Pushed]:
        """Create jobs as `push` does, in the session's transaction.

        A commit makes the jobs, an abort none; no worker sees them before the commit.
        A duplicate id or key is answered as by `push` and does not abort the transaction.
        """
        ...
