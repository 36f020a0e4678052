"""Walking the jobs that a filter means, page by page, with a cursor to go on from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final

from msgspec.structs import replace

from taskmux.api.batch import resend
from taskmux.api.filters import FLOW, Filter, instant
from taskmux.api.reconcile import read_each
from taskmux.driver import Driver, FindAsk, Page
from taskmux.model.errors import DeclarationError
from taskmux.model.job import JobRecord, Ref, State
from taskmux.model.units import brief

__all__ = ["TRIES", "check_cursor", "pages", "step", "store_time"]

PAGE: Final = 500
"""Records that one page of a walk asks for."""

SCAN: Final = 1000
"""Records that a store looks at for one page, where it filters."""

TRIES: Final = 3

BY_IDS: Final = "ids"
"""What a cursor begins with that counts ids."""


async def store_time(driver: Driver, queue: str) -> int:
    """Return the store's time, epoch milliseconds."""
    ask = FindAsk(queue=queue, state=State.MOVED, limit=1)
    return (await resend(partial(driver.find, ask), TRIES)).now


async def pages(
    driver: Driver,
    queue: str,
    where: Filter,
    *,
    newest: bool = False,
    cursor: str | None = None,
    size: int = PAGE,
) -> AsyncIterator[Page]:
    """Yield the jobs that a filter means, in pages of at most `size`; never all at once in memory.

    States come in the order of `FLOW`, jobs of one state as `FindAsk` orders them, `newest` the
    other way round. A page may be short or empty. Its cursor is where a later walk with the same
    filter and order goes on; the last page has none. A job that stays put is met once; one whose
    state changes during the walk may be met again in the new one.

    Raises:
        DeclarationError: the cursor is none of this search's.
        StoreError: the store refused it, or cannot be reached.
    """
    if where.relative:
        where = where.fixed(await store_time(driver, queue))
    while True:
        page = await step(driver, queue, where, newest=newest, cursor=cursor, limit=size)
        yield page
        cursor = page.cursor
        if cursor is None:
            return


async def step(
    driver: Driver, queue: str, where: Filter, *, newest: bool, cursor: str | None, limit: int
) -> Page:
    """Return the next page of a search, of at most `limit` jobs: one look at some records.

    Durations of the filter go by what they were counted from; see `Filter.at`.

    Raises:
        DeclarationError: the cursor is none of this search's.
    """
    if where.ids is not None:
        return await _step_by_ids(driver, queue, where, cursor, limit)
    states = where.states or FLOW
    states = states[::-1] if newest else states
    at, inner = _position(states, cursor)
    # What the store cannot tell is looked at here, so it gives more than will match.
    looked = max(limit, PAGE) if where.looks_inside else limit
    ask = FindAsk(
        queue=queue,
        state=states[at],
        task=where.task,
        tag=where.tag,
        cause=where.cause,
        error=where.error,
        start=where.until if newest else where.since,
        newest=newest,
        cursor=inner,
        limit=looked,
        scan=SCAN,
    )
    page = await resend(partial(driver.find, ask), TRIES)
    found = [number for number, job in enumerate(page.jobs) if where.matches(job)]
    while len(found) > limit:  # its cursor would skip some: ask for the page that ends with ours
        shorter = replace(ask, limit=found[limit - 1] + 1)
        page = await resend(partial(driver.find, shorter), TRIES)
        found = [number for number, job in enumerate(page.jobs) if where.matches(job)]
    jobs = [page.jobs[number] for number in found]
    following: str | None = f"{states[at]}~{page.cursor}"
    if page.cursor is None or _is_beyond(where, page.jobs, newest=newest):
        following = f"{states[at + 1]}~" if at + 1 < len(states) else None
    return replace(page, jobs=jobs, cursor=following)


def _position(states: Sequence[State], cursor: str | None) -> tuple[int, str | None]:
    if cursor is None:
        return 0, None
    name, mark, inner = str(cursor).partition("~")
    if not mark or name not in states:
        raise _no_cursor(cursor)
    return states.index(State(name)), inner or None


def _place(ids: Sequence[str], cursor: str | None) -> int:
    """Return how many ids come before a cursor."""
    name, _, number = (f"{BY_IDS}~0" if cursor is None else str(cursor)).partition("~")
    if name != BY_IDS or not number.isdecimal() or int(number) > len(ids):
        raise _no_cursor(cursor)
    return int(number)


def check_cursor(where: Filter, cursor: str | None) -> None:
    """See that a cursor may be one of a search, before anything is sent.

    Raises:
        DeclarationError: it cannot be.
    """
    if where.ids is None:
        _position(where.states or FLOW, cursor)
    else:
        _place(where.ids, cursor)


def _no_cursor(cursor: object) -> DeclarationError:
    return DeclarationError(
        f"{brief(cursor)} is no cursor of this search. Take it from the page before, with the same "
        f"filter and order, or None for the first page."
    )


def _is_beyond(where: Filter, jobs: Sequence[JobRecord], *, newest: bool) -> bool:
    """Say whether all further jobs of a state are outside `since` or `until`."""
    if not jobs or jobs[-1].state in {State.WAITING, State.DELAYED}:
        return False  # these are not in the order of that instant
    at = instant(jobs[-1])
    if newest:
        return where.since is not None and at < where.since
    return where.until is not None and at > where.until


async def _step_by_ids(
    driver: Driver, queue: str, where: Filter, cursor: str | None, limit: int
) -> Page:
    ids = where.ids or ()
    begin = _place(ids, cursor)
    end = begin + limit
    refs = [Ref(queue, job_id) for job_id in ids[begin:end]]
    found = await resend(lambda: read_each(driver, refs), TRIES) if refs else []
    jobs = [job for job in found if isinstance(job, JobRecord) and where.matches(job)]
    return Page(jobs, f"{BY_IDS}~{end}" if end < len(ids) else None)
