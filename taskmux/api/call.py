"""Calls: a task with its arguments and options, not enqueued yet."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from taskmux.api.dedup import superseding
from taskmux.api.options import Parsed, decode_defaults
from taskmux.driver import NewJob, PushStatus
from taskmux.model.errors import DeclarationError
from taskmux.model.ids import new_id
from taskmux.model.job import Dedup, JobRecord, Policy, State
from taskmux.model.queue import QueueSettings

__all__ = ["Call", "Terms", "task_line"]

R_co = TypeVar("R_co", covariant=True)

NO_SETTINGS = QueueSettings()


ENQUEUE_TIMEOUT_MS = 15_000


class Terms(msgspec.Struct, frozen=True):
    """The options of a call, and what follows from them.

    Attributes:
        said: the options of the call and of its task; the call's win.
        base: the app's, which hold where nobody else says anything.
        line: the line of the call's task, if that has one of its own.
        queue: where the job goes.
        options: the options where the queue says nothing.
        policy: the part of them that is stored with the job.
        wait: how long to wait for the store, in seconds; None: as long as its driver tries.
    """

    said: Parsed
    base: Parsed
    line: str | None = None
    queue: str = "default"
    options: Parsed = Parsed()
    policy: Policy = Policy()
    wait: float | None = ENQUEUE_TIMEOUT_MS / 1000

    @classmethod
    def settled(cls, said: Parsed, base: Parsed, line: str | None = None) -> Terms:
        """Return the terms of a call with these options.

        Raises:
            DeclarationError: a group is given, and the task has a line of its own; `supersede` has
                no key to go by; or a transaction cannot do what the key's mode wants.
        """
        options = said.over(base)
        if line is not None and options.group is not UNSET:
            raise _two_lines(options.group, line[1:])
        if options.supersede is True:
            dedup = superseding(None if options.dedup is UNSET else options.dedup)
            said, options = (replace(one, dedup=dedup) for one in (said, options))
        if options.session is not UNSET:
            _check_session(options)
        queue = "default" if options.queue is UNSET else options.queue
        wait = options.enqueue_timeout
        wait = ENQUEUE_TIMEOUT_MS if wait is UNSET else wait
        return cls(
            said,
            base,
            line,
            queue,
            options,
            options.policy(),
            None if wait is None else wait / 1000,
        )

    def under(self, queue: QueueSettings) -> tuple[Parsed, Policy]:
        """Return what holds in a queue with these settings: call > task > queue > app."""
        if queue.defaults is None:
            return self.options, self.policy
        defaults = decode_defaults(queue.defaults)
        if self.said.backoff is not UNSET:  # a task's own, which is not stored with its jobs
            defaults = replace(defaults, call_backoff=UNSET)
        options = self.said.over(defaults).over(self.base)
        return options, options.policy()


class Call(Generic[R_co]):
    """A task with bound arguments, checked and encoded, not enqueued yet."""

    __slots__ = ("payload", "returns", "task", "terms")

    def __init__(self, task: str, payload: bytes, terms: Terms, returns: Any = Any) -> None:
        self.task = task
        self.payload = payload
        self.terms = terms
        self.returns = returns

    @property
    def options(self) -> Parsed:
        """The job's options, as long as the queue has no defaults."""
        return self.terms.options

    @property
    def queue(self) -> str:
        """The queue that the job goes to."""
        return self.terms.queue

    @property
    def dedup(self) -> Dedup | None:
        """Its deduplication key, if it has one."""
        return None if self.options.dedup is UNSET else self.options.dedup

    @property
    def supersedes(self) -> bool:
        """Whether a job that runs under its key is to be cancelled."""
        return self.options.supersede is True

    def is_refused(self, status: PushStatus) -> bool:
        """Say whether an answer of the store is an error to whoever enqueued it."""
        if status in (PushStatus.MOVED, PushStatus.FULL):
            return True
        return self.options.on_duplicate == "raise" and status in (
            PushStatus.DUPLICATE,
            PushStatus.DEDUPLICATED,
        )

    @property
    def session(self) -> Any:
        """The application's transaction that it goes into, or None."""
        session = self.options.session
        return None if session is UNSET else session

    def new_job(self, queue: QueueSettings = NO_SETTINGS) -> NewJob:
        """Return the job that this call becomes in a queue with these settings.

        It has an id of its own unless one was given.

        Raises:
            DeclarationError: it has a group, and its task a line of its own there.
        """
        said, policy = self.terms.under(queue)
        line = self._line(queue)
        if line is not None and said.group is not UNSET:
            raise _two_lines(said.group, self.task)
        delay = 0 if said.delay is UNSET else said.delay
        run_at = None if said.run_at is UNSET else said.run_at
        later = delay > 0 or run_at is not None
        job = JobRecord(
            queue=self.queue,
            id=new_id() if said.id is UNSET else said.id,
            task=self.task,
            payload=self.payload,
            policy=policy,
            priority=100 if said.priority is UNSET else said.priority,
            lifo=False if said.lifo is UNSET else said.lifo,
            group=line if said.group is UNSET else said.group,
            tags=() if said.tags is UNSET else said.tags,
            headers={} if said.headers is UNSET else said.headers,
            dedup=self.dedup,
            state=State.DELAYED if later else State.WAITING,
            run_at=run_at,
        )
        return NewJob(job, delay)

    def _line(self, queue: QueueSettings) -> str | None:
        """Return the task's own line, if it has one. A producer without the task asks the queue."""
        if self.terms.line is None and queue.lines and task_line(self.task) in queue.lines:
            return task_line(self.task)
        return self.terms.line


def _two_lines(group: str, task: str) -> DeclarationError:
    return DeclarationError(
        f"group={group!r} and task {task!r}, which has a line of its own by concurrency=, rate= or "
        f"own_line=: a job stands in one line. Drop one of them."
    )


def _check_session(options: Parsed) -> None:
    dedup = options.dedup
    if dedup is not UNSET and (dedup.replace or dedup.latest):
        raise DeclarationError(
            "session= with a Dedup that replaces jobs, or with supersede: another job would change "
            "before the transaction commits. Enqueue after the commit, or use a key alone."
        )


def task_line(task: str) -> str:
    """Return the name of a task's own line: one that no group can have."""
    return f"@{task}"
