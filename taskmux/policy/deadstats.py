"""Statistics of dead letters: what went wrong, how often, since when, and whether it goes on.

Pure: jobs go in one after the other, in any order, and the memory taken does not grow with them.
"""

from __future__ import annotations

from typing import Final

import msgspec

from taskmux.model.job import JobRecord
from taskmux.policy.fingerprints import fingerprint, pattern_of

__all__ = ["WINDOWS", "DeadGroup", "DeadStats", "DeadTally"]

HOUR: Final = 3_600_000

WINDOWS: Final = {"1h": HOUR, "3h": 3 * HOUR, "24h": 24 * HOUR, "3d": 72 * HOUR, "7d": 168 * HOUR}
"""The spans before now that are counted, in milliseconds, shortest first."""

MOST_GROUPS: Final = 1000
"""Groups that are told apart. Further ones are counted together."""

OTHERS: Final = "others"


class DeadGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Dead jobs of one task that failed in one way.

    Attributes:
        fingerprint: eight hexadecimal digits for this way of failing, for filters and alerts.
        task: the task's name.
        error: the type of the last error; of a job without one, what its reason says.
        pattern: its message, without what changes from one time to the next.
        count: how many there are.
        first_at, last_at: when the first and the last died, epoch milliseconds.
        sample: the id of the last one.
        recent: how many died in each span of `WINDOWS`.
    """

    fingerprint: str
    task: str
    error: str
    pattern: str
    count: int
    first_at: int
    last_at: int
    sample: str
    recent: dict[str, int]


class DeadStats(msgspec.Struct, frozen=True, kw_only=True):
    """What the dead letters of a queue say.

    Attributes:
        queue: the queue.
        at: the store's time that the spans end with, epoch milliseconds.
        total: how many dead jobs there are.
        groups: they, by task and way of failing, the largest group first. From the thousandth
            group on, further ones are one, whose fingerprint is `others`.
        errors: by type of error, how many died in each span of `WINDOWS`, and `all`. From the
            thousandth type on, further ones are `others`.
    """

    queue: str
    at: int
    total: int
    groups: tuple[DeadGroup, ...]
    errors: dict[str, dict[str, int]]


class _Group:
    """A group that is being counted."""

    __slots__ = ("count", "error", "first_at", "last_at", "pattern", "recent", "sample", "task")

    def __init__(self, task: str, error: str, pattern: str) -> None:
        self.task = task
        self.error = error
        self.pattern = pattern
        self.count = 0
        self.first_at = self.last_at = 0
        self.sample = ""
        self.recent = [0] * len(WINDOWS)

    def add(self, job_id: str, at: int, now: int) -> None:
        self.count += 1
        if self.count == 1 or at < self.first_at:
            self.first_at = at
        if at >= self.last_at:
            self.last_at, self.sample = at, job_id
        for place, span in enumerate(WINDOWS.values()):
            if now - at <= span:
                self.recent[place] += 1


class DeadTally:
    """Counts dead jobs.

    Args:
        queue: the queue they are of.
        now: the store's time, epoch milliseconds.
    """

    def __init__(self, queue: str, now: int) -> None:
        self._queue = queue
        self._now = now
        self._groups: dict[str, _Group] = {}
        self._errors: dict[str, _Group] = {}
        self._known: dict[tuple[str, str, str], str] = {}

    def add(self, job: JobRecord) -> None:
        """Count a job."""
        reason = job.reason or ""
        error = job.error.type if job.error else pattern_of(reason)
        message = job.error.message if job.error else reason
        mark = self._mark(job, error, message)
        group = self._groups.get(mark)
        if group is None:
            if len(self._groups) >= MOST_GROUPS:
                mark = OTHERS
                group = self._groups.get(OTHERS)
            if group is None:
                named = (job.task, error, pattern_of(message, error))
                group = _Group(*(("", OTHERS, "") if mark == OTHERS else named))
                self._groups[mark] = group
        group.add(job.id, job.finished_at or 0, self._now)
        kind = error if error in self._errors or len(self._errors) < MOST_GROUPS else OTHERS
        of_kind = self._errors.setdefault(kind, _Group("", kind, ""))
        of_kind.add(job.id, job.finished_at or 0, self._now)

    def _mark(self, job: JobRecord, error: str, message: str) -> str:
        """Return the fingerprint. Most messages come many times over, so some are remembered."""
        key = job.task, error, message
        mark = self._known.get(key)
        if mark is None:
            mark = fingerprint(job.task, job.error, job.reason)
            if len(self._known) < MOST_GROUPS:
                self._known[key] = mark
        return mark

    def stats(self) -> DeadStats:
        """Return what was counted."""
        ordered = sorted(self._groups.items(), key=lambda one: (-one[1].count, one[0]))
        kinds = sorted(self._errors.values(), key=lambda one: (-one.count, one.error))
        errors = {
            one.error: dict(zip((*WINDOWS, "all"), (*one.recent, one.count), strict=True))
            for one in kinds
        }
        return DeadStats(
            queue=self._queue,
            at=self._now,
            total=sum(group.count for group in self._groups.values()),
            groups=tuple(
                DeadGroup(
                    fingerprint=mark,
                    task=group.task,
                    error=group.error,
                    pattern=group.pattern,
                    count=group.count,
                    first_at=group.first_at,
                    last_at=group.last_at,
                    sample=group.sample,
                    recent=dict(zip(WINDOWS, group.recent, strict=True)),
                )
                for mark, group in ordered
            ),
            errors=errors,
        )
