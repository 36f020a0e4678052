"""Hooks: what a driver's author may tell the kit beside where the driver is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from taskmux.driver import Driver, Ref, StoreError

__all__ = ["Hooks"]


class Hooks:
    """What a driver's author may override; every default suits an ordinary server."""

    clock_error_ms: ClassVar[int] = 0
    """How far instants may be off, for a store whose clock is estimated rather than read."""

    async def advance(self, ms: float) -> None:
        """Let `ms` milliseconds pass on the store's clock. By default they really pass."""
        await asyncio.sleep(ms / 1000)

    async def leaked(self, driver: Driver) -> list[str]:  # noqa: ARG002 - for overriders
        """Return what the store should not hold any more, each in words. Called after each test.

        Stray keys, open transactions, index entries without a record: whatever only the driver's
        author can see.
        """
        return []

    async def unfit(self) -> Sequence[tuple[Driver, type[StoreError]]]:
        """Return drivers whose store cannot be opened, each with the error that must say so."""
        return []

    async def cut(self, driver: Driver) -> bool:  # noqa: ARG002 - for overriders
        """Break every connection that an open driver has to its store; False: cannot be done.

        As a server does that goes away and comes back: ask it to drop its clients, or close the
        sockets behind the driver's back. The store itself stays as it is.
        """
        return False

    async def damage(self, driver: Driver, ref: Ref) -> bool:  # noqa: ARG002 - for overriders
        """Make one stored record unreadable behind the driver's back; False: cannot be done."""
        return False
