"""A second job with a key: what becomes of it, and of the job that gets its content."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace
from pymongo import ReplaceOne
from pymongo.errors import DuplicateKeyError
from taskmux.driver import (
    BlockedCause,
    CorruptRecord,
    JobRecord,
    Meeting,
    NewJob,
    Pushed,
    PushStatus,
    State,
    meeting,
    replaced,
)

from taskmux_mongodb import lines_common, lines_ring
from taskmux_mongodb.dedup import hand_over
from taskmux_mongodb.moves import MEMORY_MS
from taskmux_mongodb.records import (
    OPS_KEPT,
    Document,
    key_of,
    new_document,
    owned_by,
    owned_key,
    record,
)
from taskmux_mongodb.store import Store, Write

__all__ = ["Replacement", "meet", "replace_all", "replaced_before"]


class Replacement(msgspec.Struct, frozen=True):
    """The write that gives a job the content of a new one, and what it is answered.

    `left`: the line that the job leaves by it.
    """

    mark: str
    answer: Pushed
    same: Document
    written: Document
    left: lines_ring.Place | None


async def replaced_before(store: Store, news: dict[str, NewJob]) -> dict[str, Pushed]:
    """Look what is left of earlier tries; return the answers to those that replaced a job.

    Args:
        store: where.
        news: the new jobs that may replace others, by the marks of their operations.
    """
    for new in news.values():
        if new.job.dedup is not None and new.job.dedup.latest:
            await hand_over(store, new.job.queue, owned_key(new.job.queue, new.job.dedup.key))
    planned = await store.replacements.find({"_id": {"$in": list(news)}}).to_list(None)
    if not planned:
        return {}
    await store.barrier()  # what a failover may still undo is not answered for
    found = store.jobs.find({"_id": {"$in": [one["job"] for one in planned]}}, {"ops": 1})
    ops = {one["_id"]: one.get("ops", ()) for one in await found.to_list(None)}
    return {
        one["_id"]: Pushed(PushStatus.REPLACED, one["job"][len(news[one["_id"]].job.queue) + 1 :])
        for one in planned
        if one["_id"] in ops.get(one["job"], ())
    }


async def meet(
    store: Store, new: NewJob, mark: str, owner: Document, tombstone: Document | None
) -> Pushed | Replacement | Document | None:
    """Let a new job meet the owner of its key.

    Args:
        store: where.
        new: the new job.
        mark: its operation.
        owner: the owner's document as it was read.
        tombstone: what is left of a removed job of the new one's id.

    Returns:
        The answer; what is to be replaced; or the document that was stored as the owner's
        successor. None: something has changed meanwhile, so look again.
    """
    job, dedup = new.job, new.job.dedup
    refused = Pushed(PushStatus.DEDUPLICATED, owner["_id"][len(job.queue) + 1 :])
    if dedup is None or not (dedup.replace or dedup.latest):
        return refused
    successor = await store.jobs.find_one({"follows": owner["owns"]}) if dedup.latest else None
    try:
        known = record(owner) if "body" in owner else None
        after = None if successor is None else record(successor)
    except CorruptRecord:
        await store.set_aside([owner["_id"], *([successor["_id"]] if successor else [])])
        return None
    match meeting(job, None if known is None else known.state, followed=after is not None):
        case Meeting.REPLACES_SUCCESSOR if successor is not None and after is not None:
            return _planned(store, new, mark, successor, after)
        case Meeting.REPLACES_OWNER if known is not None:
            return _planned(store, new, mark, owner, known)
        case Meeting.SUCCEEDS:
            return await _follow(store, new, mark, owner["owns"], tombstone)
        case _:
            return refused


def _planned(
    store: Store, new: NewJob, mark: str, before: Document, was: JobRecord
) -> Pushed | Replacement:
    """Plan to give a stored job the content of a new one, if that was not done before."""
    answer = Pushed(PushStatus.REPLACED, was.id)
    if mark in before.get("ops", ()):
        return answer
    latest = store.clock.latest()
    due = latest + new.delay if new.job.run_at is None else new.job.run_at
    job = replaced(was, new.job, due)
    written = new_document(job, before["born"], was.created_at, before["seq"], _rank(job))
    written |= {
        "fence": was.fence,
        "rev": store.numbers.next(),
        "ops": [*before.get("ops", ()), mark][-OPS_KEPT:],
        "restated": job.state is not was.state,
    }
    del written["owns"]
    written.pop("unwaited", None)
    kept = ("unwaited", "follows", "followed", "heed")
    written |= {name: before[name] for name in kept if name in before}
    if "owns" in before:
        written |= owned_by(job, latest)
    same = {"_id": before["_id"]} | {name: before[name] for name in ("rev", "state", "fence")}
    left = was.group if was.state is State.WAITING is not job.state else None
    return Replacement(mark, answer, same, written, None if left is None else (was.queue, left))


async def replace_all(store: Store, planned: Sequence[Replacement]) -> bool:
    """Give jobs the content of new ones, as far as they are as they were read.

    Which jobs is written first: with that a repeat finds them, whatever has become of them since.

    Returns:
        Whether all were written. If not, `replaced_before` tells which ones.
    """
    expire_at = datetime.fromtimestamp((store.clock.latest() + MEMORY_MS) / 1000, UTC)
    plans: list[Write] = [
        ReplaceOne(
            {"_id": one.mark},
            {"_id": one.mark, "job": one.same["_id"], "expire_at": expire_at},
            upsert=True,
        )
        for one in planned
    ]
    # A copy of this very operation may be at work: what it has planned is not touched.
    refused = (await store.write(plans, to=store.replacements)).errors
    ours = [one for at, one in enumerate(planned) if at not in refused]
    if not ours:
        return False
    writes: list[Write] = [ReplaceOne(one.same, one.written) for one in ours]
    weights = [len(one.written["body"]) for one in ours]
    done = await store.write(writes, weights=weights)
    left = [one.left for one in ours if one.left is not None]
    if left:
        await lines_ring.leave(store, left)
    came: dict[str, int] = {}
    for one in ours:
        if one.same["state"] == "waiting":
            queue, rev = one.written["queue"], one.same["rev"]
            came[queue] = min(rev, came.get(queue, rev))
    if came:
        await lines_common.note_left(store, came)
    return done.matched == len(planned)


def _rank(job: JobRecord) -> int:
    if job.state is State.WAITING:
        return job.priority
    return job.created_at if job.state is State.BLOCKED else job.run_at or 0


async def _follow(
    store: Store, new: NewJob, mark: str, owns: str, tombstone: Document | None
) -> Document | None:
    """Store a new job as the one that waits for the owner of its key, if there is none yet."""
    job = new.job
    run_at = job.run_at
    if job.state is State.DELAYED and run_at is None:
        run_at = store.clock.latest() + new.delay
    now = store.clock.earliest()
    job = replace(job, state=State.BLOCKED, cause=BlockedCause.DEDUP, run_at=run_at)
    written = new_document(job, mark, now, store.numbers.next(), now)
    del written["owns"]
    written["follows"] = owns
    try:
        if tombstone is None:
            await store.jobs.insert_one(written)
        else:
            written["ops"] = tombstone["ops"]
            written["fence"] = max(written["fence"], tombstone["fence"] + 1)
            same = {"_id": key_of(job), "rev": tombstone["rev"]}
            if not (await store.jobs.replace_one(same, written)).matched_count:
                return None
    except DuplicateKeyError:
        return None
    await hand_over(store, job.queue, owns)
    return written
