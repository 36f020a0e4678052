"""Handles: one stored job as its producer sees it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from typing import Any, Generic, TypeVar

import msgspec

from taskmux.api.blocking import BlockingHandle, Portal
from taskmux.api.controls import Connect, Controls
from taskmux.api.following import Changes
from taskmux.api.values import decode_value
from taskmux.driver import PushStatus
from taskmux.model.errors import (
    JobCancelled,
    JobFailed,
    JobNotFound,
    Moved,
    ResultNotKept,
    ResultTimeout,
    TaskmuxError,
)
from taskmux.model.job import TERMINAL, JobRecord, Ref, State
from taskmux.model.units import Duration, milliseconds
from taskmux.policy.explain import Explanation

__all__ = ["Connect", "JobHandle", "Portal", "Update"]

R_co = TypeVar("R_co", covariant=True)
Value = TypeVar("Value")

LONGEST_WHY = 2.0
"""Seconds in which a timeout may still find out why the job does not run."""


class Update(msgspec.Struct, frozen=True):
    """What `JobHandle.watch` sees: the state, the progress as plain JSON values, the record."""

    state: State
    progress: Any
    job: JobRecord


class JobHandle(Controls, Generic[R_co]):
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
