"""The required verbs: what every driver does. Each has numbered contracts, a kit case for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from taskmux.driver.messages import (
    ClaimAsk,
    Claimed,
    Extended,
    FindAsk,
    HeldLease,
    NewJob,
    Note,
    Op,
    Page,
    PruneAsk,
    Pushed,
    ReclaimAsk,
)
from taskmux.model.job import JobRecord, Ref, State
from taskmux.model.queue import QueueSettings
from taskmux.model.transition import Applied, Transition

__all__ = ["PROMOTE_LIMIT", "Driver"]

PROMOTE_LIMIT = 100
"""How many due jobs one claim promotes at most, so that every claim is bounded."""


class Driver(ABC):
    """Storage for jobs. One instance belongs to one event loop."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The store's URL, with credentials hidden. Safe to log."""

    @property
    def bound(self) -> bool:
        """Whether this instance and its forks use one client of the application's.

        Then all of them belong to that client's event loop, and leases are renewed in it.
        """
        return False

    # -- life -----------------------------------------------------------------------------

    @abstractmethod
    async def open(self) -> None:
        """Connect and check that the store can keep the guarantees.

        O1 Opening an open driver changes nothing.
        O2 An unreachable store raises `StoreUnavailable`, an unfit one `StoreIncompatible`,
           refused credentials `StoreDenied`: each says what to do next.
        O3 Two drivers opening an empty store at once both succeed.
        O6 A verb whose connection breaks raises `StoreUnavailable`, and nothing else. The driver
           makes new connections by itself, so that the same call, sent again, works. A verb of a
           driver that is not open raises it, too, unless there is nothing to open.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections, threads and files.

        O4 Closing twice changes nothing; a closed driver can be opened again.
        """

    def abandon(self) -> None:
        """Let go of threads and files after this instance's event loop has been closed.

        Nothing can be awaited any more. Called for an instance that nobody closed in time, such
        as one opened by `asyncio.run(task.enqueue())`. Drivers without threads need not override.
        """
        return

    @abstractmethod
    def fork(self) -> Self:
        """Return another unopened instance on the same store, for another event loop.

        O5 What one instance acknowledged, the other sees.
        """

    # -- the hot path -----------------------------------------------------------------------

    @abstractmethod
    async def push(self, op: Op, jobs: Sequence[NewJob]) -> Sequence[Pushed]:
        """Create jobs; answer in the order asked. May span queues.

        P1 A created job is stored as given, plus: `created_at` = now, its place in line, `run_at`
           for a delayed one (now + delay, unless given as an absolute instant), and a `fence` that
           is at least now and higher than any that a job of this id ever had, so that no zombie of
           a removed job matches. (Each claim raises the fence by one, so within some milliseconds
           a job may have a fence that is ahead of the time. A store that removes such a job keeps
           its fence, one number a queue being enough, and starts the next job above it.)
        P2 A job whose (queue, id) exists in any state is not created: DUPLICATE, the record
           untouched.
        P3 A job whose `dedup.key` another job of its queue owns is not created: DEDUPLICATED, with
           the owner's id, unless P9 or P10 holds. A created job owns its key until it is terminal
           or removed; with `dedup.ttl` until so many milliseconds have passed or it is removed,
           whether it has finished and was pruned, or not. An owner that was never stored, or is
           set aside, owns nothing. The id is checked before the key.
        P4 The same op again answers as before and creates nothing, even if the job has meanwhile
           finished or was removed by `prune` within the ask's `memory`; and so does a copy that
           runs beside the first one.
        P5 A queue whose settings say `moved_to` takes nothing: MOVED, with that URL as id.
        P6 Jobs pushed in one batch stand in line in the batch's order; of two with the same id or
           key in one batch the first is created.
        P7 A job that becomes WAITING goes to the back of its priority, or with `lifo` to the
           front; so does a delayed one that a claim promotes. (An applied transition says its
           place itself: A5.)
        P9 With `dedup.replace` or `dedup.latest`, while the owner is WAITING or DELAYED and the new
           job is not BLOCKED: REPLACED, with the owner's id. The owner's record becomes the new
           job's, but for its `id`, `created_at`, `fence`, `group`, `state`, `run_at` and its place
           in line (a new priority moves it, keeping its sequence); a `dedup.ttl` begins anew. With
           `dedup.extend`, if the new job is DELAYED, the owner is DELAYED until that is due. A
           repeat (P4) replaces nothing again.
        P10 With `dedup.latest`, while the owner is ACTIVE and the new job is not BLOCKED, the new
           job is stored BLOCKED, cause DEDUP, as the owner's only successor: CREATED. If there is
           a successor already, whatever the owner's state, it is replaced as in P9: REPLACED, with
           the successor's id; of `extend` the new job's `run_at` is what counts. A successor that
           is moved or removed by a transition succeeds nobody any more.
        P11 When the owner of a key is terminal, removed, released (D2), or its ttl is over, its
           successor owns the key and becomes WAITING, at the back; DELAYED if its `run_at` is
           ahead. In the same step, or at the latest in the queue's next `prune`.
        """

    @abstractmethod
    async def claim(self, op: Op, ask: ClaimAsk) -> Claimed:
        """Lease up to `ask.limit` waiting jobs of one queue to a worker, in order.

        C1 Order within a line: priority, lowest number first; then the sequence taken when a job
           became waiting.
        C2 First, up to `PROMOTE_LIMIT` due delayed jobs become waiting, in due order (run_at, then
           creation). No job is claimed before its `run_at` by the store's clock.
        C3 A claimed job is ACTIVE with `worker`, `lease_until` = now + lease, and a fence higher
           than it ever had. `started` is false: a transition of the worker says when its run
           begins. Nothing else changes.
        C4 No two claims hand out the same job while its lease holds, whatever runs at once.
        C5 The same op again returns the same jobs that are still active under the same fence,
           and claims no other; and so does a copy that runs beside the first one. A claim that
           gave nothing need not be remembered: its repeat gives nothing, or is a claim like any.
        C6 A paused queue gives nothing: `blocked_by="paused"`. Its due jobs may wait unpromoted.
           A queue that has moved gives what is left in it, as if it had not: `moved_to` is for
           `push` alone.
        C7 `next_in` is the time until the earliest delayed job is due (0 if it is due already but
           was not promoted now), None if none is delayed. `now` is the store's time.
        """

    @abstractmethod
    async def apply(self, op: Op, transitions: Sequence[Transition]) -> Sequence[Applied]:
        """Apply guarded transitions in order; answer in the order asked. May span queues.

        A1 A guard with a fence holds only while the job is ACTIVE under exactly that fence; a
           guard with states only in one of them, and with a cause a BLOCKED job only if that is
           its cause. Otherwise STALE and nothing is written.
        A2 No record: GONE.
        A3 What is written: `changes` as given, the target state, `run_at` for DELAYED (now +
           delay, or the absolute instant), `finished_at` = now for a terminal target that is not
           its state already (None when it leaves one). Leaving ACTIVE clears `worker`,
           `lease_until` and `started`; the fence stays. ACTIVE -> ACTIVE keeps the lease.
           `to=None` keeps state and place, except that a waiting job with a new priority moves to
           it, keeping its sequence. Leaving BLOCKED clears `cause`.
        A4 The same op again: what was APPLIED is answered REPEATED, the rest as before; nothing
           changes, even when later operations have moved the job on, as long as this is the
           origin's last op. That holds for a removal, too, and for a copy that runs beside the
           first one.
        A5 WAITING places: BACK takes a new sequence, FRONT one before all others of its
           priority, KEEP the one it had when it was last waiting, whatever state it was in since
           (as BACK for a job that never waited).
        A6 A terminal target frees the job's deduplication key if it still owns it, but for a ttl
           that is not over; a removal frees it in any case. Leaving a terminal state takes the key
           again, as a new job would; owned by another: CONFLICT, nothing written.
        A7 A job with `cancel_requested` that would leave ACTIVE for a non-terminal state becomes
           CANCELLED instead, with the changes as given, but for `cause`, which only a BLOCKED job
           has, and `retention` counting from now; the answer is APPLIED with state CANCELLED. Its
           `reason` stays that of the request, whatever the changes say. One that completes has no
           reason.
        A8 `flag`: if the job is ACTIVE, set `cancel_requested`, and `reason` if the changes have
           one; answer REQUESTED; else as usual.
        A9 `remove` deletes the record.
        A10 Of several transitions of one job in one batch each sees what the one before left.
        """

    @abstractmethod
    async def annotate(self, notes: Sequence[Note]) -> Sequence[Applied]:
        """Write progress, steps and log lines of running jobs.

        N1 Guarded by fence as in A1, A2: APPLIED, STALE or GONE.
        N2 `progress` replaces, `steps` are merged by name, a log line goes to its index: an index
           below the log's length changes nothing, so a repeat is harmless.
        """

    # -- leases -----------------------------------------------------------------------------

    @abstractmethod
    async def extend(self, leases: Sequence[HeldLease], lease: int) -> Sequence[Extended]:
        """Renew leases to now + `lease` milliseconds.

        L1 A lease whose job is not active under that fence is LOST; nothing is written.
        L2 A lapsed lease that nobody reclaimed yet is renewed: it is still held.
        L3 CANCEL when the job is asked to cancel; it is renewed all the same.
        """

    @abstractmethod
    async def reclaim(self, op: Op, ask: ReclaimAsk) -> Sequence[JobRecord]:
        """Lease jobs of one queue whose lease lapsed to the caller; oldest lapse first.

        R1 Only ACTIVE jobs with `lease_until` <= now. The fence rises, so the former holder's
           writes are refused from now on; `worker` and `lease_until` are the caller's.
        R2 The answer has each record as stored now, except `worker`: the one that lapsed.
           `started`, `attempts` and `crashes` are untouched: the core decides what the lapse cost.
        R3 The same op again returns the same jobs that are still active under the same fence.
        R4 Of several reclaimers at once, each job goes to one.
        """

    # -- reading ------------------------------------------------------------------------------

    @abstractmethod
    async def get(self, refs: Sequence[Ref]) -> Sequence[JobRecord | None]:
        """Return the records, in the order asked; None where there is none.

        G1 What was pushed or applied is read back equal, byte for byte. Bytes hold anything. Text
           is valid UTF-8 and, from the core, without NUL: a store that cannot hold one raises a
           `StoreError` for it and stores nothing of that job, transition or note.
        """

    @abstractmethod
    async def find(self, ask: FindAsk) -> Page:
        """Return one page of a queue's jobs in one state.

        F1 Ordered as `FindAsk` says; every job that stays put during the walk appears once.
        F2 `task`, `tag`, `cause` and `error` filter the records looked at, of which there are at
           most `ask.looks`; a page may then be short, or even empty with a cursor.
        F3 A page never exceeds `limit`.
        F4 A cursor that no page of this state gave raises `ConfigError`.
        F5 `now` is the store's time.
        F6 `start` leaves out earlier jobs (with `newest`, later ones) of states in the order of
           `created_at` or `finished_at`, without a look at them.
        """

    @abstractmethod
    async def counts(self, queue: str) -> dict[State, int]:
        """Return how many jobs of the queue are in each state (every state present).

        G2 Exact after every acknowledged operation; an unknown queue has zeros.
        """

    @abstractmethod
    async def queues(self) -> Sequence[str]:
        """Return the names of all queues that hold a job or have settings, sorted.

        G3 A queue appears with its first job or setting. It goes with its last job if it never had
           settings; these are never removed.
        """

    @abstractmethod
    async def prune(self, ask: PruneAsk) -> int:
        """Remove finished records past their retention; return how many went.

        T1 A terminal record goes when `finished_at` + its retention's age has passed; never
           earlier, and no other record. A job that leaves its terminal state has no retention any
           more, until it is finished again.
        T2 With a retention count n, the newest n of its queue and state stay until their age has
           passed; older ones go, save within `spare`.
        T3 At most about `limit` go in one call, so the caller can share the store.
        """

    # -- deduplication keys ---------------------------------------------------------------------

    @abstractmethod
    async def dedup_owner(self, queue: str, key: str) -> str | None:
        """Return the id of the job that owns a deduplication key now; None if it is free.

        D1 As `push` would see it. The record of one that owns by its ttl may be pruned already.
        """

    @abstractmethod
    async def release_dedup(self, queue: str, key: str, owner: str) -> bool:
        """Free a deduplication key if this job owns it; return whether it did.

        D2 The job itself is untouched, and does not take the key again before it has been terminal
           (A6). A successor follows (P11). A repeat finds the key free, or another's: False.
        """

    # -- settings and wake-ups --------------------------------------------------------------

    @abstractmethod
    async def settings(self, queue: str) -> QueueSettings:
        """Return the queue's stored settings; the defaults with rev 0 if there are none.

        S1 What was stored is read back equal, with its rev.
        """

    @abstractmethod
    async def put_settings(self, queue: str, settings: QueueSettings) -> bool:
        """Store settings if `settings.rev` is the stored rev (compare-and-set).

        S2 On a match the stored rev is one higher, and the answer True.
        S3 Otherwise nothing changes, and the answer is False.
        """

    @abstractmethod
    async def wait(self, queues: Sequence[str], timeout: float) -> bool:  # noqa: ASYNC109
        """Sleep until work may be there in one of the queues, or `timeout` seconds.

        W1 These end the wait soon (True), from whatever process they come: a push or transition
           that makes a job waiting, or a delayed one that is due before all others of its queue;
           and a change of settings. Spurious wake-ups are allowed. Time alone ends no wait: the
           caller knows from `next_in` when a delayed job is due.
        W2 After `timeout` it returns False. It is a hint: correctness never depends on it.
        W3 A job that became waiting between the last claim of this instance and this call ends the
           wait at once.
        """
