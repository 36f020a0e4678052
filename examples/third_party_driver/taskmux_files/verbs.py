"""The verbs, each as a function of one queue. The numbers are the contracts that a line keeps."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec.structs import replace
from taskmux.driver import (
    PROMOTE_LIMIT,
    TERMINAL,
    Applied,
    ApplyStatus,
    ClaimAsk,
    Claimed,
    ConfigError,
    CorruptRecord,
    Extended,
    FindAsk,
    Guard,
    HeldLease,
    JobRecord,
    LeaseStatus,
    NewJob,
    Note,
    Op,
    Page,
    Place,
    PruneAsk,
    Pushed,
    PushStatus,
    QueueSettings,
    ReclaimAsk,
    Ref,
    State,
    Transition,
    holds,
    judge,
)

from taskmux_files.files import Queue, Stored
from taskmux_files.keys import due, following, let_go, may_go_on, meet, own, owner_of, place


def push(queue: Queue, op: Op, jobs: Sequence[NewJob]) -> Sequence[Pushed]:
    """See `Driver.push`."""
    known = queue.recall(op, "push", list[Pushed])
    if known is not None:  # P4
        return known
    return queue.remember(op, "push", [_push(queue, new) for new in jobs])


def _push(queue: Queue, new: NewJob) -> Pushed:
    job = new.job
    if queue.saved.settings.moved_to is not None:  # P5
        return Pushed(PushStatus.MOVED, queue.saved.settings.moved_to)
    if job.id in queue.jobs:  # P2
        return Pushed(PushStatus.DUPLICATE, job.id)
    met = meet(queue, new)
    if isinstance(met, Pushed):
        return met
    if met is None:
        own(queue, job)
    else:
        job = following(queue, new).job
    run_at = due(queue, new) if job.state is State.DELAYED else job.run_at
    fence = max(queue.now, queue.saved.fence_of_removed + 1)
    job = replace(job, created_at=queue.now, fence=fence, run_at=run_at)  # P1
    stored = queue.jobs[job.id] = Stored(job, number=queue.tick())
    if job.state is State.WAITING:
        place(queue, stored, Place.FRONT if job.lifo else Place.BACK)  # P6, P7
    return Pushed(PushStatus.CREATED, job.id)


def claim(queue: Queue, op: Op, ask: ClaimAsk) -> Claimed:
    """See `Driver.claim`."""
    known, blocked_by = queue.recall(op, "claim", list[JobRecord]), None
    if known is not None:  # C5
        jobs = [job for job in known if _is_held(queue, job.id, job.fence)]
    elif queue.saved.settings.paused:  # C6
        jobs, blocked_by = queue.remember(op, "claim", []), "paused"
    else:
        _promote(queue)
        jobs = queue.remember(op, "claim", _lease(queue, ask))
    due = [stored.job.run_at or 0 for stored in queue.in_state(State.DELAYED)]
    return Claimed(jobs, queue.now, max(0, min(due) - queue.now) if due else None, blocked_by)  # C7


def _promote(queue: Queue) -> None:
    delayed = sorted(queue.in_state(State.DELAYED), key=_order)
    for stored in delayed[:PROMOTE_LIMIT]:  # C2
        if (stored.job.run_at or 0) <= queue.now:
            stored.job = replace(stored.job, state=State.WAITING)
            place(queue, stored, Place.FRONT if stored.job.lifo else Place.BACK)


def _lease(queue: Queue, ask: ClaimAsk) -> list[JobRecord]:
    first = sorted(queue.in_state(State.WAITING), key=_order)[: ask.limit]  # C1
    for stored in first:
        stored.job = replace(  # C3
            stored.job,
            state=State.ACTIVE,
            worker=ask.worker,
            lease_until=queue.now + ask.lease,
            fence=stored.job.fence + 1,
            started=False,
        )
    return [stored.job for stored in first]


def apply(queue: Queue, op: Op, transitions: Sequence[Transition]) -> Sequence[Applied]:
    """See `Driver.apply`."""
    known = queue.recall(op, "apply", list[Applied])
    if known is None:
        return queue.remember(op, "apply", [_apply(queue, one) for one in transitions])
    repeated = ApplyStatus.REPEATED  # A4
    return [replace(a, status=repeated) if a.status is ApplyStatus.APPLIED else a for a in known]


def _apply(queue: Queue, one: Transition) -> Applied:
    stored = queue.jobs.get(one.ref.id)
    move = judge(one, None if stored is None else stored.job)  # A1 to A9
    if stored is None or isinstance(move, Applied):
        return move if isinstance(move, Applied) else Applied(ApplyStatus.GONE)
    if move.removes:
        queue.remove(stored)
        let_go(queue, stored.job, removed=True)
        return move.answer
    if move.revived and not may_go_on(queue, stored.job):  # A6
        return Applied(ApplyStatus.CONFLICT, stored.job.state)
    stored.job = move.record(stored.job, queue.now)
    if move.ended:
        stored.retention = one.retention
        let_go(queue, stored.job, removed=False)
    if move.place is not None:
        place(queue, stored, move.place)  # A5
    if move.delay is not None:
        queue.tick()  # W1
    return move.answer


def annotate(queue: Queue, notes: Sequence[Note]) -> Sequence[Applied]:
    """See `Driver.annotate`."""
    return [_annotate(queue, note) for note in notes]


def _annotate(queue: Queue, note: Note) -> Applied:
    stored = queue.jobs.get(note.ref.id)
    if stored is None:
        return Applied(ApplyStatus.GONE)
    job = stored.job
    if not _is_held(queue, job.id, note.fence):  # N1
        return Applied(ApplyStatus.STALE, job.state)
    if note.progress is not None:  # N2
        job = replace(job, progress=note.progress)
    if note.log is not None and note.log_index >= len(job.logs):
        job = replace(job, logs=(*job.logs, note.log))
    stored.job = replace(job, steps=job.steps | (note.steps or {}))
    return Applied(ApplyStatus.APPLIED, job.state)


def extend(queue: Queue, leases: Sequence[HeldLease], lease: int) -> Sequence[Extended]:
    """See `Driver.extend`."""
    return [_extend(queue, held, queue.now + lease) for held in leases]


def _extend(queue: Queue, held: HeldLease, until: int) -> Extended:
    if not _is_held(queue, held.ref.id, held.fence):  # L1
        return Extended(LeaseStatus.LOST)
    stored = queue.jobs[held.ref.id]
    stored.job = replace(stored.job, lease_until=until)  # L2
    return Extended(LeaseStatus.CANCEL if stored.job.cancel_requested else LeaseStatus.HELD)  # L3


def _is_held(queue: Queue, job_id: str, fence: int) -> bool:
    stored = queue.jobs.get(job_id)
    return stored is not None and holds(Guard(fence=fence), stored.job)


def reclaim(queue: Queue, op: Op, ask: ReclaimAsk) -> Sequence[JobRecord]:
    """See `Driver.reclaim`."""
    known = queue.recall(op, "reclaim", list[JobRecord])
    if known is not None:  # R3
        return [job for job in known if _is_held(queue, job.id, job.fence)]
    active = sorted(queue.in_state(State.ACTIVE), key=lambda stored: stored.job.lease_until or 0)
    answer = []
    for stored in active[: ask.limit]:
        if (stored.job.lease_until or 0) <= queue.now:  # R1
            fence, until = stored.job.fence + 1, queue.now + ask.lease
            answer.append(replace(stored.job, fence=fence, lease_until=until))  # R2
            stored.job = replace(answer[-1], worker=ask.worker)
    return queue.remember(op, "reclaim", answer)


def get(queue: Queue, refs: Sequence[Ref]) -> Sequence[JobRecord | None]:
    """See `Driver.get`."""
    for ref in refs:
        if ref.id in queue.saved.corrupt and ref.id not in queue.jobs:
            raise CorruptRecord(f"The record of {ref} cannot be read. It is kept in its file.")
    return [queue.jobs[ref.id].job if ref.id in queue.jobs else None for ref in refs]


def find(queue: Queue, ask: FindAsk) -> Page:
    """See `Driver.find`.

    Raises:
        ConfigError: the cursor is none.
    """
    rows = sorted(queue.in_state(ask.state), key=_order, reverse=ask.newest)  # F1
    if ask.cursor is not None:
        after = _cursor(ask.cursor)
        rows = [one for one in rows if (_order(one) < after if ask.newest else _order(one) > after)]
    start = ask.starts_at
    if start is not None:  # F6
        rows = [one for one in rows if _is_beyond(_order(one)[0], start, newest=ask.newest)]
    jobs: list[JobRecord] = []
    for looked, stored in enumerate(rows, 1):
        if ask.wants(stored.job):  # F2
            jobs.append(stored.job)
        if looked == ask.looks or len(jobs) == ask.limit:  # F3
            more = looked < len(rows)
            return Page(jobs, "{}:{}".format(*_order(stored)) if more else None, queue.now)
    return Page(jobs, None, queue.now)


def _is_beyond(instant: int, start: int, *, newest: bool) -> bool:
    return instant <= start if newest else instant >= start


def _cursor(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(-?\d{1,18}):(-?\d{1,18})", text)
    if match is None:  # F4
        raise ConfigError(f"{text!r} is no cursor. Take it from the page before.")
    return int(match[1]), int(match[2])


def _order(stored: Stored) -> tuple[int, int]:
    job = stored.job
    match job.state:
        case State.WAITING:
            return job.priority, stored.sequence
        case State.DELAYED:
            return job.run_at or 0, stored.number
        case State.ACTIVE | State.BLOCKED:
            return job.created_at, stored.number
        case _:
            return job.finished_at or 0, stored.number


def counts(queue: Queue) -> dict[State, int]:
    """See `Driver.counts`."""
    return {state: len(queue.in_state(state)) for state in State}


def prune(queue: Queue, ask: PruneAsk) -> int:
    """See `Driver.prune`."""
    queue.forget()
    for key in tuple(queue.saved.owners):
        owner_of(queue, key)  # P11
    gone: list[Stored] = []
    for state in TERMINAL:
        newest = sorted(queue.in_state(state), key=_order, reverse=True)
        gone += [one for rank, one in enumerate(newest) if _is_past(one, rank, queue.now, ask)]
    for stored in gone[: ask.limit]:  # T3
        queue.remove(stored)
    return len(gone[: ask.limit])


def _is_past(stored: Stored, rank: int, now: int, ask: PruneAsk) -> bool:
    finished, keep = stored.job.finished_at or 0, stored.retention
    too_many = keep.count is not None and rank >= keep.count  # T2
    return finished + keep.age_ms <= now or (too_many and finished + ask.spare <= now)  # T1


def put_settings(queue: Queue, settings: QueueSettings) -> bool:
    """See `Driver.put_settings`."""
    if settings.rev != queue.saved.settings.rev:  # S3
        return False
    queue.saved.settings = replace(settings, rev=settings.rev + 1)  # S2
    queue.tick()  # W1
    return True
