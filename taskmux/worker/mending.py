"""Mending: outcomes of a damaged queue are kept until somebody mends it, and stored then."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence

from taskmux.api.batch import GroupCommit
from taskmux.driver import Applied, Op
from taskmux.model.log import Log
from taskmux.worker.damage import DAMAGED
from taskmux.worker.outage import WAITED_OUT
from taskmux.worker.sending import Entry, Sender, size

__all__ = ["Mending"]

logger = Log("taskmux.worker")

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 5.0
"""Seconds between two tries. It is short, since the leases may not be renewable meanwhile: who
mends the queue lets every worker recover what has lapsed."""


class Mending:
    """One queue's transitions, apart from all others since a batch with some of them met damage.

    An outcome that meets it here waits and is tried again, until the store takes it or says that
    its lease is lost. Other outcomes of the queue go on: the damage may be one record's.

    Args:
        queue: its name.
        sender: sends batches; nobody else uses it.
        deliver: called for each entry with its reply, or with an error that is no damage.
        ended: called when nothing is left.
    """

    def __init__(
        self,
        queue: str,
        sender: Sender,
        deliver: Callable[[Entry, Applied | BaseException], None],
        ended: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._sender = sender
        self._deliver = deliver
        self._ended = ended
        self._group: GroupCommit[Entry, Applied] = GroupCommit(
            self._send,
            self._answered,
            tries=None,
            size=size,
            reconcile=sender.reconcile,
            again=WAITED_OUT,
        )
        self._open = 0
        self._waiting: list[Entry] = []
        self._pause = FIRST_PAUSE
        self._timer: asyncio.TimerHandle | None = None
        self._told = False
        self._empty = asyncio.Event()

    def __len__(self) -> int:
        """Return how many transitions the store has not answered yet."""
        return self._open

    def put(self, entry: Entry) -> None:
        """Send a transition with the queue's next batch."""
        self._open += 1
        self._group.put(entry)

    async def sent(self) -> None:
        """Wait until each transition was tried. What the store did not take is not waited for."""
        await self._group.flush()

    async def flush(self) -> None:
        """Wait until everything is stored."""
        if self._open:
            await self._empty.wait()

    async def abandon(self) -> None:
        """Stop; transitions without a reply are delivered a `CancelledError`."""
        if self._timer is not None:
            self._timer.cancel()
        await self._group.abandon()
        rest, self._waiting = self._waiting, []
        for entry in rest:
            self._done(entry, asyncio.CancelledError())

    async def _send(self, op: Op, entries: Sequence[Entry]) -> Sequence[Applied | BaseException]:
        # The batch that met the damage may have applied some of them.
        return await self._sender.reconcile(entries, await self._sender.send(op, entries))

    def _answered(self, entry: Entry, reply: Applied | BaseException) -> None:
        is_outcome = entry.what is entry.held.outcome
        is_lost = entry.held.until == -math.inf  # the store said so
        if isinstance(reply, DAMAGED) and is_outcome and not is_lost:
            self._keep(entry, reply)
        else:
            self._done(entry, reply)

    def _keep(self, entry: Entry, error: Exception) -> None:
        self._waiting.append(entry)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._try_again)
        if self._told:
            logger.debug("job %s: its outcome still waits: %s", entry.held.job.ref, error)
            return
        self._told = True
        logger.warning(
            "queue %s is damaged: outcomes of finished jobs that it does not take are kept and "
            "stored once it is mended, beginning with job %s; all others go on: %s",
            self._queue,
            entry.held.job.ref,
            error,
            extra={"queue": self._queue},
        )

    def _try_again(self) -> None:
        self._timer = None
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        waiting, self._waiting = self._waiting, []
        for entry in waiting:
            self._group.put(entry)

    def _done(self, entry: Entry, reply: Applied | BaseException) -> None:
        self._open -= 1
        with contextlib.ExitStack() as last:
            if not self._open:
                last.callback(self._end)
            self._deliver(entry, reply)

    def _end(self) -> None:
        if self._open:  # something else about the last one is to be stored
            return
        self._empty.set()
        self._ended(self._queue)
        if self._told:
            logger.warning(
                "queue %s: no outcome waits any more", self._queue, extra={"queue": self._queue}
            )
