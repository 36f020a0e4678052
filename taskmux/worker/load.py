"""Loading: the first step of a run. A job's task and arguments, or what follows from their lack."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

import msgspec

from taskmux.api.context import Context
from taskmux.api.task import Registry, Task
from taskmux.config import Limits
from taskmux.model.errors import PayloadError
from taskmux.plugins.instrument import Hooks
from taskmux.policy.outcome import Outcome, describe, outcome_of, undecodable, unknown_task
from taskmux.worker.held import Held
from taskmux.worker.invocation import CoroutineInvocation, Invocation, Lane, ThreadInvocation
from taskmux.worker.report import Report

__all__ = ["AnyTask", "Equipment", "Loaded", "load"]

AnyTask = Task[Any, Any, Any, Any]


class Equipment(msgspec.Struct, frozen=True):
    """What every run shares; `state` is what the app's lifespan yielded."""

    registry: Registry
    hooks: Hooks
    limits: Limits
    worker: str
    threads: Executor
    report: Report
    state: Any = None


class Loaded(msgspec.Struct, frozen=True, gc=False):
    """A handler with its arguments. Only the running lane points to it, so it is in no circle."""

    task: AnyTask
    args: list[Any]
    named: dict[str, Any]
    context: Context | None

    def invocation(self, variables: contextvars.Context, lane: Lane) -> Invocation:
        """Return it as a coroutine in the lane."""
        return CoroutineInvocation(
            self.task.function, self.args, self.named, variables, lane, self.context
        )

    def in_thread(
        self,
        variables: contextvars.Context,
        lane: Lane,
        threads: Executor,
        given_up: Callable[[], bool],
    ) -> Invocation:
        """Return it in a thread."""
        call = partial(self.task.function, *self.args, **self.named)
        return ThreadInvocation(
            call,
            variables=variables,
            lane=lane,
            context=self.context,
            threads=threads,
            given_up=given_up,
        )


def load(held: Held, task: AnyTask | None, equipment: Equipment) -> Loaded | Outcome:
    """Return the handler and its arguments, or the outcome of a job that has none."""
    job = held.job
    if task is None:
        equipment.report.unknown_task(job)
        return unknown_task(job, equipment.worker)
    try:
        args, named = task.signature.decode(job.payload)
    except PayloadError as error:
        return undecodable(describe(error, equipment.limits))
    except BaseException as error:  # noqa: BLE001 - a user's type may raise anything
        return outcome_of(error, equipment.limits)
    context = None
    if task.signature.takes_context:
        context = Context(
            job,
            worker=equipment.worker,
            state=equipment.state,
            notes=held.station.notes,
            limits=equipment.limits,
        )
        args.insert(0, context)
    return Loaded(task, args, named, context)
