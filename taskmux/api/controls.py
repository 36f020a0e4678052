"""Controls: what a producer, or somebody on call, may do to one stored job."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from taskmux.api.blocking import Portal
from taskmux.api.connection import Connection
from taskmux.driver import Applied, ApplyStatus
from taskmux.model import transition
from taskmux.model.errors import DeclarationError, JobConflict, JobNotFound
from taskmux.model.job import TERMINAL, BlockedCause, JobRecord, Ref, State
from taskmux.model.transition import Transition
from taskmux.model.units import (
    Duration,
    checked_reason,
    instant_ms,
    milliseconds,
    priority_number,
)

__all__ = ["Connect", "Controls"]

Connect = Callable[[str], Awaitable[Connection]]
"""Returns the open connection that serves a queue, on the running event loop."""


class Controls:
    """The verbs of a handle that change its job. Each is a guarded transition of the store's."""

    ref: Ref
    _connect: Connect
    _portal: Portal

    async def record(self) -> JobRecord:
        """Return the stored record."""
        raise NotImplementedError

    async def cancel(self, *, reason: str | None = None, wait: Duration | None = None) -> State:
        """Cancel the job, and say in what state it is now. One that runs is asked to stop.

        A running job is told within two seconds, wherever it runs. It may finish all the same:
        its completion wins.

        Args:
            reason: kept with the job and told by `result()`; up to 1000 characters.
            wait: how long to wait for a running job to end. Without it, or if it goes on for
                longer, the answer is `active`.

        Raises:
            DeclarationError: the reason is no text, or the wait no duration; nothing was sent.
            JobNotFound: there is no such job.
            JobConflict: it has finished already.
        """
        text = checked_reason(reason)
        limit = 0 if wait is None else milliseconds(wait, "wait") / 1000
        policy = (await self.record()).policy
        applied = await self._apply(transition.cancel(self.ref, policy.cancelled, text), "cancel")
        if applied.status is not ApplyStatus.REQUESTED or not limit:
            return applied.state or State.CANCELLED
        return await self._ended(time.monotonic() + limit)

    async def _ended(self, deadline: float) -> State:
        """Return the job's state when it is not active any more, or at the deadline."""
        connection = await self._connect(self.ref.queue)
        with connection.following.changes(self.ref, ends=False) as changes:
            while True:
                state = (await self.record()).state
                left = deadline - time.monotonic()
                if state is not State.ACTIVE or left <= 0:
                    return state
                await changes.wait(left)

    async def retry(self) -> None:
        """Make a finished job (dead, cancelled or completed) wait again with fresh attempts.

        Raises:
            JobNotFound: there is no such job.
            JobConflict: it has not finished, or another job owns its dedup key.
        """
        await self._apply(transition.redrive(self.ref, TERMINAL), "retry")

    async def promote(self) -> None:
        """Make a delayed job wait now.

        Raises:
            JobNotFound: there is no such job.
            JobConflict: it is not delayed.
        """
        await self._apply(transition.promote(self.ref), "promote")

    async def reschedule(
        self, *, delay: Duration | None = None, run_at: datetime | None = None
    ) -> None:
        """Let a waiting or delayed job run later, or sooner: `delay` from now, or at an instant.

        Raises:
            DeclarationError: not exactly one of the two is given, or it is no time.
            JobNotFound: there is no such job.
            JobConflict: it is neither waiting nor delayed.
        """
        if (delay is None) == (run_at is None):
            raise DeclarationError("Give delay or run_at: one of them.")
        if delay is not None and (ms := milliseconds(delay, "delay")) == 0:
            await self._apply(transition.postpone(self.ref, run_at=0), "be rescheduled")
        elif delay is not None:
            await self._apply(transition.postpone(self.ref, ms), "be rescheduled")
        else:
            due = transition.postpone(self.ref, run_at=instant_ms(run_at))
            await self._apply(due, "be rescheduled")

    async def set_priority(self, priority: int | str) -> None:
        """Give a job that has not begun another priority; a waiting one keeps its seniority.

        Raises:
            DeclarationError: the name is unknown or the number out of range.
            JobNotFound: there is no such job.
            JobConflict: it runs, or has finished.
        """
        one = transition.reprioritise(self.ref, priority_number(priority))
        await self._apply(one, "change its priority")

    async def edit(self, arguments: Mapping[str, Any], *, replace: bool = False) -> None:
        """Change arguments of a job that has not begun or failed; those that are not named stay.

        A dead job stays dead: `retry` it, or redrive it, afterwards.

        Args:
            arguments: values by parameter name. If the app knows the task, its signature is
                checked.
            replace: these are all arguments; others go.

        Raises:
            InvalidArguments: the task cannot take them.
            NotEncodable, PayloadTooLarge: they cannot travel.
            JobNotFound: there is no such job.
            JobConflict: it runs, or has completed.
        """
        job = await self.record()
        was = {} if replace else job.arguments
        payload = self._portal.encoded(job.task, {**was, **arguments})
        await self._apply(transition.edit(self.ref, payload), "be edited")

    async def hold(self) -> None:
        """Keep a waiting or delayed job back until `unhold`.

        Raises:
            JobNotFound: there is no such job.
            JobConflict: it is neither waiting nor delayed.
        """
        await self._apply(transition.hold(self.ref), "be held")

    async def unhold(self) -> None:
        """Let a job that was held go on: it waits, or is delayed until it is due.

        Raises:
            JobNotFound: there is no such job.
            JobConflict: it is not blocked.
        """
        due = (await self.record()).run_at
        await self._apply(transition.unblock(self.ref, BlockedCause.HOLD, due), "be let go")

    async def remove(self) -> None:
        """Remove the job's record; its dedup key is free again.

        Raises:
            JobNotFound: there is no such job.
            JobConflict: it is running: cancel it first.
        """
        await self._apply(transition.remove(self.ref), "remove")

    async def _apply(self, one: Transition, verb: str) -> Applied:
        connection = await self._connect(self.ref.queue)
        applied = await connection.apply(one)
        match applied.status:
            case ApplyStatus.GONE:
                raise JobNotFound(f"There is no job {self.ref} to {verb}.")
            case ApplyStatus.STALE:
                raise JobConflict(f"Job {self.ref} is {applied.state}: it cannot {verb} now.")
            case ApplyStatus.CONFLICT:
                raise JobConflict(
                    f"Job {self.ref} cannot {verb}: another unfinished job owns its dedup key."
                )
            case _:
                return applied
