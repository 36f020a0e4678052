"""Read and prune what the memory driver stores. The driver holds the lock."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from taskmux.driver import (
    TERMINAL,
    ConfigError,
    FindAsk,
    JobRecord,
    Page,
    PruneAsk,
    Standing,
    State,
)
from taskmux.memory.store import QueueStore, Stored

__all__ = ["find", "prune", "standing"]


_CURSOR: Final = re.compile(r"(-?\d{1,18}):(-?\d{1,18})")


def find(queue: QueueStore | None, ask: FindAsk, now: int) -> Page:
    """Return one page of a queue's jobs in one state.

    Raises:
        ConfigError: the cursor is none.
    """
    after = None if ask.cursor is None else _cursor(ask.cursor)
    stored = queue.jobs.values() if queue is not None else ()
    rows = [(order(one), one.job) for one in stored if one.job.state is ask.state]
    rows.sort(key=lambda row: row[0], reverse=ask.newest)
    if after is not None:
        rows = [row for row in rows if (row[0] < after if ask.newest else row[0] > after)]
    start = ask.starts_at
    if start is not None:
        rows = [row for row in rows if (row[0][0] <= start if ask.newest else row[0][0] >= start)]
    jobs: list[JobRecord] = []
    for looked, (place, job) in enumerate(rows, 1):
        if ask.wants(job):
            jobs.append(job)
        if looked == ask.looks or len(jobs) == ask.limit:
            return Page(jobs, ":".join(map(str, place)) if looked < len(rows) else None, now)
    return Page(jobs, None, now)


def _cursor(text: str) -> tuple[int, int]:
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is no cursor. Take it from the page before.")
    return int(match[1]), int(match[2])


def standing(queue: QueueStore, stored: Stored, now: int) -> Standing:
    """Return what a waiting job stands behind."""
    line, lines, settings = stored.job.group, queue.lines, queue.settings
    return Standing(
        ahead=sum(
            one.job.state is State.WAITING and one.job.group == line and order(one) < order(stored)
            for one in queue.jobs.values()
        ),
        line_waiting=lines.waiting[line],
        line_active=lines.active(line),
        active=len(queue.leases),
        lines=len(lines.waiting),
        opens_in=lines.queue.opens_in(settings.rate, now),
        line_opens_in=lines.gate(line).opens_in(settings.line(line).rate, now),
    )


def prune(queue: QueueStore, now: int, ask: PruneAsk) -> list[Stored]:
    """Remove finished records past their retention; return those that went.

    A backlog is met from its old end, so a call costs as much as it removes.
    """
    queue.lines.forget_open(queue.settings, now)
    gone: list[Stored] = []
    counted: set[State] = set()
    for stored in queue.jobs.values():
        if stored.job.state not in TERMINAL:
            continue
        if (stored.job.finished_at or 0) + stored.retention.age_ms <= now:
            gone.append(stored)
            if len(gone) >= ask.limit:
                break
        elif stored.retention.count is not None:
            counted.add(stored.job.state)
    else:
        for state in counted:
            gone += beyond(finished(queue, state), now, ask)
    for stored in gone[: ask.limit]:
        queue.remove(stored)
    return gone[: ask.limit]


def order(stored: Stored) -> tuple[int, int]:
    """Return the place of a record among those of its state."""
    job = stored.job
    match job.state:
        case State.WAITING:
            return job.priority, stored.sequence
        case State.DELAYED:
            return job.run_at or 0, stored.created
        case State.ACTIVE | State.BLOCKED:
            return job.created_at, stored.created
        case _:
            return job.finished_at or 0, stored.created


def finished(queue: QueueStore, state: State) -> list[Stored]:
    """Return the records of a terminal state, newest first."""
    found = [stored for stored in queue.jobs.values() if stored.job.state is state]
    return sorted(found, key=order, reverse=True)


def beyond(newest_first: Iterable[Stored], now: int, ask: PruneAsk) -> Iterator[Stored]:
    """Yield the records that others of their state came after, more than their count keeps."""
    for rank, stored in enumerate(newest_first):
        finished = stored.job.finished_at or 0
        count = stored.retention.count
        over = count is not None and rank >= count and finished + ask.spare <= now
        if over and finished + stored.retention.age_ms > now:
            yield stored
