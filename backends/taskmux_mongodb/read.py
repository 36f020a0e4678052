"""Get, find, counts and queues."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from pymongo import ASCENDING, DESCENDING
from taskmux.driver import CorruptRecord, FindAsk, JobRecord, Page, Ref, State

from taskmux_mongodb.records import LINED, REMOVED, Document, key_of, readable, record
from taskmux_mongodb.store import Store

__all__ = ["counts", "find", "get", "queues"]

_STORED: Final = {state: [state.value] for state in State} | {State.WAITING: [LINED, "waiting"]}
"""The states of documents, by those of jobs."""

_RANKED: Final = ("rank", "seq")
_CREATED: Final = ("created_at", "seq")
"""Active jobs are few, and their rank is their priority: they are sorted when asked for."""


async def get(store: Store, refs: Sequence[Ref]) -> list[JobRecord | None]:
    """Return records in the order asked; see `Driver.get`."""
    keys = [key_of(ref) for ref in refs]
    found = await store.jobs.find({"_id": {"$in": keys}}).to_list(None) if keys else []
    jobs: dict[str, JobRecord] = {}
    for document in found:
        if document.get("state") == REMOVED:
            continue
        try:
            jobs[document["_id"]] = record(document)
        except CorruptRecord:
            await store.set_aside([document["_id"]])
            raise
    return [jobs.get(key) for key in keys]


async def find(store: Store, ask: FindAsk) -> Page:
    """Return one page; see `Driver.find`."""
    order = _CREATED if ask.state is State.ACTIVE else _RANKED
    way = DESCENDING if ask.newest else ASCENDING
    wanted = {"queue": ask.queue, "state": {"$in": _STORED[ask.state]}} | _after(ask, order)
    found = store.jobs.find(wanted).sort([(name, way) for name in order])
    documents = await found.limit(ask.limit + 1).to_list(None)
    page = documents[: ask.limit]
    cursor = ":".join(str(page[-1].get(name)) for name in order) if page else None
    jobs, corrupt = readable(page)
    await store.set_aside(corrupt)
    if ask.tag is not None:
        jobs = [job for job in jobs if ask.tag in job.tags]
    return Page(jobs, cursor if len(documents) > len(page) else None)


def _after(ask: FindAsk, order: tuple[str, str]) -> Document:
    if ask.cursor is None:
        return {}
    beyond = "$lt" if ask.newest else "$gt"
    major, minor = (_place(text) for text in ask.cursor.split(":"))
    # The first condition bounds the walk through the index, the second skips what was seen.
    return {
        order[0]: {f"{beyond}e": major},
        "$or": [{order[0]: {beyond: major}}, {order[1]: {beyond: minor}}],
    }


def _place(text: str) -> Any:
    return None if text == "None" else int(text)


async def counts(store: Store, queue: str) -> dict[State, int]:
    """Return how many jobs are in each state, counted in the index; see `Driver.counts`."""
    stored = [(state, name) for state, names in _STORED.items() for name in names]
    counted = await asyncio.gather(
        *(store.jobs.count_documents({"queue": queue, "state": name}) for _, name in stored)
    )
    found = dict.fromkeys(State, 0)
    for (state, _), count in zip(stored, counted, strict=True):
        found[state] += count
    return found


async def queues(store: Store) -> list[str]:
    """Return the names of queues that hold a job or have settings; see `Driver.queues`."""
    holding, set_up = await asyncio.gather(
        store.jobs.distinct("queue"), store.queues.distinct("_id")
    )
    return sorted(name for name in {*holding, *set_up} if isinstance(name, str))
