"""Following a queue: one reader of its events for each connection, whoever wants to know.

Events only say when to look. Whoever waits looks at growing intervals besides, so that nothing
depends on them: not on a store that has none, nor on one that lost some.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import TracebackType
from typing import Self

from taskmux.api.begin import begin
from taskmux.driver import Driver, Events, StoreEvent, StoreUnavailable, What
from taskmux.model.errors import UnsupportedFeature
from taskmux.model.job import TERMINAL, Ref
from taskmux.model.log import Log

__all__ = ["Changes", "Follower", "Following"]

logger = Log("taskmux")

PAGE = 1000
POLL = 5.0
"""Seconds of one long poll. A reader that nobody needs any more ends with its last one."""

FIRST_LOOK, LONGEST_LOOK = 0.002, 0.25
"""Seconds between two looks without events: the first, and the longest."""

FIRST_LOOK_BESIDES, LONGEST_LOOK_BESIDES = 1.0, 30.0
"""Seconds between two looks while events tell when to look."""

SLOWER = 1.5
MOST_READERS = 8
"""Queues that one connection follows at once: each may occupy a socket of the driver's. Whoever
waits for jobs of further queues looks for them."""

AGAIN_AFTER = (0.1, 5.0)
"""Seconds after which a reader tries again: at first, and at last."""

NONE_KEPT = 5.0
"""Seconds until a reader looks whether a queue keeps events meanwhile."""

Follower = Callable[[StoreEvent | None], None]
"""Called with each event, and with None when there may be more to see than events tell."""


class Following:
    """The readers of one connection. Each begins with its first follower."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver if isinstance(driver, Events) else None
        self._readers: dict[str, _Reader] = {}
        self.closed = False

    def follow(self, queue: str, follower: Follower, job_id: str | None = None) -> _Reader | None:
        """Let a follower hear of a queue, or of one job, from soon on; None: it must look.

        It is called with None once it hears everything.
        """
        if self._driver is None or self.closed:
            return None
        reader = self._readers.get(queue)
        if reader is None:
            self._forget_ended()
            if len(self._readers) >= MOST_READERS:
                return None
            reader = self._readers[queue] = _Reader(self._driver, queue)
        if not reader.add(job_id, follower):
            self._driver = None  # this deployment has no events
            return None
        return reader

    def changes(self, ref: Ref, *, ends: bool) -> Changes:
        """Return what wakes whoever waits for a job: for its end, or for any change."""
        return Changes(self, ref, ends=ends)

    async def close(self) -> None:
        """Stop reading. Followers are called with None, and look themselves from now on."""
        self.closed = True
        readers, self._readers = list(self._readers.values()), {}
        for reader in readers:
            await reader.close()

    def _forget_ended(self) -> None:
        self._readers = {name: one for name, one in self._readers.items() if not one.ended}


class _Reader:
    """Reads one queue's events, and tells those who follow."""

    def __init__(self, driver: Events, queue: str) -> None:
        self._driver = driver
        self._queue = queue
        self._followers: dict[str | None, list[Follower]] = {}
        self._cursor: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._refused = False
        self.live = False
        """Whether every event is told, so that it is enough to look now and then."""

    @property
    def ended(self) -> bool:
        """Whether nobody follows, and it does not read."""
        return self._task is None and not self._followers

    def add(self, job_id: str | None, follower: Follower) -> bool:
        """Tell a follower from now on; False if the deployment has no events."""
        if self._refused:
            return False
        self._followers.setdefault(job_id, []).append(follower)
        if self._task is None:
            self._task = begin(self._run())
        return True

    def remove(self, job_id: str | None, follower: Follower) -> None:
        """Tell a follower no more."""
        listed = self._followers.get(job_id, [])
        if follower in listed:
            listed.remove(follower)
        if not listed:
            self._followers.pop(job_id, None)

    async def close(self) -> None:
        """Stop reading, and tell everybody so."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._all_look()

    async def _run(self) -> None:
        pause, longest = AGAIN_AFTER
        try:
            while self._followers:
                try:
                    await self._read()
                except UnsupportedFeature:
                    self._refused = True
                    return
                except StoreUnavailable:
                    pass  # it goes on after the same event as soon as the store is there
                except Exception:  # refused, or a driver's bug: everybody looks, as without events
                    logger.warning(
                        "Events of queue %r cannot be read; who waits for its jobs looks for them",
                        self._queue,
                        exc_info=True,
                    )
                    self._be_live(is_live=False)
                    self._cursor = None
                    pause = longest
                else:
                    pause = AGAIN_AFTER[0]
                    continue
                await asyncio.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311 - jitter
                pause = min(2 * pause, longest)
        finally:
            self._task, self._cursor = None, None
            self._be_live(is_live=False)

    async def _read(self) -> None:
        """Read what is there, or wait for it, and tell it."""
        page = await self._driver.events(self._queue, self._cursor, PAGE, POLL)
        if not page.kept:
            self._be_live(is_live=False)
            self._cursor = None
            await asyncio.sleep(NONE_KEPT)
            return
        self._cursor = page.cursor
        if page.gap:
            self._all_look()
        for event in page.events:
            self._tell(event)
        self._be_live(is_live=True)

    def _tell(self, event: StoreEvent) -> None:
        for job_id in (event.id, None):
            for follower in tuple(self._followers.get(job_id, ())):
                follower(event)

    def _be_live(self, *, is_live: bool) -> None:
        if is_live is not self.live:
            self.live = is_live
            self._all_look()

    def _all_look(self) -> None:
        for followers in list(self._followers.values()):
            for follower in tuple(followers):
                follower(None)


class Changes:
    """Wakes whoever waits for one job; a context manager. Look once after entering it."""

    def __init__(self, following: Following, ref: Ref, *, ends: bool) -> None:
        self._following = following
        self._ref = ref
        self._ends = ends
        self._reader: _Reader | None = None
        self._changed = False
        self._sleeper: asyncio.Future[None] | None = None
        self._was_live = False
        self._pause = FIRST_LOOK

    @property
    def closed(self) -> bool:
        """Whether the connection is closed, so that nothing more is heard."""
        return self._following.closed

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._reader = self._following.follow(self._ref.queue, self._hear, self._ref.id)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Listen no more."""
        if self._reader is not None:
            self._reader.remove(self._ref.id, self._hear)

    async def wait(self, most: float) -> None:
        """Sleep until it is time to look: something happened, or nobody would tell; or `most` s."""
        if not self._changed:
            loop = asyncio.get_running_loop()
            self._sleeper = loop.create_future()
            timer = loop.call_later(min(self._next_pause(), most), self._wake)
            try:
                await self._sleeper
            finally:
                timer.cancel()
        self._changed = False

    def _next_pause(self) -> float:
        live = self._reader is not None and self._reader.live
        if live is not self._was_live:
            self._was_live, self._pause = live, FIRST_LOOK_BESIDES if live else FIRST_LOOK
        pause = self._pause
        self._pause = min(pause * SLOWER, LONGEST_LOOK_BESIDES if live else LONGEST_LOOK)
        return pause

    def _hear(self, event: StoreEvent | None) -> None:
        if event is None or not self._ends or _ends(event):
            self._changed = True
            self._wake()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)


def _ends(event: StoreEvent) -> bool:
    return event.state in TERMINAL or event.what is What.REMOVED
