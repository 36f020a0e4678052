"""The capability `lines`: fair turns between groups, limits, rates and holds."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from taskmux.model.job import Ref
from taskmux.model.queue import Standing

__all__ = ["LINE_LIMIT", "Lines"]

LINE_LIMIT = 100
"""How many lines one claim looks at in vain, at most. A line that may not give a job now is not
looked at again until it may. A claim that ends at this limit without a job says `next_in=0`."""


@runtime_checkable
class Lines(Protocol):
    """Fair turns between groups, and limits: what `push`, `claim`, `apply` and `wait` also keep.

    C8 Jobs stand in lines: their `group`, or the queue's common line. Lines with waiting jobs take
       turns, one job each, and the next claim goes on where the last one ended; order (C1) holds
       within a line. A line that was empty and gets a job goes behind the others, and so does one
       that may give again after C9 to C11. No claim looks at more than a bounded number of lines
       and jobs.
    C9 At most `concurrency` jobs of a queue, or of a line, are ACTIVE after a claim. Counted are
       the leases themselves, so nothing drifts. A queue that is full says
       `blocked_by="concurrency"`.
    C10 A rate of a queue, or of a line, lets as many jobs go as `gcra.room` says. A queue out of it
       says `blocked_by="rate"`.
    C11 A line that is paused, full, or out of its rate gives nothing; the others go on. If all
       lines with waiting jobs are: `blocked_by="lines"`.
    C12 A queue that has limits (`QueueSettings.limited`) says so, and gives at most `limit` -
       `prefetch`. New settings count at the next claim.
    C13 With `blocked_by` "rate" or "lines", `next_in` (C7) is the time until a rate or hold lets
       the next job go, if that is sooner than the next delayed job.
    P8 A job whose group has `group_size` waiting jobs already is not created: FULL. Those before it
       in the batch count, too; delayed and blocked jobs do not, and lines of tasks (`@...`) are no
       groups. The id and the deduplication key are checked before.
    A11 An applied transition with `hold` lets its job's queue, or line, give nothing for that
       long, as if out of its rate; the later end of two holds counts. New settings end all holds
       of their queue.
    W4 A job that leaves ACTIVE ends the waits of those whose claims found its queue or line full.
    """

    async def standing(self, ref: Ref) -> Standing | None:
        """Return what a waiting job stands behind; None if it is not waiting.

        G4 Exact when nothing else happens; it never changes anything.
        """
        ...
