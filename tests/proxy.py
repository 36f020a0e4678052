"""A TCP proxy between a client and a server that can misbehave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from random import Random
from typing import Self

__all__ = ["Proxy"]


class Proxy:
    """Forwards connections to a server on this machine; faults are switched on at any time.

    `drop_reply(rng)`: asked for each piece that the server sends; True breaks the connection in
    its place, so that the request was served and its reply is lost. `delay`: seconds that each
    reply is held up. `black_hole`: nothing comes back, yet connections stay open. `rate`: bytes a
    second that each direction of a connection carries; `requested`: bytes of requests so far.
    """

    def __init__(self, port: int, seed: int = 0) -> None:
        self.target = port
        self.rng = Random(seed)
        self.drop_reply: Callable[[Random], bool] = lambda _: False
        self.delay = 0.0
        self.black_hole = False
        self.rate: float | None = None
        self.requested = 0
        self.replies = self.dropped = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # one side has gone, or the test is over
        finally:
            self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self.target)
        pumps = [
            asyncio.create_task(self._pump(reader, forth, replies=False)),
            asyncio.create_task(self._pump(back, writer, replies=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in (writer, forth):  # before anything is awaited: the test may end meanwhile
                one.close()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for one in (writer, forth):
                with contextlib.suppress(OSError):
                    await one.wait_closed()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, replies: bool
    ) -> None:
        while piece := await source.read(65536):
            self.replies += replies
            self.requested += 0 if replies else len(piece)
            if self.rate is not None:
                await asyncio.sleep(len(piece) / self.rate)
            if replies and self.drop_reply(self.rng):
                self.dropped += 1
                return
            if replies and self.delay:
                await asyncio.sleep(self.delay)
            if replies and self.black_hole:
                continue
            sink.write(piece)
            await sink.drain()
