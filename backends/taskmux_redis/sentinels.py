"""Sentinels: asked in turn within one deadline, and a change of the primary is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis, Sentinel
from redis.exceptions import TimeoutError as NoAnswer
from taskmux.driver import Log

__all__ = ["Sentinels"]

logger = Log("taskmux.redis")


class Watcher(Redis):
    """One Sentinel; it has a deadline for each answer.

    The client's own `socket_timeout` will not do: it waits with `asyncio.wait_for`, which loses
    a cancellation on Python 3.11, and a wait that was cancelled would go on.
    """

    def __init__(self, host: str, port: int, patience: float, options: dict[str, Any]) -> None:
        super().__init__(
            host=host, port=port, socket_timeout=None, socket_connect_timeout=patience, **options
        )
        self._patience = patience

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command.

        Raises:
            redis.exceptions.TimeoutError: no answer in time.
        """
        try:
            async with asyncio.timeout(self._patience):
                return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except TimeoutError:
            raise NoAnswer(f"no answer within {self._patience} s") from None


class Sentinels(Sentinel):
    """The Sentinels of a service.

    Args:
        hosts: where they are.
        patience: seconds in which all of them can be asked, one after the other.
        where: their addresses for messages.
        to_sentinels: arguments of their clients.
        to_servers: arguments of the clients of the servers that they name.
    """

    def __init__(
        self,
        hosts: Sequence[tuple[str, int]],
        patience: float,
        where: str,
        to_sentinels: dict[str, Any],
        to_servers: dict[str, Any],
    ) -> None:
        super().__init__([], **to_servers)  # type: ignore[no-untyped-call]
        share = patience / (len(hosts) + 1)
        self.sentinels = [Watcher(host, port, share, to_sentinels) for host, port in hosts]
        self._where = where
        self._primary: tuple[str, int] | None = None
        self._asking = asyncio.Lock()

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the primary's address; warn if it is another than before.

        One asks at a time: the client moves the Sentinel that answered to the front of its list,
        and two that do so at once would put one Sentinel there twice and forget another.
        """
        async with self._asking:
            found: tuple[str, int] = await super().discover_master(service_name)
        before, self._primary = self._primary, found
        if before not in (None, found):
            logger.warning(
                "Redis service %s (Sentinels at %s) failed over to %s:%d: writes acknowledged in "
                "the last moments may be lost, unless they were replicated in time "
                "(min-replicas-to-write bounds it) or the failover was planned",
                service_name,
                self._where,
                *found,
            )
        return found
