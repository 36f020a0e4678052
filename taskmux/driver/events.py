"""The capability `events`: what happened in a queue, to be followed from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

import msgspec

from taskmux.model.job import State

__all__ = ["EVENT_DATA", "EventPage", "Events", "StoreEvent", "What"]


EVENT_DATA = 4096
"""Bytes of progress that an event carries at most: of a larger one it says only that there is one,
for a stream of large ones would fill the store."""


class What(StrEnum):
    """What a driver knows of an event."""

    ADDED = "added"
    """A push created the job; `state` is the one it began in."""
    STATE = "state"
    """The job came into `state`."""
    TAKEN_OVER = "taken over"
    """Its lease lapsed, and somebody else has it now."""
    PROGRESS = "progress"
    """`data` is the progress."""
    REMOVED = "removed"
    """The record went, by a transition or by `prune`."""
    PAUSED = "paused"
    """The queue does not give jobs any more; the event has no id."""
    RESUMED = "resumed"
    """The queue gives jobs again; the event has no id."""


class StoreEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of a queue.

    Attributes:
        cursor: its place in the queue's stream, for `events(after=...)`.
        what: what happened.
        id: the job's; empty for an event of the queue.
        at: when, in epoch milliseconds by the store's clock.
        state: the state reached, if there is one to tell.
        data: JSON bytes: the progress, or what the transition `tells`.
    """

    cursor: str
    what: What
    id: str
    at: int
    state: State | None = None
    data: bytes | None = None


class EventPage(msgspec.Struct, frozen=True):
    """Events in order, and where to go on.

    Attributes:
        events: the events after the cursor that was given; empty when the time was over.
        cursor: what to give next.
        gap: some events after the cursor given are lost: it is too old. One of another queue or
            store may pass for one of this stream.
        kept: False if the queue keeps no events (`QueueSettings.events` is 0).
    """

    events: Sequence[StoreEvent]
    cursor: str
    gap: bool = False
    kept: bool = True


@runtime_checkable
class Events(Protocol):
    """A stream for each queue, in which verbs leave what they changed.

    E1 After an acknowledged change the queue's stream has its event: a job that `push` created, a
       transition into another state (by `claim`, `apply`, or due time), a lease taken over, a
       progress, a removal; and a queue that was paused or resumed. Of one job in the order in which
       it happened. A store that reads events out of its own log may show them a little later than
       the verb answers.
    E3 The newest `QueueSettings.events` of a queue are kept at least, and about as many at most; if
       that is 0, none, and a page says so. A cursor after which events are lost gives `gap`.
    E4 What changed nothing makes no event: a refused or stale item, or an operation sent again. A
       note that is sent again may tell its progress twice, and a removal may be told twice.
    """

    async def events(
        self,
        queue: str,
        after: str | None,
        limit: int,
        timeout: float,  # noqa: ASYNC109 - a long poll's
    ) -> EventPage:
        """Return up to about `limit` events after a cursor, or wait for some.

        E2 With `after=None` it answers at once: no events, and the cursor of now. Else it answers
           as soon as there are events after the cursor, and after `timeout` seconds without any.
           No event between two pages is left out or told twice. A cursor that is none gives `gap`.
           An empty one is the beginning of what is kept, and no gap; in a store that reads its own
           log it may be the time when this instance was opened.

        Raises:
            UnsupportedFeature: this deployment of the store has no events; the message says what
                it needs.
        """
        ...
