"""Hooks: what a plug-in can implement. Signatures only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from taskmux.driver import Driver, PushStatus
    from taskmux.model.job import JobRecord, Ref
    from taskmux.model.transition import Transition

__all__ = ["hookspec"]

hookspec = pluggy.HookspecMarker("taskmux")


@hookspec(firstresult=True)
def taskmux_driver(url: str) -> Driver | None:
    """Return an unopened driver for a URL of your scheme (in lower case), None for another's."""


@hookspec(firstresult=True)
def taskmux_client_driver(client: object) -> Driver | None:
    """Return an unopened driver that uses an application's own client, or None."""


@hookspec
def taskmux_enqueued(ref: Ref, task: str, status: PushStatus) -> None:
    """A producer's `push` was answered; called in the producer's process."""


@hookspec
def taskmux_started(job: JobRecord, worker: str) -> None:
    """A handler is about to run; called in the worker's event loop, so it must not block."""


@hookspec
def taskmux_settled(job: JobRecord, transition: Transition, seconds: float) -> None:
    """An outcome was stored; `job` is the record after it, `seconds` how long the handler ran."""


@hookspec
def taskmux_dead(job: JobRecord) -> None:
    """A job became dead and the store has it so; called in the process that decided it."""


@hookspec
def taskmux_lease_lost(job: JobRecord, worker: str) -> None:
    """A running job's lease was lost: it may run elsewhere, and this run's writes are refused."""


@hookspec
def taskmux_worker_started(worker: str, queues: tuple[str, ...]) -> None:
    """A worker began to fetch."""


@hookspec
def taskmux_worker_stopped(worker: str) -> None:
    """A worker stopped, after draining or aborting."""


@hookspec
def taskmux_context(job: JobRecord) -> Any:
    """Return a context manager to enter around the handler, such as a tracing span, or None."""
