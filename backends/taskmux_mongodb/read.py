"""Get, find, counts and queues."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final

from pymongo import ASCENDING, DESCENDING
from taskmux.driver import ConfigError, CorruptRecord, FindAsk, JobRecord, Page, Ref, State

from taskmux_mongodb.records import LINED, REMOVED, Document, key_of, packed, readable, record
from taskmux_mongodb.store import Store

__all__ = ["counts", "find", "get", "queues"]

_STORED: Final = {state: [state.value] for state in State} | {State.WAITING: [LINED, "waiting"]}
"""The states of documents, by those of jobs."""

_CURSOR: Final = re.compile(r"(-?\d{1,19}|None):(-?\d{1,19}|None)")
_LARGEST: Final = 2**63 - 1
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
    documents = await found.limit(ask.looks + 1).to_list(None)
    jobs: list[JobRecord] = []
    needles, corrupt, looked, last = _needles(ask), list[Any](), 0, None
    kind = None if ask.error is None else ask.error.encode()
    cursor = None
    for document in documents:
        if last is not None and (looked == ask.looks or len(jobs) == ask.limit):
            cursor = ":".join(str(last.get(name)) for name in order)
            break
        looked, last = looked + 1, document
        if _may_be_wanted(document, needles, kind):
            some, bad = readable([document])
            jobs += filter(ask.wants, some)
            corrupt += bad
    await store.set_aside(corrupt)
    return Page(jobs, cursor, store.clock.earliest())


def _needles(ask: FindAsk) -> list[bytes]:
    """Return what the body of a wanted job has in it: most others need not be decoded."""
    wanted = [] if ask.task is None else [packed("task") + packed(ask.task)]
    return wanted if ask.tag is None else [*wanted, packed(ask.tag)]


def _may_be_wanted(document: Document, needles: Sequence[bytes], kind: bytes | None) -> bool:
    """Say whether a document may be a wanted job, or cannot be read."""
    body, error = document.get("body"), document.get("error", b"")
    if not isinstance(body, bytes) or not isinstance(error, bytes):
        return True
    return all(needle in body for needle in needles) and (kind is None or kind in error)


def _after(ask: FindAsk, order: tuple[str, str]) -> Document:
    if ask.starts_at is not None:
        return {order[0]: {"$lte" if ask.newest else "$gte": ask.starts_at}}
    if ask.cursor is None:
        return {}
    match = _CURSOR.fullmatch(ask.cursor)
    major, minor = (0, 0) if match is None else map(_place, match.groups())
    if match is None or max(abs(major or 0), abs(minor or 0)) > _LARGEST:
        raise ConfigError(f"{ask.cursor!r} is no cursor. Take it from the page before.")
    beyond = "$lt" if ask.newest else "$gt"
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
