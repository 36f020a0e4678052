"""What a queue's settings and holds forbid, without reading them for every operation.

An instance that read that a queue is free of all restrictions believes it for a moment. Whoever
restricts a queue waits for the end of that moment before answering; from then on every instance
has to read the restriction. A push whose insert took longer than the moment reads once more, and
takes its jobs back if the queue has moved. `docs/decisions/0007-mongodb-moments.md` says why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from pymongo.asynchronous.collection import AsyncCollection
from taskmux.driver import QueueSettings

from taskmux_mongodb.clock import Clock
from taskmux_mongodb.lines_gates import Gate, gate_key, gate_of

__all__ = ["FREE", "Restriction", "Restrictions", "restrictive"]

Document = dict[str, Any]

_MOMENT: Final = 0.4
"""Seconds for which a queue that was read to be free is believed to be."""

_WAITED_OUT: Final = 1.25 * _MOMENT

_DEFAULT: Final = QueueSettings()


class Restriction(msgspec.Struct, frozen=True):
    """What holds for a queue: its settings, its gate, and that of its common line."""

    settings: QueueSettings = _DEFAULT
    gate: Gate = Gate()
    common: Gate = Gate()


FREE: Final = Restriction()


class Restrictions:
    """The restrictions of queues, as one instance knows them.

    Args:
        queues: the collection of settings.
        gates: the collection of gates.
        clock: tells which holds are over.
    """

    def __init__(
        self, queues: AsyncCollection[Document], gates: AsyncCollection[Document], clock: Clock
    ) -> None:
        self._queues = queues
        self._gates = gates
        self._clock = clock
        self._free_at: dict[str, float] = {}
        self._free: dict[str, Restriction] = {}

    async def of(self, queues: Iterable[str]) -> dict[str, Restriction]:
        """Return what holds for those queues that are restricted in some way."""
        doubtful = self.doubtful(queues)
        return await self.read(doubtful) if doubtful else {}

    def doubtful(self, queues: Iterable[str]) -> list[str]:
        """Return the queues that were not read to be free within the last moment."""
        since = time.monotonic() - _MOMENT
        return [name for name in queues if self._free_at.get(name, since) <= since]

    async def read(self, queues: list[str]) -> dict[str, Restriction]:
        """Return what holds for those queues that are restricted in some way, read now."""
        read_at = time.monotonic()
        keys = [key for name in queues for key in (name, gate_key(name, None))]
        stored, gates = await asyncio.gather(
            self._queues.find({"_id": {"$in": queues}}).to_list(None),
            self._gates.find({"_id": {"$in": keys}}).to_list(None),
        )
        settings = {one["_id"]: _settings(one) for one in stored}
        gate = {one["_id"]: gate_of(one) for one in gates}
        now = self._clock.earliest()
        found: dict[str, Restriction] = {}
        for name in queues:
            common = gate.get(gate_key(name, None), FREE.common)
            restriction = Restriction(
                settings.get(name, _DEFAULT), gate.get(name, FREE.gate), common
            )
            until = max(restriction.gate.held_until, common.held_until)
            if until > now or restrictive(restriction.settings):
                found[name] = restriction
                self._free_at.pop(name, None)
            else:
                self._free_at[name], self._free[name] = read_at, restriction
        return found

    def free(self, queue: str) -> Restriction:
        """Return what was read last of a queue that is free: its settings may have a `rev`."""
        return self._free.get(queue, FREE)

    def forget(self, queue: str) -> None:
        """Read what holds for the queue before it is used next."""
        self._free_at.pop(queue, None)

    async def in_force(self, queue: str) -> None:
        """Return when no instance goes by what it knew of the queue before."""
        self.forget(queue)
        await asyncio.sleep(_WAITED_OUT)


def restrictive(settings: QueueSettings) -> bool:
    """Return whether settings forbid anything to anybody."""
    return replace(settings, rev=0, defaults=None) != _DEFAULT


def _settings(document: Document) -> QueueSettings:
    """Return stored settings; of damaged ones what stops a queue still counts."""
    try:
        return msgspec.convert(document, QueueSettings)
    except msgspec.ValidationError:
        moved_to = document.get("moved_to")
        known = moved_to if isinstance(moved_to, str) else None
        return QueueSettings(paused=bool(document.get("paused")), moved_to=known)
