"""The way to the server: one command at a time, sent again by us.

Every operation of the driver may safely be sent twice, so a lost reply is answered by sending the
same again, with full jitter between, until `PATIENCE` has passed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from redis.exceptions import NoScriptError
from taskmux.driver import StoreError, StoreUnavailable

from taskmux_redis.clients import Client, disconnect
from taskmux_redis.failures import CLIENT_ERRORS, translate
from taskmux_redis.forks import keep_whole
from taskmux_redis.home import Home
from taskmux_redis.scripts import Script

__all__ = ["Connection"]

Reply = TypeVar("Reply")

PATIENCE: Final = 15.0
"""Seconds for which an operation is sent again before it fails: a failover fits in."""
_AT_ONCE: Final = 0.5
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0
_SLOWEST_LINK: Final = 131_072
"""Bytes a second that a link carries at least: the limit of a command grows with its bytes."""


class Connection:
    """A client, its deadlines and its retries. Opened and closed by the driver.

    Args:
        connect: makes the client.
        where: the server's address for messages.
        timeout: seconds a small command may take.
        home: the loop of a client that was handed in. Such a client is never closed here.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        where: str,
        timeout: float,
        home: Home | None = None,
    ) -> None:
        self._connect = connect
        self._client: Client = None
        self.home = home
        self.where = where
        self.timeout = timeout

    @property
    def is_open(self) -> bool:
        """Whether there is a client."""
        return self._client is not None

    def open(self) -> None:
        """Make the client; its sockets follow at first use."""
        self._client = self._connect()
        keep_whole(self._client)

    async def close(self) -> None:
        """Close every socket, unless the client was handed in."""
        client, self._client = self._client, None
        if client is not None and self.home is None:
            await disconnect(client)

    async def run(
        self, script: Script, keys: Sequence[bytes], *args: Any, size: int | None = None
    ) -> Any:
        """Run a script, sent whole where the server does not know it (any more).

        Args:
            script: the script.
            keys: its keys.
            args: its arguments.
            size: about how many bytes of users' data they hold; None: weigh them here.
        """

        async def send() -> Any:
            try:
                return await self._execute("EVALSHA", script.sha, count, *keys, *args)
            except NoScriptError:
                return await self._execute("EVAL", script.source, count, *keys, *args)

        count = len(keys)
        if size is None:
            size = sum(len(arg) for arg in args if arg.__class__ is bytes)
        return await self.patiently(send, more=size / _SLOWEST_LINK, source=script.source)

    async def command(self, *args: Any, **options: Any) -> Any:
        """Run a command that may be repeated."""
        return await self.patiently(lambda: self._execute(*args, **options))

    async def at_once(self, *args: Any, **options: Any) -> Any:
        """Run a command that tells at once, or nearly, if the server is not there."""
        return await self.patiently(lambda: self._execute(*args, **options), patience=_AT_ONCE)

    async def once(self, *args: Any, wait: float = 0.0, **options: Any) -> Any:
        """Run a command without a retry; `wait` seconds of it are the server's own waiting.

        Raises:
            StoreError: whatever went wrong.
        """
        try:
            # A command that is cancelled or out of time leaves a reply in its socket: the
            # client drops the socket then, so that nobody reads another's reply.
            async with asyncio.timeout(self.timeout + wait):
                return await self._execute(*args, **options)
        except CLIENT_ERRORS as error:
            failure = translate(error, self.where)
        raise failure

    async def patiently(
        self,
        send: Callable[[], Awaitable[Reply]],
        patience: float = PATIENCE,
        more: float = 0.0,
        source: str = "",
    ) -> Reply:
        """Send, and send again while that may help; `more` seconds for what is large.

        `source` is that of the script which is sent, if one is.

        A time limit that was too short for a large reply is twice as long the next time.

        Raises:
            StoreError: what the server refused; `StoreUnavailable` after `patience` seconds.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience + more
        pause, limit = _FIRST_PAUSE, self.timeout + more
        while True:
            failure: StoreError
            try:
                async with asyncio.timeout(limit):
                    return await send()
            except CLIENT_ERRORS as error:
                failure = translate(error, self.where, source)
                if isinstance(error, TimeoutError):
                    limit *= 2
            # raised out here, so that the client's error with what it knows is not its context
            if not isinstance(failure, StoreUnavailable) or loop.time() > give_up:
                raise failure
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - jitter
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _execute(self, *args: Any, **options: Any) -> Awaitable[Any]:
        client = self._client
        if client is None:
            raise StoreUnavailable(
                f"The driver for Redis at {self.where} is not open. Call open() first."
            )
        if self.home is None:
            sent: Awaitable[Any] = client.execute_command(*args, **options)
            return sent
        return self.home.run(lambda: client.execute_command(*args, **options))
