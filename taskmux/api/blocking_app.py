"""An app's verbs for code without an event loop; see `taskmux.api.blocking`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from taskmux.api.blocking import BlockingHandle, BlockingQueue
from taskmux.api.call import Call
from taskmux.api.options import JobOptions, QueueOptions
from taskmux.model.workers import Command, WorkerInfo

if TYPE_CHECKING:  # they lead here
    from taskmux.api.handle import JobHandle
    from taskmux.app import Taskmux

__all__ = ["BlockingTaskmux"]

R = TypeVar("R")


class BlockingTaskmux:
    """An app's verbs for synchronous code; see `Taskmux`."""

    def __init__(self, app: Taskmux) -> None:
        self._app = app
        self._run = app.run_blocking

    def __repr__(self) -> str:
        return f"<BlockingTaskmux {self._app.url}>"

    def submit(self, call: Call[R]) -> JobHandle[R]:
        """Store a call as a job; see `Taskmux.submit`."""
        return self._run(lambda: self._app.submit(call))

    def enqueue(
        self, task: str, arguments: Mapping[str, Any] | None = None, **options: Unpack[JobOptions]
    ) -> JobHandle[Any]:
        """Store a job by its task's name; see `Taskmux.enqueue`."""
        return self._run(lambda: self._app.enqueue(task, arguments, **options))

    def enqueue_many(self, calls: Iterable[Call[R]]) -> list[JobHandle[R]]:
        """Store many calls, a few hundred per round trip; see `Taskmux.enqueue_many`."""
        listed = list(calls)  # here: a generator may block, which the loop's thread must not
        return self._run(lambda: self._app.enqueue_many(listed))

    def queue(self, name: str, *, defaults: QueueOptions | None = None) -> BlockingQueue:
        """Return a queue with blocking verbs; see `Taskmux.queue`."""
        return self._app.queue(name, defaults=defaults).blocking

    def job(self, queue: str, job_id: str) -> BlockingHandle[Any]:
        """Return a handle with blocking verbs; see `Taskmux.job`."""
        return self._app.job(queue, job_id).blocking

    def queues(self) -> list[str]:
        """Return the names of all queues in this app's stores; see `Taskmux.queues`."""
        return self._run(self._app.queues)

    def workers(self) -> list[WorkerInfo]:
        """Return the live workers of this app's stores; see `Taskmux.workers`."""
        return self._run(self._app.workers)

    def tell(self, worker: str, command: Command) -> bool:
        """Tell a live worker something; see `Taskmux.tell`."""
        return self._run(lambda: self._app.tell(worker, command))
