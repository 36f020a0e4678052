"""Deduplication keys: who owns one, what a second job does, and who comes next.

A job owns its key by the field `owns` of its document, `queue/key`, which a unique index keeps to
one document at a time; with `until`, before that instant only, and then finished or even as a
tombstone. The job that waits for an owner to end has the same text in `follows`, unique as well.

Who adds such a job marks its owner as `followed` afterwards, and whoever ends a marked owner lets
the job go afterwards. Killed in between, nothing is lost: `hand_over` finds by the two fields alone
what is to be done, may be done at any time, and pruning does it for all that wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pymongo.errors import DuplicateKeyError
from taskmux.driver import (
    CorruptRecord,
    JobRecord,
    State,
    StoreBusy,
    succeeding,
)

from taskmux_mongodb import lines_common, lines_ring
from taskmux_mongodb.records import (
    Document,
    key_of,
    owned_by,
    owned_key,
    record,
    stored_state,
)
from taskmux_mongodb.store import Store

__all__ = [
    "dedup_owner",
    "hand_over",
    "hand_over_all",
    "owners_of",
    "release_dedup",
]

_ROUNDS: Final = 100
_FREE: Final = {"owns": "", "until": "", "followed": ""}


async def owners_of(store: Store, jobs: Sequence[JobRecord]) -> dict[str, Document]:
    """Return the documents that own the keys of jobs, by the jobs' own `_id`s.

    One whose time is over makes way first.
    """
    asked = {
        key_of(job): (job.queue, owned_key(job.queue, job.dedup.key))
        for job in jobs if job.dedup is not None
    }  # fmt: skip
    if not asked:
        return {}
    replaces = any(job.dedup and (job.dedup.replace or job.dedup.latest) for job in jobs)
    shown = None if replaces else {"body": 0}  # it may be large
    found = store.jobs.find({"owns": {"$in": [owns for _, owns in asked.values()]}}, shown)
    owners = {one["owns"]: one for one in await found.to_list(None)}
    for queue, owns in asked.values():
        if owns in owners and _is_over(store, owners[owns]):
            after = await _owner(store, queue, owns)
            owners.pop(owns)
            owners |= {} if after is None else {owns: after}
    return {job: owners[owns] for job, (_, owns) in asked.items() if owns in owners}


async def _owner(store: Store, queue: str, owns: str) -> Document | None:
    for _ in range(_ROUNDS):
        found: Document | None = await store.jobs.find_one({"owns": owns})
        if found is None or not _is_over(store, found):
            return found
        await _release(store, found)
        await hand_over(store, queue, owns)
    raise _busy()


def _is_over(store: Store, document: Document) -> bool:
    return "until" in document and document["until"] <= store.clock.earliest()


def _busy() -> StoreBusy:
    return StoreBusy("Others keep changing the owner of a deduplication key. Send it again.")


async def _release(store: Store, owner: Document) -> bool:
    """Let a document own its key no more, if it still does as it was read."""
    same = {"_id": owner["_id"], "owns": owner["owns"], "until": owner.get("until")}
    written = {"$unset": _FREE, "$set": {"rev": store.numbers.next()}}
    return await _rewrite(store, owner, same, written)


async def _rewrite(store: Store, owner: Document, same: Document, written: Document) -> bool:
    """Write a document if it is as it was read, with a new `rev`; return whether it was.

    The common line's turn follows from when its jobs came, which `rev` tells no more.
    """
    done = bool((await store.jobs.update_one(same, written)).matched_count)
    if done and owner["state"] == "waiting":
        await lines_common.note_left(store, {owner["queue"]: owner["rev"]})
    return done


async def dedup_owner(store: Store, queue: str, key: str) -> str | None:
    """Return the id of a key's owner; see `Driver.dedup_owner`."""
    found = await _owner(store, queue, owned_key(queue, key))
    return None if found is None else str(found["_id"][len(queue) + 1 :])


async def release_dedup(store: Store, queue: str, key: str, owner: str) -> bool:
    """Free a key that a job owns; see `Driver.release_dedup`."""
    owns = owned_key(queue, key)
    found = await _owner(store, queue, owns)
    if found is None or found["_id"] != f"{queue}/{owner}" or not await _release(store, found):
        return False
    await hand_over(store, queue, owns)
    return True


# -- who comes next --------------------------------------------------------------------------------


async def hand_over(store: Store, queue: str, owns: str) -> None:
    """Let the job that waits for a key's owner go if there is no owner; else mark the owner."""
    for _ in range(_ROUNDS):
        successor = await store.jobs.find_one({"follows": owns})
        if successor is None:
            return
        owner = await store.jobs.find_one({"owns": owns})
        if owner is not None and "finished_at" not in owner and not _is_over(store, owner):
            if owner.get("followed") or await _mark(store, owner):
                return
            continue
        if owner is not None:
            await _release(store, owner)
        if await _let_go(store, queue, owns, successor):
            return
    raise _busy()


async def _mark(store: Store, owner: Document) -> bool:
    """Mark an owner as followed: a new `rev`, so that an end which was decided looks again."""
    same = {"_id": owner["_id"], "owns": owner["owns"], "finished_at": None}
    marks = {"followed": True, "heed": True, "rev": store.numbers.next()}
    return await _rewrite(store, owner, same, {"$set": marks})


async def _let_go(store: Store, queue: str, owns: str, successor: Document) -> bool:
    """Let a successor own its key and wait; return whether that is done."""
    try:
        job = record(successor)
    except CorruptRecord:
        await store.set_aside([successor["_id"]])
        return True
    state = succeeding(job, store.clock.earliest())
    rev = store.numbers.next()
    given: Document = {"state": stored_state(state, job.group), "rev": rev}
    dropped = {"follows": "", "cause": ""}
    if state is State.WAITING:
        given |= {"rank": job.priority, "seq": store.numbers.next()}
        dropped["unwaited"] = ""
    else:
        given["rank"] = job.run_at
    given |= owned_by(job, store.clock.latest())
    same = {"_id": successor["_id"], "rev": successor["rev"], "follows": owns}
    try:
        done = await store.jobs.update_one(same, {"$set": given, "$unset": dropped})
    except DuplicateKeyError:
        return False
    if not done.matched_count:
        return False
    if job.group is not None and state is State.WAITING:
        await lines_ring.join(store, {(queue, job.group): rev})
    store.bell.ring([queue])
    return True


async def hand_over_all(store: Store, queue: str, limit: int) -> None:
    """Let go whoever waits in a queue for an owner that is none any more."""
    of_queue = {"$gte": owned_key(queue, ""), "$lt": f"{queue}0"}  # "0" comes after "/"
    found = store.jobs.find({"follows": of_queue}, {"follows": 1}).limit(max(1, limit))
    for one in await found.to_list(None):
        await hand_over(store, queue, one["follows"])
