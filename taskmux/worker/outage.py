"""Outages: a store that is away is told of once, when it begins, and once when it is over."""

from __future__ import annotations

import logging

from taskmux.worker.clock import monotonic

__all__ = ["Outage"]

logger = logging.getLogger("taskmux.worker")


class Outage:
    """What a worker knows of one store's absence.

    Args:
        store: the store's URL, credentials hidden.
    """

    def __init__(self, store: str) -> None:
        self._store = store
        self._since: float | None = None

    def met(self, error: Exception, what: str) -> None:
        """Something met the outage; it is tried again by whoever tried it."""
        if self._since is not None:
            logger.debug("%s failed, trying again: %s", what, error)
            return
        self._since = monotonic()
        logger.warning(
            "%s cannot be reached (%s: %s); what runs goes on, and all is tried again until it is "
            "back",
            self._store,
            what,
            error,
            extra={"store": self._store},
        )

    def over(self) -> None:
        """The store answers."""
        if self._since is None:
            return
        lasted, self._since = monotonic() - self._since, None
        logger.warning(
            "%s is back after %.1f s",
            self._store,
            lasted,
            extra={"store": self._store, "seconds": round(lasted, 3)},
        )
