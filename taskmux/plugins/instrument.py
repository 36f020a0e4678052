"""Observer hooks, resolved once at start: what nobody observes costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any

import pluggy

from taskmux.model.job import JobRecord
from taskmux.model.log import Log
from taskmux.policy.outcome import traceback_of

__all__ = ["Hooks"]

logger = Log("taskmux")

Observer = Callable[..., None]
Leave = Callable[
    [type[BaseException] | None, BaseException | None, TracebackType | None], bool | None
]


class Hooks:
    """The observers of each hook as one callable, or None where there is none.

    An observer that raises, whatever it raises, is logged and harms nobody: not the job, not the
    other observers.
    """

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self.enqueued = _observer(manager, "taskmux_enqueued")
        self.started = _observer(manager, "taskmux_started")
        self.settled = _observer(manager, "taskmux_settled")
        self.dead = _observer(manager, "taskmux_dead")
        self.lease_lost = _observer(manager, "taskmux_lease_lost")
        self.worker_started = _observer(manager, "taskmux_worker_started")
        self.worker_stopped = _observer(manager, "taskmux_worker_stopped")
        self._contexts = _implementations(manager, "taskmux_context")

    @property
    def wraps_runs(self) -> bool:
        """Whether any plug-in wants to enter a context around each run."""
        return bool(self._contexts)

    def context(self, job: JobRecord) -> ExitStack:
        """Enter the contexts that plug-ins want around this run; `leave` them after it."""
        stack = ExitStack()
        for make in self._contexts:
            try:
                manager = make(job)
                if manager is not None:
                    manager.__enter__()
                    stack.push(_harmless(manager))
            except BaseException:
                logger.exception("taskmux_context: a plug-in failed; the job goes on")
        return stack

    def leave(self, contexts: ExitStack, error: BaseException | None) -> None:
        """Leave what `context` entered. They see what the handler raised and cannot change it."""
        if error is None:
            contexts.close()
        else:
            contexts.__exit__(type(error), error, traceback_of(error))


def _harmless(manager: AbstractContextManager[Any]) -> Leave:
    """Return the manager's exit, which neither raises nor hides what the handler raised."""

    def leave(
        kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            manager.__exit__(kind, error, trace)
        except BaseException:
            logger.exception("taskmux_context: a plug-in failed; the job goes on")

    return leave


def _implementations(manager: pluggy.PluginManager, name: str) -> Sequence[Callable[..., Any]]:
    caller = getattr(manager.hook, name)
    return [
        _positional(impl.function, caller.spec.argnames, impl.argnames)
        for impl in reversed(caller.get_hookimpls())  # pluggy calls the last registered first
    ]


def _positional(
    function: Callable[..., Any], given: Sequence[str], wanted: Sequence[str]
) -> Callable[..., Any]:
    """Adapt an implementation, which may take any subset of the arguments, to all of them."""
    places = [given.index(name) for name in wanted]

    def call(*args: Any) -> Any:
        return function(*(args[place] for place in places))

    return call


def _observer(manager: pluggy.PluginManager, name: str) -> Observer | None:
    calls = _implementations(manager, name)
    if not calls:
        return None

    def notify(*args: Any) -> None:
        for call in calls:
            try:
                call(*args)
            except BaseException:
                logger.exception("%s: a plug-in failed; the job goes on", name)

    return notify
