"""What a queue does to many jobs at once: one verb over all that a filter means."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Unpack

from msgspec.structs import replace

from taskmux.api.bulk import Bulk, BulkResult, Options, Progress, Verb, checked_limit, prepared
from taskmux.api.filters import Filter, FilterOptions
from taskmux.model import transition
from taskmux.model.errors import DeclarationError, JobConflict
from taskmux.model.job import PENDING, TERMINAL, BlockedCause, JobRecord, State
from taskmux.model.queue import QueueSettings
from taskmux.model.transition import Transition
from taskmux.model.units import Duration, brief, checked_reason, priority_number

if TYPE_CHECKING:
    from taskmux.api.connection import Connection

__all__ = ["BulkOptions", "BulkVerbs", "options_of"]

KEPT: Final = TERMINAL - {State.MOVED}
"""States of a job that has finished here. One that moved left a tombstone, removed only by name."""

EMPTYINGS: Final = 10
"""How often `obliterate` looks for jobs that came meanwhile."""


class BulkOptions(FilterOptions, total=False):
    """A filter, and how a bulk verb goes.

    `all`: needed where nothing narrows the call. `dry_run`: count the jobs and change none.
    `limit`: change so many at most. `on_progress`: called after every batch with how many jobs are
    done, and of about how many (None: not known); what it raises ends the call between two batches.
    """

    all: bool
    dry_run: bool
    limit: int | None
    on_progress: Progress | None


def options_of(keywords: dict[str, Any]) -> tuple[Filter, Options, bool]:
    """Return the filter, how a call goes, and whether `all=True` was said.

    Raises:
        DeclarationError: a filter or the limit is none, or a switch is no bool.
        InvalidName: a task, tag or id is a name that no job can have.
    """
    rest = dict(keywords)
    switches = {name: rest.pop(name, False) for name in ("all", "dry_run")}
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise DeclarationError(f"{name} {brief(value)} is neither True nor False.")
    on_progress = rest.pop("on_progress", None)
    if on_progress is not None and not callable(on_progress):
        raise DeclarationError(f"on_progress {brief(on_progress)} cannot be called.")
    options = Options(
        dry_run=switches["dry_run"],
        limit=checked_limit(rest.pop("limit", None)),
        on_progress=on_progress,
    )
    return Filter.of(**rest), options, switches["all"]


class BulkVerbs:
    """Verbs over the jobs that a filter means; see `FilterOptions` and `BulkOptions`.

    Each may be called again, after a lost reply, a kill or for good measure: what has been done is
    not done twice. Each raises `DeclarationError` before anything is sent where a filter is none,
    where nothing narrows the call and `all=True` was not said, or where it can do nothing with jobs
    in a state that was named; and `StoreError` where the store cannot go on.
    """

    name: str

    async def _connection(self) -> Connection:
        raise NotImplementedError

    async def settings(self) -> QueueSettings:
        """Return the queue's stored settings."""
        raise NotImplementedError

    async def retry(self, **options: Unpack[BulkOptions]) -> BulkResult:
        """Make finished jobs wait again with fresh attempts: the dead, unless states are named.

        The oldest come first. Skipped as `conflict`: another unfinished job owns the dedup key.
        """
        return await self._bulk(RETRY, options)

    async def cancel(
        self, *, reason: str | None = None, **options: Unpack[BulkOptions]
    ) -> BulkResult:
        """Cancel unfinished jobs. Those that run are asked to stop, and counted as `requested`.

        Args:
            reason: kept with the jobs and told by `result()`.
            options: which jobs, and how.
        """
        return await self._bulk(cancelling(reason), options)

    async def promote(self, **options: Unpack[BulkOptions]) -> BulkResult:
        """Make delayed jobs wait now, soonest due first."""
        return await self._bulk(PROMOTE, options)

    async def remove(self, **options: Unpack[BulkOptions]) -> BulkResult:
        """Remove jobs in any state but active, with their results. Their dedup keys are free."""
        return await self._bulk(REMOVE, options)

    async def reprioritise(self, priority: int | str, **options: Unpack[BulkOptions]) -> BulkResult:
        """Give jobs that have not begun another priority; waiting ones keep their seniority."""
        return await self._bulk(reprioritising(priority_number(priority)), options)

    async def hold(self, **options: Unpack[BulkOptions]) -> BulkResult:
        """Keep waiting and delayed jobs back until `unhold`."""
        return await self._bulk(HOLD, options)

    async def unhold(self, **options: Unpack[BulkOptions]) -> BulkResult:
        """Let jobs that were held go on, oldest first: they wait, or are delayed until due."""
        return await self._bulk(UNHOLD, options)

    async def drain(
        self, *, delayed: bool = False, on_progress: Progress | None = None
    ) -> BulkResult:
        """Remove the waiting jobs, and with `delayed=True` the delayed ones; others stay."""
        states = [State.WAITING, State.DELAYED] if delayed else [State.WAITING]
        return await self.remove(state=states, on_progress=on_progress)

    async def clean(
        self,
        older_than: Duration | datetime,
        *,
        state: State | str | Iterable[State | str] | None = None,
        limit: int | None = None,
        on_progress: Progress | None = None,
    ) -> BulkResult:
        """Remove jobs that ended so long ago, or before an instant; those not finished: began.

        Args:
            older_than: an age by the store's clock, such as `"7d"`, or an aware `datetime`.
            state: which; completed, dead and cancelled ones if it is left out.
            limit: remove so many at most, the oldest first.
            on_progress: see `BulkOptions`.

        Raises:
            DeclarationError: it is no age, or a state is unknown or active.
        """
        if older_than is None:  # an unset setting would mean every age
            raise DeclarationError("older_than is None, which is no age. Say one, such as '7d'.")
        return await self.remove(
            state=state if state is not None else KEPT,
            until=older_than,
            limit=limit,
            on_progress=on_progress,
        )

    async def obliterate(
        self, *, force: bool = False, on_progress: Progress | None = None
    ) -> BulkResult:
        """Remove every job of the queue, and forget its settings.

        What stays is where it moved to, the limits that tasks declare, and its defaults.

        The queue is paused meanwhile. Its name stays known to the store if it ever had settings.

        Args:
            force: remove running jobs, too: what their handlers write is refused from then on.
            on_progress: see `BulkOptions`.

        Raises:
            JobConflict: jobs are running, and `force` was not said. Nothing was removed.
        """
        if not isinstance(force, bool):
            raise DeclarationError(f"force {brief(force)} is neither True nor False.")
        connection = await self._connection()
        was = await self.settings()
        await connection.change_settings(self.name, lambda one: replace(one, paused=True))
        active = (await connection.driver.counts(self.name))[State.ACTIVE]
        if active and not force:
            await connection.change_settings(self.name, lambda one: replace(one, paused=was.paused))
            raise JobConflict(
                f"{active} jobs of queue {self.name!r} are running: nothing was removed. Wait for "
                f"them, cancel them, or say force=True."
            )
        result = await self._empty(on_progress)
        await connection.change_settings(self.name, forgotten)
        return result

    async def _empty(self, on_progress: Progress | None) -> BulkResult:
        """Remove everything, and what came meanwhile."""
        connection = await self._connection()
        removed = BulkResult()
        for _ in range(EMPTYINGS):
            options = Options(on_progress=on_progress)
            where = prepared(ERASE, Filter(), everything=True)
            one = await Bulk(connection, self.name, where, ERASE, options).run()
            removed = BulkResult(
                matched=removed.matched + one.matched, done=removed.done + one.done
            )
            if not sum((await connection.driver.counts(self.name)).values()):
                break
        return removed

    async def _bulk(self, verb: Verb, keywords: Any) -> BulkResult:
        where, options, everything = options_of(keywords)
        where = prepared(verb, where, everything=everything)
        connection = await self._connection()
        return await Bulk(connection, self.name, where, verb, options).run()


def forgotten(settings: QueueSettings) -> QueueSettings:
    """Return what stays of settings that are forgotten.

    That is where the queue moved, and what apps that go on have declared.
    """
    return QueueSettings(
        rev=settings.rev,
        moved_to=settings.moved_to,
        lines={name: one for name, one in settings.lines.items() if one.declared is not None},
        defaults=settings.defaults,
    )


def _states(*states: State) -> frozenset[State]:
    return frozenset(states)


def cancelling(reason: str | None) -> Verb:
    """Return the verb that cancels jobs for a reason.

    Raises:
        DeclarationError: the reason is no text, or a long one.
    """
    text = checked_reason(reason)

    def change(job: JobRecord, _: frozenset[State]) -> Transition | None:
        asked = job.state is State.ACTIVE and job.cancel_requested
        return None if asked else transition.cancel(job.ref, job.policy.cancelled, text)

    living = PENDING | {State.ACTIVE}
    return Verb(name="cancel", usual=living, possible=living, change=change)


def reprioritising(priority: int) -> Verb:
    """Return the verb that gives jobs another priority."""

    def change(job: JobRecord, _: frozenset[State]) -> Transition | None:
        return None if job.priority == priority else transition.reprioritise(job.ref, priority)

    return Verb(name="reprioritise", usual=PENDING, possible=PENDING, change=change)


RETRY: Final = Verb(
    name="retry",
    usual=_states(State.DEAD),
    possible=KEPT,
    change=lambda job, states: transition.redrive(job.ref, states),
)
PROMOTE: Final = Verb(
    name="promote",
    usual=_states(State.DELAYED),
    possible=_states(State.DELAYED),
    change=lambda job, _: transition.promote(job.ref),
    once=True,
)
REMOVE: Final = Verb(
    name="remove",
    usual=PENDING | KEPT,
    possible=PENDING | TERMINAL,
    change=lambda job, states: transition.remove(job.ref, states),
)
HOLD: Final = Verb(
    name="hold",
    usual=_states(State.WAITING, State.DELAYED),
    possible=_states(State.WAITING, State.DELAYED),
    change=lambda job, _: transition.hold(job.ref),
)
UNHOLD: Final = Verb(
    name="unhold",
    usual=_states(State.BLOCKED),
    possible=_states(State.BLOCKED),
    change=lambda job, _: transition.unblock(job.ref, BlockedCause.HOLD, job.run_at),
    cause=BlockedCause.HOLD,
)
ERASE: Final = Verb(
    name="obliterate",
    usual=frozenset(State),
    possible=frozenset(State),
    change=lambda job, _: transition.erase(job.ref),
)
