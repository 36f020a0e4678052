"""Outages: a store that is away, full or closed to us is told of once, and once when it is over."""

from __future__ import annotations

import math

from taskmux.model.errors import StoreDenied, StoreFull, StoreUnavailable
from taskmux.model.log import Log
from taskmux.worker.clock import monotonic

__all__ = ["WAITED_OUT", "Outage"]

logger = Log("taskmux.worker")

WAITED_OUT: tuple[type[Exception], ...] = (StoreUnavailable, StoreFull, StoreDenied)
"""Errors that pass when somebody mends the store; whatever met them is tried again until then."""

_SAYINGS: dict[type[Exception], str] = {
    StoreUnavailable: "cannot be reached",
    StoreFull: "has no room: free some, or allow it more",
    StoreDenied: "refuses this worker: give it back its rights or its password",
}


class Outage:
    """What a worker knows of one store's trouble.

    Each duty says when it met the trouble and when it got through again. The trouble is over when
    all of them got through: a store that is full still gives jobs and takes no outcomes.

    Args:
        store: the store's URL, credentials hidden.
    """

    def __init__(self, store: str) -> None:
        self._store = store
        self._since = 0.0
        self._hit: set[str] = set()
        self._told: set[str] = set()
        self.back_at = -math.inf
        """When the last trouble was over, by this process's monotonic clock."""

    def lately(self, seconds: float) -> bool:
        """Say whether there is trouble, or was within so many seconds."""
        return bool(self._hit) or monotonic() < self.back_at + seconds

    def met(self, error: Exception, what: str) -> None:
        """A duty met the trouble; it is tried again by whoever tried it."""
        if not self._hit:
            self._since = monotonic()
        self._hit.add(what)
        saying = next(text for kind, text in _SAYINGS.items() if isinstance(error, kind))
        if saying in self._told:
            logger.debug("%s failed, trying again: %s", what, error)
            return
        self._told.add(saying)
        logger.warning(
            "%s %s (%s: %s); what runs goes on, and all is tried again until it is back",
            self._store,
            saying,
            what,
            error,
            extra={"store": self._store},
        )

    def over(self, what: str) -> None:
        """A duty got through."""
        if not self._hit:
            return
        self._hit.discard(what)
        if self._hit:
            return
        self._told.clear()
        self.back_at = monotonic()
        lasted = self.back_at - self._since
        logger.warning(
            "%s is back after %.1f s",
            self._store,
            lasted,
            extra={"store": self._store, "seconds": round(lasted, 3)},
        )
