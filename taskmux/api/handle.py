"""Handles: one stored job as its producer sees it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from taskmux.api.blocking import BlockingHandle, Portal
from taskmux.api.connection import Connection
from taskmux.api.following import Changes
from taskmux.api.values import decode_value
from taskmux.driver import Applied, ApplyStatus, PushStatus
from taskmux.model import transition
from taskmux.model.errors import (
    DeclarationError,
    JobCancelled,
    JobConflict,
    JobFailed,
    JobNotFound,
    Moved,
    ResultNotKept,
    ResultTimeout,
    TaskmuxError,
)
from taskmux.model.job import TERMINAL, BlockedCause, JobRecord, Ref, State
from taskmux.model.transition import Transition
from taskmux.model.units import (
    Duration,
    checked_reason,
    instant_ms,
    milliseconds,
    priority_number,
)
from taskmux.policy.explain import Explanation

__all__ = ["Connect", "JobHandle", "Portal", "Update"]

R_co = TypeVar("R_co", covariant=True)
Value = TypeVar("Value")

LONGEST_WHY = 2.0
"""Seconds in which a timeout may still find out why the job does not run."""

Connect = Callable[[str], Awaitable[Connection]]
"""Returns the open connection that serves a queue, on the running event loop."""


class Update(msgspec.Struct, frozen=True):
    """What `JobHandle.watch` sees: the state, the progress as plain JSON values, the record."""

    state: State
    progress: Any
    job: JobRecord


class JobHandle(Generic[R_co]):
    """A stored job. It holds no connection and no copy: every verb asks the store.

    Attributes:
        ref: the job's identity, `(queue, id)`.
        pushed: what the store answered when this handle came from an enqueue; None otherwise.
    """

    def __init__(
        self,
        ref: Ref,
        connect: Connect,
        portal: Portal,
        *,
        returns: Any = Any,
        pushed: PushStatus | None = None,
    ) -> None:
        self.ref = ref
        self.pushed = pushed
        self._connect = connect
        self._portal = portal
        self._returns = returns

    def __repr__(self) -> str:
        return f"<JobHandle {self.ref}>"

    @property
    def queue(self) -> str:
        """The job's queue."""
        return self.ref.queue

    @property
    def id(self) -> str:
        """The job's id."""
        return self.ref.id

    @property
    def duplicate(self) -> bool:
        """Whether the enqueue made no new job, because its id or dedup key was taken."""
        return self.pushed in (PushStatus.DUPLICATE, PushStatus.DEDUPLICATED)

    @property
    def replaced(self) -> bool:
        """Whether the enqueue made no new job, but gave this one its content; see `Dedup`."""
        return self.pushed is PushStatus.REPLACED

    @property
    def blocking(self) -> BlockingHandle[R_co]:
        """The same for code without an event loop."""
        return BlockingHandle(self, self._portal)

    async def record(self) -> JobRecord:
        """Return the stored record; its payload, result and progress are JSON bytes.

        `arguments`, `result_value` and `progress_value` of it are the same as plain values.

        Raises:
            JobNotFound: there is none (any more).
        """
        connection = await self._connect(self.ref.queue)
        job = await connection.get(self.ref)
        if job is None:
            raise JobNotFound(
                f"There is no job {self.ref}: the id is wrong, or its retention has passed."
            )
        return job

    async def status(self) -> State:
        """Return the job's state.

        Raises:
            JobNotFound: there is no such job (any more).
        """
        return (await self.record()).state

    async def progress(self) -> Any:
        """Return the last progress that the handler told, as plain JSON values; None before.

        Raises:
            JobNotFound: there is no such job (any more).
        """
        return (await self.record()).progress_value

    async def result(self, timeout: Duration | None = None) -> R_co:  # noqa: ASYNC109 - a user's word
        """Wait for the job to finish and return what its handler returned.

        Args:
            timeout: how long to wait; None waits for ever.

        Raises:
            JobFailed: it died; the message says why.
            JobCancelled: it was cancelled.
            ResultNotKept: its task says `keep_result=False`.
            ResultTimeout: it has not finished in time; it goes on.
            JobNotFound: there is no such job (any more).
            NotDecodable: the stored result does not fit the annotation.
        """
        limit = None if timeout is None else milliseconds(timeout, "timeout") / 1000
        deadline = None if limit is None else time.monotonic() + limit
        connection = await self._connect(self.ref.queue)
        with connection.following.changes(self.ref, ends=True) as changes:
            return await self._result(changes, limit, deadline)

    async def _result(self, changes: Changes, limit: float | None, deadline: float | None) -> R_co:
        while True:
            job = await self.record()
            if not job.policy.keep_result:
                raise ResultNotKept(
                    f"Job {self.ref} keeps no result: its task says keep_result=False. Use "
                    f"status(), or let the task keep results."
                )
            if job.state in TERMINAL:
                return self._outcome(job)
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ResultTimeout(
                        f"Job {self.ref} is {job.state} after {limit:g} s. It goes on: ask again, "
                        f"or cancel() it.{await self._why()}"
                    )
            await changes.wait(math.inf if deadline is None else left)

    async def watch(self) -> AsyncGenerator[Update, None]:
        """Yield the job's state and progress as they are now, and whenever they have changed.

        It ends after a terminal state, and when the app is closed. Changes that follow each other
        fast may be seen as one; `mux.events` has each.

        Raises:
            JobNotFound: there is no such job (any more).
        """
        connection = await self._connect(self.ref.queue)
        last: Update | None = None
        with connection.following.changes(self.ref, ends=False) as changes:
            while not changes.closed:
                job = await self.record()
                update = Update(job.state, job.progress_value, job)
                if last is None or (update.state, update.progress) != (last.state, last.progress):
                    yield update
                last = update
                if job.state in TERMINAL:
                    return
                await changes.wait(math.inf)

    async def _why(self) -> str:
        """Return why the job does not run, as the end of a message; nothing if nobody says."""
        try:
            async with asyncio.timeout(LONGEST_WHY):
                found = await self.explain()
        except (TaskmuxError, TimeoutError):
            return ""
        return "".join(f" {reason.text}" for reason in found.reasons)

    def _outcome(self, job: JobRecord) -> R_co:
        match job.state:
            case State.COMPLETED:
                data = job.result if job.result is not None else b"null"
                known = self._returns is not Any
                returns = self._returns if known else self._portal.returns_of(job.task)
                value: R_co = decode_value(data, returns, f"The result of job {self.ref}")
                return value
            case State.CANCELLED:
                raise JobCancelled(f"Job {self.ref} was cancelled: {job.reason}.")
            case State.MOVED:
                raise Moved(f"Job {self.ref} moved to another store. Connect to the new one.")
            case _:
                last = f" Last error: {job.error}" if job.error else ""
                raise JobFailed(f"Job {self.ref} is dead: {job.reason}.{last}")

    async def explain(self) -> Explanation:
        """Say why the job does not run now: every reason, each in a sentence.

        Raises:
            JobNotFound: there is no such job (any more).
        """
        connection = await self._connect(self.ref.queue)
        found = await connection.explain(self.ref)
        if found is None:
            raise JobNotFound(
                f"There is no job {self.ref}: the id is wrong, or its retention has passed."
            )
        return found

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
