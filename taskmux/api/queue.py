"""Queues: reading what is stored, and the queue's stored settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from taskmux.api.batch import resend
from taskmux.api.blocking import BlockingQueue, Portal
from taskmux.api.bulk_verbs import BulkVerbs
from taskmux.api.call import task_line
from taskmux.api.connection import Connection
from taskmux.api.dead import DeadLetters
from taskmux.api.handle import Connect, JobHandle
from taskmux.api.options import QueueOptions, changed_defaults, parse_defaults
from taskmux.api.searching import Searches
from taskmux.api.strikes import Striking
from taskmux.driver import require
from taskmux.model.errors import DeclarationError
from taskmux.model.job import JobRecord, Ref
from taskmux.model.queue import LineSettings, QueueSettings, Rate
from taskmux.model.units import brief, check_name, check_queue
from taskmux.policy.gcra import as_rate
from taskmux.policy.lines import change_groups, change_line, forget_line

__all__ = ["Counts", "Queue", "declared_limits"]

MAX_EVENTS = 1_000_000


class Counts(msgspec.Struct, frozen=True):
    """How many jobs of a queue are in each state."""

    waiting: int = 0
    delayed: int = 0
    blocked: int = 0
    active: int = 0
    completed: int = 0
    dead: int = 0
    cancelled: int = 0
    moved: int = 0

    @property
    def unfinished(self) -> int:
        """Jobs that will still run."""
        return self.waiting + self.delayed + self.blocked + self.active

    @property
    def total(self) -> int:
        """All jobs that the store has."""
        return self.unfinished + self.completed + self.dead + self.cancelled + self.moved


class Queue(Searches, BulkVerbs, Striking):
    """One queue of an app. It holds no copy: every verb asks the store.

    Raises:
        InvalidName: the name cannot be stored everywhere.
    """

    def __init__(self, name: str, connect: Connect, portal: Portal) -> None:
        self.name = check_queue(name)
        self._connect = connect
        self._portal = portal

    def __repr__(self) -> str:
        return f"<Queue {self.name}>"

    async def _connection(self) -> Connection:
        return await self._connect(self.name)

    @property
    def blocking(self) -> BlockingQueue:
        """The same for code without an event loop: Flask, Django, scripts."""
        return BlockingQueue(self, self._portal)

    @property
    def dead(self) -> DeadLetters:
        """The queue's dead letters: jobs that failed for good."""
        return DeadLetters(self.name, self._connect, self._portal)

    async def counts(self) -> Counts:
        """Return the number of jobs in each state."""
        connection = await self._connection()
        counts = await connection.driver.counts(self.name)
        return Counts(**{state.value: number for state, number in counts.items()})

    def job(self, job_id: str) -> JobHandle[object]:
        """Return a handle on a job of this queue; nothing is asked yet."""
        ref = Ref(self.name, check_name(job_id, "job id"))
        return JobHandle(ref, self._connect, self._portal)

    async def get(self, job_id: str) -> JobRecord:
        """Return a job's record.

        Raises:
            JobNotFound: there is none (any more).
        """
        return await self.job(job_id).record()

    # -- deduplication keys ---------------------------------------------------------------------

    async def dedup_owner(self, key: str) -> JobHandle[object] | None:
        """Return a handle on the job that owns a deduplication key now; None if it is free.

        The record of one that owns it for a time (`ttl`) may be gone already.

        Raises:
            InvalidName: no job can have this key.
        """
        driver, key = (await self._connection()).driver, check_name(key, "dedup key")
        owner = await resend(lambda: driver.dedup_owner(self.name, key), tries=3)
        return None if owner is None else self.job(owner)

    async def release_dedup(self, key: str) -> bool:
        """Free a deduplication key; return whether somebody owned it.

        The owner itself is left alone. A job that waits for its end goes on.

        Raises:
            InvalidName: no job can have this key.
        """
        driver, owner = (await self._connection()).driver, await self.dedup_owner(key)
        if owner is not None:
            owner_id = owner.id
            await resend(lambda: driver.release_dedup(self.name, key, owner_id), tries=3)
        return owner is not None

    # -- what is stored about the queue ---------------------------------------------------------

    async def settings(self) -> QueueSettings:
        """Return the queue's stored settings."""
        return await (await self._connection()).driver.settings(self.name)

    async def pause(self, *, group: str | None = None, task: str | None = None) -> None:
        """Let no worker claim from this queue; jobs stay waiting, running ones finish.

        Args:
            group: pause this group only; `"*"` is every group that was not named by itself.
            task: pause this task only. It must have a line of its own.

        Raises:
            DeclarationError: a group and a task are given, or the task's jobs stand in the
                queue's common line.
            UnsupportedFeature: the store has no lines.
        """
        await self._set_paused(group, task, paused=True)

    async def resume(self, *, group: str | None = None, task: str | None = None) -> None:
        """Let workers claim again; arguments and errors are those of `pause`.

        Like every change of settings it also ends what `RateLimited` holds back.
        """
        await self._set_paused(group, task, paused=False)

    async def limit(
        self,
        *,
        rate: str | Rate | None | UnsetType = UNSET,
        concurrency: int | None | UnsetType = UNSET,
        group: str | None = None,
        task: str | None = None,
        max_waiting: int | None | UnsetType = UNSET,
    ) -> None:
        """Limit how many jobs start or run, from now on and on every worker.

        What is left out stays as it is; None takes a limit away. What is said about a group by
        name holds whatever is said about every group, until `reset`.

        Args:
            rate: starts per time, such as `"100/m"`; see `taskmux.gcra.as_rate`.
            concurrency: how many jobs run at once, on all workers together.
            group: limit this group; `"*"` is every group that was not named by itself.
            task: limit this task. It must have a line of its own.
            max_waiting: how many jobs of each group may wait; only with `group="*"`.

        Raises:
            DeclarationError: a limit is out of range, or the arguments do not fit together.
            UnsupportedFeature: the store has no lines.
        """
        changes: dict[str, Any] = {}
        whole: dict[str, Any] = {}
        if rate is not UNSET:
            changes["rate"] = None if rate is None else as_rate(rate)
        if concurrency is not UNSET:
            changes["concurrency"] = None if concurrency is None else _at_least_1(concurrency)
        if max_waiting is not UNSET:
            if group != EVERY:
                raise DeclarationError("max_waiting is for every group: say group='*' with it.")
            size = None if max_waiting is None else _at_least_1(max_waiting, "max_waiting")
            whole["group_size"] = size
        if not changes and not whole:
            raise DeclarationError("Nothing to change: give rate, concurrency or max_waiting.")
        line = _line(group, task)
        await self._change(
            lambda settings: replace(_changed(settings, line, changes), **whole), "Limiting"
        )

    async def reset(self, *, group: str | None = None, task: str | None = None) -> None:
        """Forget what was said about a group or task by name.

        A group goes by `"*"` again, a task by its declaration.

        Raises:
            DeclarationError: not exactly one of the two is given.
            UnsupportedFeature: the store has no lines.
        """
        line = _line(group, task)
        if line is None or line == EVERY:
            raise DeclarationError("Give the group or the task to reset.")
        await self._change(lambda settings: forget_line(settings, line), "Resetting")

    async def set_defaults(self, **options: Unpack[QueueOptions]) -> None:
        """Store options for jobs of this queue whose call and task leave them out.

        Producers go by them within two seconds. They replace those that were stored before, and
        stay until an app declares others than it did.

        Raises:
            DeclarationError: an option is wrong, or not one of a queue.
        """
        said = parse_defaults(options)
        connection = await self._connection()
        await connection.change_settings(
            self.name,
            lambda settings: replace(settings, defaults=changed_defaults(settings.defaults, said)),
        )

    async def keep_events(self, count: int) -> None:
        """Let the queue keep at least its newest `count` events; 0: none are written any more.

        Raises:
            DeclarationError: the count is out of range.
        """
        kept = _number(count, "count", least=0, most=MAX_EVENTS)
        connection = await self._connection()
        await connection.change_settings(self.name, lambda settings: replace(settings, events=kept))

    async def _set_paused(self, group: str | None, task: str | None, *, paused: bool) -> None:
        line = _line(group, task)
        if line is None:
            connection = await self._connection()
            await connection.change_settings(
                self.name, lambda settings: replace(settings, paused=paused)
            )
        else:
            await self._change(
                lambda settings: _changed(settings, line, {"paused": paused}), "Pausing"
            )

    async def _change(self, change: Callable[[QueueSettings], QueueSettings], what: str) -> None:
        connection = await self._connection()
        require(connection.driver, "lines", feature=f"{what} groups, tasks or rates")
        await connection.change_settings(self.name, change)


EVERY = "*"


def _line(group: str | None, task: str | None) -> str | None:
    """Return the name of the line that is meant; None is the queue as a whole."""
    if group is not None and task is not None:
        raise DeclarationError("Give a group or a task: each is a line of its own.")
    if task is not None:
        return task_line(check_name(task, "task name"))
    return group if group is None or group == EVERY else check_name(group, "group")


def _changed(settings: QueueSettings, line: str | None, changes: dict[str, Any]) -> QueueSettings:
    """Return settings with changes for the queue as a whole, every group, or one line."""
    if line is None:
        return replace(settings, **changes)
    if line == EVERY:
        return change_groups(settings, changes)
    return change_line(settings, line, changes)


def _at_least_1(value: object, what: str = "concurrency") -> int:
    return _number(value, what, least=1, most=10**6, hint=" To stop a queue, pause it.")


def _number(value: object, what: str, *, least: int, most: int, hint: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise DeclarationError(
            f"{what} {brief(value)} is not a number from {least} to {most}.{hint}"
        )
    return value


def declared_limits(
    concurrency: int | None, rate: str | Rate | None, *, own_line: bool
) -> LineSettings | None:
    """Return what a task's declaration says of its line; None if it has no line of its own.

    Raises:
        DeclarationError: a limit is out of range, or `own_line` is no bool.
    """
    if not isinstance(own_line, bool):
        raise DeclarationError(f"own_line {brief(own_line)} is neither True nor False.")
    if concurrency is None and rate is None and not own_line:
        return None
    return LineSettings(
        concurrency=None if concurrency is None else _at_least_1(concurrency),
        rate=None if rate is None else as_rate(rate),
    )
