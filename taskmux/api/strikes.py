"""Strikes: said, listed and lifted; and letting go what was set aside."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from taskmux.api.batch import Ops, resend
from taskmux.api.codec import encode_value
from taskmux.api.connection import Connection
from taskmux.driver import ApplyStatus, Driver, FindAsk, Op
from taskmux.model import transition
from taskmux.model.errors import DeclarationError
from taskmux.model.ids import new_id
from taskmux.model.job import BlockedCause, Ref, State
from taskmux.model.units import brief, check_name, storable
from taskmux.policy.strikes import Strike, lifted, read_strikes, set_aside_by, struck

if TYPE_CHECKING:
    from taskmux.api.task import Task

__all__ = ["Striking", "let_go"]

PAGE = 100
MOST_BYTES = 4096
ID_LENGTH = 8

TRIES = 3


def new_strike(
    task: str | Task[Any, Any, Any, Any] | None, arguments: Mapping[str, Any], reason: str | None
) -> Strike:
    """Return a strike, checked.

    Raises:
        DeclarationError: it names nothing, or an argument that the given task does not have.
        InvalidName: the task's name cannot be one.
        NotEncodable, PayloadTooLarge: a value has no JSON form, or they are long.
    """
    if task is None and not arguments:
        raise DeclarationError(
            "A strike names a task, values of arguments, or both. pause() stops the whole queue."
        )
    if task is not None and not isinstance(task, str):
        if unknown := sorted(set(arguments) - set(task.signature.names)):
            raise DeclarationError(
                f"Task {task.name!r} has no parameter {brief(unknown[0])}. It has "
                f"{', '.join(task.signature.names) or 'none'}."
            )
        task = task.name
    if reason is not None and not isinstance(reason, str):
        raise DeclarationError(f"reason {brief(reason)} is no text.")
    plain = encode_value(dict(arguments), "What a strike compares", MOST_BYTES, known_objects=1)
    return Strike(
        id=new_id()[-ID_LENGTH:],
        task=None if task is None else check_name(task, "task name"),
        arguments=msgspec.json.decode(plain),
        reason=None if reason is None else storable(reason, 200),
        at=time.time_ns() // 1_000_000,
    )


async def put_strike(connection: Connection, queue: str, strike: Strike) -> None:
    """Store a strike with its queue's settings, which wakes the queue's workers.

    Raises:
        DeclarationError: the queue has too many.
    """
    await connection.change_settings(
        queue, lambda stored: replace(stored, strikes=struck(stored.strikes, strike))
    )


async def lift(connection: Connection, queue: str, strike_id: str) -> int:
    """Lift a strike and let go what it set aside; return how many jobs that were.

    The strike is marked first. If this ends half-way, doing it again goes on; so does any worker
    of the queue by itself within about a minute.

    Raises:
        DeclarationError: there is no such strike.
    """
    await connection.change_settings(
        queue, lambda stored: replace(stored, strikes=lifted(stored.strikes, strike_id))
    )
    return await let_go(connection.driver, queue, {strike_id})


async def let_go(driver: Driver, queue: str, ids: Collection[str]) -> int:
    """Let the jobs wait again that these strikes set aside; return how many that were."""
    cursor, gone, ops = None, 0, Ops()
    while True:
        ask = FindAsk(queue=queue, state=State.BLOCKED, cursor=cursor, limit=PAGE)
        page = await driver.find(ask)
        mine = [job.ref for job in page.jobs if set_aside_by(job) in ids]
        if mine:
            gone += await _unblock(driver, ops.next(), mine)
        if page.cursor is None:
            return gone
        cursor = page.cursor


async def _unblock(driver: Driver, op: Op, refs: Sequence[Ref]) -> int:
    several = [transition.unblock(ref, BlockedCause.HOLD) for ref in refs]
    replies = await resend(lambda: driver.apply(op, several), TRIES)
    return sum(one.status in _DONE for one in replies)


_DONE = frozenset({ApplyStatus.APPLIED, ApplyStatus.REPEATED})


class Striking:
    """The verbs of a queue about strikes."""

    name: str

    async def _connection(self) -> Connection:
        raise NotImplementedError

    async def strike(
        self,
        *,
        task: str | Task[Any, Any, Any, Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
        reason: str | None = None,
        **values: Any,
    ) -> Strike:
        """Set jobs aside instead of running them, without a deployment, until `lift`.

        Those are jobs of this queue that are of `task` and whose arguments have the given values:
        `await queue.strike(task="mail.send", user_id=42)`. Workers keep to it within about two
        seconds; jobs that run already go on. A job that is set aside is blocked, its reason names
        the strike, and no attempt is spent. Like every change of settings, a strike also ends what
        `RateLimited` holds back.

        Args:
            task: a task or its name; None: of any task.
            arguments: the values by name, for names that mean something else here.
            reason: shown with each job.
            values: the values by parameter name.

        Raises:
            DeclarationError: it names nothing, or there are too many.
        """
        if arguments is not None and not isinstance(arguments, Mapping):
            raise DeclarationError(
                f"arguments {brief(arguments)} is no mapping from names to values."
            )
        strike = new_strike(task, {**values, **(arguments or {})}, reason)
        await put_strike(await self._connection(), self.name, strike)
        return strike

    async def strikes(self) -> list[Strike]:
        """Return the strikes in force, in the order in which they were said."""
        stored = await (await self._connection()).driver.settings(self.name)
        return [one for one in read_strikes(stored.strikes) if not one.lifted]

    async def lift(self, strike: Strike | str) -> int:
        """Lift a strike, given or by its id: what it set aside waits again, behind the others.

        Returns how many jobs this call let go; workers do so besides. Said again, or left half-way,
        it goes on where it was.

        Raises:
            DeclarationError: there is no such strike.
        """
        strike_id = strike.id if isinstance(strike, Strike) else strike
        return await lift(await self._connection(), self.name, strike_id)
