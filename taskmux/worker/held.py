"""A held job: the one record that goes through a worker, from its claim to its stored outcome."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from taskmux.driver import HeldLease
from taskmux.model.job import JobRecord
from taskmux.model.transition import Transition

if TYPE_CHECKING:
    from taskmux.worker.invocation import Invocation
    from taskmux.worker.station import Station

__all__ = ["Held", "Stop"]


class Stop(Enum):
    """Why a running handler is stopped."""

    TIMEOUT = auto()
    CANCEL = auto()
    DRAIN = auto()
    LOST = auto()


class Held:
    """A job under this worker's lease.

    Attributes:
        job: the record as it was claimed.
        station: the store that it came from.
        until: when the lease ends, by this process's monotonic clock; never later than in the
            store.
        started: the store was told, or is about to be, that it runs.
        began, ended: when its handler did, by the same clock.
        invocation: what runs its handler now; None: nothing does.
        stop: why its handler is being stopped.
        outcome: what was decided about it; from then on it only waits to be stored.
    """

    __slots__ = (
        "began",
        "ended",
        "invocation",
        "job",
        "outcome",
        "started",
        "station",
        "stop",
        "until",
    )

    def __init__(self, job: JobRecord, station: Station, until: float) -> None:
        self.job = job
        self.station = station
        self.until = until
        self.started = job.started
        self.began = self.ended = 0.0
        self.invocation: Invocation | None = None
        self.stop: Stop | None = None
        self.outcome: Transition | None = None

    @property
    def lease(self) -> HeldLease:
        """The lease, as drivers know it."""
        return HeldLease(self.job.ref, self.job.fence)

    def interrupt(self, why: Stop) -> None:
        """Stop the handler if it runs. The first reason counts, but for a lost lease."""
        if self.invocation is None:
            return
        if self.stop is None:
            self.invocation.interrupt()
        if self.stop is None or why is Stop.LOST:
            self.stop = why
