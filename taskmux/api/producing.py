"""Producing: calls become stored jobs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from taskmux.api.batch import BATCH_BYTES
from taskmux.api.begin import begin
from taskmux.api.blocking import Portal
from taskmux.api.call import Call
from taskmux.api.connection import Connection
from taskmux.api.handle import Connect, JobHandle
from taskmux.api.options import QueueOptions, declared_defaults, parse_defaults
from taskmux.api.superseding import supersede
from taskmux.driver import Pushed, PushStatus
from taskmux.model.errors import (
    DuplicateJob,
    GroupFull,
    InvalidArguments,
    JobError,
    Moved,
    StoreUnavailable,
)
from taskmux.model.job import Ref
from taskmux.model.queue import QueueSettings
from taskmux.plugins.instrument import Hooks

__all__ = ["Producing"]

R = TypeVar("R")
T = TypeVar("T")

BATCH = 1000
"""Jobs in one push. A push to a store that waits for its disk or its majority takes a millisecond
or more however few there are; a driver for which this is too many cuts it up."""


class Producing:
    """Stores an app's calls.

    Args:
        connect: returns the connection that serves a queue.
        opened: returns it if it is open already, else None.
        portal: what handles use to run in code without an event loop.
        hooks: observers.
    """

    def __init__(
        self,
        connect: Connect,
        opened: Callable[[str], Connection | None],
        portal: Portal,
        hooks: Hooks,
    ) -> None:
        self._connect = connect
        self._opened = opened
        self._portal = portal
        self._hooks = hooks
        self._declared: dict[str, bytes] = {}
        """Defaults of queues that this app declares, and has not stored yet."""

    def declare(self, queue: str, defaults: QueueOptions) -> None:
        """Let a queue have defaults, which are stored when something is enqueued there.

        Raises:
            DeclarationError: an option is wrong, or not one of a queue.
        """
        self._declared[queue] = parse_defaults(defaults)

    async def submit(self, call: Call[R]) -> JobHandle[R]:
        """Store a call; see `Taskmux.submit`."""
        wait = call.terms.wait
        deadline = math.inf if wait is None else asyncio.get_running_loop().time() + wait
        try:
            ready = self._ready(call.queue)
            if ready is None:
                async with asyncio.timeout_at(None if wait is None else deadline):
                    ready = await self._prepared(call.queue)
            connection, settings = ready
            new = call.new_job(settings)
            if call.session is None:
                pushed = await connection.push(new, deadline)
            else:
                (pushed,) = await _within(wait, connection.push_many([new], call.session))
            if call.supersedes:
                async with asyncio.timeout_at(None if wait is None else deadline):
                    await supersede(connection, Ref(call.queue, pushed.id), call.dedup)
        except TimeoutError:
            raise _too_late(wait) from None
        return self._handle(call, pushed)

    def _ready(self, queue: str) -> tuple[Connection, QueueSettings] | None:
        """Return what a push needs if it is at hand, as it is for nearly every job."""
        connection = self._opened(queue)
        settings = None if connection is None else connection.known_settings(queue)
        if connection is None or settings is None or queue in self._declared:
            return None
        return connection, settings

    async def _prepared(self, queue: str) -> tuple[Connection, QueueSettings]:
        connection = await self._connect(queue)
        return connection, await self._settings(connection, queue)

    async def submit_many(self, calls: Iterable[Call[R]]) -> list[JobHandle[R]]:
        """Store many calls, in order; see `Taskmux.enqueue_many`."""
        calls = _checked(calls)
        answers: dict[int, Pushed] = {}
        for connection, session, places in await self._routes(calls):
            pushed = await self._push_all(connection, session, [calls[place] for place in places])
            answers.update(zip(places, pushed, strict=True))
            for place in places:
                if calls[place].supersedes:
                    call, ref = calls[place], Ref(calls[place].queue, answers[place].id)
                    await _within(call.terms.wait, supersede(connection, ref, call.dedup))
        answered = [(call, answers[place]) for place, call in enumerate(calls)]
        stored = [self._handle(*one) for one in answered if not one[0].is_refused(one[1].status)]
        if len(stored) < len(calls):
            refused = [(call, one) for call, one in answered if call.is_refused(one.status)]
            raise _refusal(*refused[0], len(refused), len(calls))
        return stored

    async def _routes(self, calls: Sequence[Call[R]]) -> list[tuple[Connection, Any, list[int]]]:
        """Return which calls, by their places, go over which connection and in which session."""
        routes: dict[tuple[int, int], tuple[Connection, Any, list[int]]] = {}
        known: dict[tuple[str, int], list[int]] = {}
        for place, call in enumerate(calls):
            session = call.session
            places = known.get((call.queue, id(session)))
            if places is None:
                connection = await _within(call.terms.wait, self._connect(call.queue))
                route = (id(connection), id(session))
                places = routes.setdefault(route, (connection, session, []))[2]
                known[call.queue, id(session)] = places
            places.append(place)
        return list(routes.values())

    async def _push_all(
        self, connection: Connection, session: Any, calls: Sequence[Call[Any]]
    ) -> list[Pushed]:
        """Push calls in chunks; each is prepared while the one before is on the wire."""
        pushed: list[Pushed] = []
        sending: asyncio.Task[Sequence[Pushed]] | None = None
        try:
            for chunk in _chunks(calls):
                terms = {
                    id(call.terms): call.terms for call in chunk
                }.values()  # few, if any differ
                wait = _longest(one.wait for one in terms)
                queues = {one.queue for one in terms}
                rules = await _within(wait, self._all_settings(connection, queues))
                news = [call.new_job(rules[call.terms.queue]) for call in chunk]
                if sending is not None:
                    pushed += await sending
                pushing = _within(wait, connection.push_many(news, session))
                sending = begin(pushing)
                await asyncio.sleep(0)  # it goes out now, not when the next is ready
            return [*pushed, *(await sending)] if sending is not None else pushed
        finally:
            if sending is not None:
                sending.cancel()

    async def _all_settings(
        self, connection: Connection, queues: Iterable[str]
    ) -> dict[str, QueueSettings]:
        return {queue: await self._settings(connection, queue) for queue in queues}

    async def _settings(self, connection: Connection, queue: str) -> QueueSettings:
        """Return a queue's settings; defaults that this app declares are stored at first use."""
        declared = self._declared.get(queue)
        if declared is not None:
            await connection.change_settings(
                queue,
                lambda stored: replace(
                    stored, defaults=declared_defaults(stored.defaults, declared)
                ),
            )
            self._declared.pop(queue, None)
        return await connection.settings(queue)

    def _handle(self, call: Call[R], pushed: Pushed) -> JobHandle[R]:
        if call.is_refused(pushed.status):
            raise _refusal(call, pushed)
        ref = Ref(call.queue, pushed.id)
        if self._hooks.enqueued is not None:
            self._hooks.enqueued(ref, call.task, pushed.status)
        return JobHandle(
            ref, self._connect, self._portal, returns=call.returns, pushed=pushed.status
        )


def _checked(calls: Iterable[Call[R]]) -> list[Call[R]]:
    listed = list(calls)
    for place, call in enumerate(listed):
        if not isinstance(call, Call):
            raise InvalidArguments(
                f"Item {place} is a {type(call).__name__}, not a call. Make calls by "
                f"task.bind(...): mux.enqueue_many([send.bind(1), send.bind(2)])."
            )
    return listed


def _chunks(calls: Sequence[Call[R]]) -> Iterator[Sequence[Call[R]]]:
    """Yield calls in parts that are bounded by number and by bytes."""
    start = size = 0
    for place, call in enumerate(calls):
        size += len(call.payload)
        if place > start and (place - start >= BATCH or size > BATCH_BYTES):
            yield calls[start:place]
            start, size = place, len(call.payload)
    if calls:
        yield calls[start:]


def _longest(waits: Iterable[float | None]) -> float | None:
    """Return the longest of the times; None, which is for ever, is longer than any."""
    longest = 0.0
    for wait in waits:
        if wait is None:
            return None
        longest = max(longest, wait)
    return longest


async def _within(wait: float | None, what: Awaitable[T]) -> T:
    """Await something of the store for at most so many seconds.

    Raises:
        StoreUnavailable: it took longer.
    """
    try:
        async with asyncio.timeout(wait):
            return await what
    except TimeoutError:
        raise _too_late(wait) from None


def _too_late(wait: float | None) -> StoreUnavailable:
    return StoreUnavailable(
        f"The store did not answer within {wait:g} s (enqueue_timeout). The job may still be "
        f"stored. Look whether the store is up; give jobs an id, task.options(id=...), and they "
        f"can be enqueued again without being stored twice."
    )


def _refusal(call: Call[Any], pushed: Pushed, refused: int = 1, of: int = 1) -> JobError:
    """Return the error for a job that was not stored, or for the first of several."""
    rest = "" if of == 1 else f" {refused} of {of} jobs were not stored, the others were."
    if pushed.status is PushStatus.MOVED:
        return Moved(
            f"Queue {call.queue!r} has moved to {pushed.id}. Point this app there: TASKMUX_URL or "
            f"routes={{...}}.{rest}"
        )
    if pushed.status is not PushStatus.FULL:
        taken = "id" if pushed.status is PushStatus.DUPLICATE else "deduplication key"
        return DuplicateJob(
            f"Job {Ref(call.queue, pushed.id)} has this job's {taken}, so none was stored for "
            f"{call.task!r}. Go on with that one, mux.job({call.queue!r}, {pushed.id!r}), or leave "
            f"out on_duplicate='raise'.{rest}",
            pushed.id,
        )
    return GroupFull(
        f"The group of a job for {call.task!r} has as many waiting jobs as queue {call.queue!r} "
        f"allows (max_waiting). Enqueue it later, or raise the limit: "
        f"mux.queue({call.queue!r}).limit(group='*', max_waiting=...).{rest}"
    )
