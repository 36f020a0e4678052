"""The way to the server: one command at a time, sent again by us and by nobody else.

Every operation of the driver may safely be sent twice, so a lost reply is answered by sending the
same again, with full jitter between, until `PATIENCE` has passed. The client library's own
retries are off: it would resend without knowing what may be repeated.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from redis.exceptions import NoScriptError
from taskmux.driver import StoreError, StoreUnavailable

from taskmux_redis.address import Client, disconnect
from taskmux_redis.faults import FAULTS, translate
from taskmux_redis.scripts import Script

__all__ = ["Link"]

Reply = TypeVar("Reply")

PATIENCE: Final = 15.0
"""Seconds for which an operation is sent again before it fails: a failover fits in."""
_AT_ONCE: Final = 0.5
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0


class Link:
    """A client, its deadlines and its retries. Opened and closed by the driver."""

    def __init__(
        self, connect: Callable[[], Client], where: str, timeout: float, *, owned: bool = True
    ) -> None:
        self._connect = connect
        self._client: Client = None
        self._owned = owned
        self.where = where
        self.timeout = timeout

    @property
    def is_open(self) -> bool:
        """Whether there is a client."""
        return self._client is not None

    def open(self) -> None:
        """Make the client; connections follow at first use."""
        self._client = self._connect()

    async def close(self) -> None:
        """Close every connection, unless the client was handed in."""
        client, self._client = self._client, None
        if client is not None and self._owned:
            await disconnect(client)

    async def run(self, script: Script, keys: Sequence[bytes], *args: Any) -> Any:
        """Run a script, sent whole where the server does not know it (any more)."""

        async def send() -> Any:
            client = self._ready()
            try:
                return await client.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
            except NoScriptError:
                return await client.execute_command("EVAL", script.source, len(keys), *keys, *args)

        return await self.patiently(send)

    async def command(self, *args: Any, **options: Any) -> Any:
        """Run a command that may be repeated."""
        return await self.patiently(lambda: self._ready().execute_command(*args, **options))

    async def at_once(self, *args: Any, **options: Any) -> Any:
        """Run a command that tells at once, or nearly, if the server is not there."""
        return await self.patiently(
            lambda: self._ready().execute_command(*args, **options), patience=_AT_ONCE
        )

    async def once(self, *args: Any, wait: float = 0.0, **options: Any) -> Any:
        """Run a command without a retry; `wait` seconds of it are the server's own waiting.

        Raises:
            StoreError: whatever went wrong.
        """
        try:
            # A command that is cancelled or out of time leaves a reply in its connection: the
            # client drops the connection then, so that nobody reads another's reply.
            async with asyncio.timeout(self.timeout + wait):
                return await self._ready().execute_command(*args, **options)
        except FAULTS as error:
            fault = translate(error, self.where)
        raise fault

    async def patiently(
        self, send: Callable[[], Awaitable[Reply]], patience: float = PATIENCE
    ) -> Reply:
        """Send, and send again while that may help.

        Raises:
            StoreError: what the server refused; `StoreUnavailable` after `patience` seconds.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience
        pause = _FIRST_PAUSE
        while True:
            fault: StoreError
            try:
                async with asyncio.timeout(self.timeout):
                    return await send()
            except FAULTS as error:
                fault = translate(error, self.where)
            # raised out here, so that the client's error with what it knows is not its context
            if not isinstance(fault, StoreUnavailable) or loop.time() > give_up:
                raise fault
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - jitter
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _ready(self) -> Client:
        if self._client is None:
            raise StoreUnavailable(
                f"The driver for Redis at {self.where} is not open. Call open() first."
            )
        return self._client
