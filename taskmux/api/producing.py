"""Producing: calls become stored jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from taskmux.api.connection import Connection
from taskmux.api.handle import Connect, JobHandle, Portal
from taskmux.api.options import QueueOptions, declared_defaults, parse_defaults
from taskmux.api.task import Call
from taskmux.driver import Pushed, PushStatus
from taskmux.model.errors import GroupFull, JobError, Moved
from taskmux.model.job import Ref
from taskmux.model.queue import QueueSettings
from taskmux.plugins.instrument import Hooks

__all__ = ["Producing"]

R = TypeVar("R")

BATCH = 1000
"""Jobs in one push. A push to a store that waits for its disk or its majority takes a millisecond
or more however few there are; a driver for which this is too many cuts it up."""


class Producing:
    """Stores an app's calls.

    Args:
        connect: returns the connection that serves a queue.
        portal: what handles use to run in code without an event loop.
        hooks: observers.
    """

    def __init__(self, connect: Connect, portal: Portal, hooks: Hooks) -> None:
        self._connect = connect
        self._portal = portal
        self._hooks = hooks
        self._declared: dict[str, bytes] = {}
        """Defaults of queues that this app declares, and has not stored yet."""

    def declare(self, queue: str, defaults: QueueOptions) -> None:
        """Let a queue have defaults, which are stored when something is enqueued there.

        Raises:
            DeclarationError: an option is wrong, or none that a queue can say.
        """
        self._declared[queue] = parse_defaults(defaults)

    async def submit(self, call: Call[R]) -> JobHandle[R]:
        """Store a call; see `Taskmux.submit`."""
        connection = await self._connect(call.queue)
        new = call.new_job(await self._settings(connection, call.queue))
        if call.session is None:
            pushed = await connection.push(new)
        else:
            (pushed,) = await connection.push_many([new], call.session)
        return self._handle(call, pushed)

    async def submit_many(self, calls: Sequence[Call[R]]) -> list[JobHandle[R]]:
        """Store many calls, in order; see `Taskmux.enqueue_many`."""
        answers: dict[int, Pushed] = {}
        for connection, session, places in await self._routes(calls):
            pushed = await self._push_all(connection, session, [calls[place] for place in places])
            answers.update(zip(places, pushed, strict=True))
        answered = [(call, answers[place]) for place, call in enumerate(calls)]
        stored = [self._handle(call, one) for call, one in answered if one.status not in _REFUSED]
        if len(stored) < len(calls):
            refused = [(call, one) for call, one in answered if one.status in _REFUSED]
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
                connection = await self._connect(call.queue)
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
            for start in range(0, len(calls), BATCH):
                chunk = calls[start : start + BATCH]
                rules = {
                    queue: await self._settings(connection, queue)
                    for queue in {call.queue for call in chunk}
                }
                news = [call.new_job(rules[call.queue]) for call in chunk]
                if sending is not None:
                    pushed += await sending
                sending = asyncio.ensure_future(connection.push_many(news, session))
                await asyncio.sleep(0)  # it goes out now, not when the next is ready
            return [*pushed, *(await sending)] if sending is not None else pushed
        finally:
            if sending is not None:
                sending.cancel()

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
        if pushed.status in _REFUSED:
            raise _refusal(call, pushed)
        ref = Ref(call.queue, pushed.id)
        if self._hooks.enqueued is not None:
            self._hooks.enqueued(ref, call.task, pushed.status)
        return JobHandle(
            ref, self._connect, self._portal, returns=call.returns, pushed=pushed.status
        )


_REFUSED = frozenset({PushStatus.MOVED, PushStatus.FULL})


def _refusal(call: Call[Any], pushed: Pushed, refused: int = 1, of: int = 1) -> JobError:
    """Return the error for a job that was not stored, or for the first of several."""
    rest = "" if of == 1 else f" {refused} of {of} jobs were not stored, the others were."
    if pushed.status is PushStatus.MOVED:
        return Moved(
            f"Queue {call.queue!r} has moved to {pushed.id}. Point this app there: TASKMUX_URL or "
            f"routes={{...}}.{rest}"
        )
    return GroupFull(
        f"The group of a job for {call.task!r} has as many waiting jobs as queue {call.queue!r} "
        f"allows (max_waiting). Enqueue it later, or raise the limit: "
        f"mux.queue({call.queue!r}).limit(group='*', max_waiting=...).{rest}"
    )
