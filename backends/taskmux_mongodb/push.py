"""Push: insert first, then ask why what was refused was refused."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError
from taskmux.driver import PENDING, NewJob, Op, Pushed, PushStatus, State, StoreBusy

from taskmux_mongodb import lines_ring
from taskmux_mongodb.bell import RINGS_AGAIN
from taskmux_mongodb.deadlines import allowance, parts
from taskmux_mongodb.dedup import owners_of
from taskmux_mongodb.failures import store_error
from taskmux_mongodb.lines_count import over, sizes_of
from taskmux_mongodb.records import LINED, REMOVED, Document, key_of, new_document, owned_by
from taskmux_mongodb.replacing import Replacement, meet, replace_all, replaced_before
from taskmux_mongodb.restrictions import Restriction
from taskmux_mongodb.store import DUPLICATE_KEY, Store

__all__ = ["moved_queues", "placed", "push"]

_ROUNDS: Final = 100
"""How often a batch is looked at again: each round settles an item, or somebody else made way."""


_UNCLAIMED: Final = [LINED, *sorted(state.value for state in PENDING)]
"""The states of documents that no worker has had."""


class _Item(msgspec.Struct):
    """One job on its way in. `inserted`: this very call stored it; then `rev` is its number."""

    place: int
    new: NewJob
    born: str
    key: str
    rev: int = 0
    inserted: bool = False
    waits: bool = True
    """False: it was stored behind the owner of its key."""

    @property
    def replaces(self) -> bool:
        """Whether it may get its content into another job."""
        dedup = self.new.job.dedup
        return dedup is not None and (dedup.replace or dedup.latest)


async def push(store: Store, op: Op, jobs: Sequence[NewJob]) -> list[Pushed]:
    """Create jobs; see `Driver.push`.

    What was inserted while its queue moved is taken back, unless a worker has it already: then it
    counts as created here.
    """
    store.operations.begin("push", op)
    answers: dict[int, Pushed] = {}
    name = str(op)
    items = [
        _Item(place, new, f"{name}:{place}", key_of(new.job)) for place, new in enumerate(jobs)
    ]
    queues = {new.job.queue for new in jobs}
    restricted = await store.restrictions.of(queues)
    if restricted:
        await _refuse(store, items, restricted, answers)
    queues -= moved_queues(restricted).keys()
    # Rung beside the insert and not after it: whoever hears it looks when the jobs are there.
    store.bell.ring(queues)
    began = time.monotonic()
    left = [item for item in items if item.place not in answers]
    for _ in range(_ROUNDS):
        if not left:
            break
        left = await _round(store, left, answers)
    else:
        raise StoreBusy("Others keep creating and removing the same jobs. Send it again.")
    await _line_up(store, items, answers)
    if time.monotonic() - began > RINGS_AGAIN:
        store.bell.ring(queues)
    late = store.restrictions.doubtful(queues)
    if late:
        await _take_back(store, items, moved_queues(await store.restrictions.read(late)), answers)
    return [answers[place] for place in range(len(jobs))]


async def _refuse(
    store: Store, items: list[_Item], restricted: dict[str, Restriction], answers: dict[int, Pushed]
) -> None:
    """Answer for jobs whose queue has moved or whose group is full.

    But for those that this operation created before: to them that is still the answer.
    """
    moved, sizes = moved_queues(restricted), sizes_of(restricted)
    refused = {
        item.place: Pushed(PushStatus.MOVED, moved[item.new.job.queue])
        for item in items if item.new.job.queue in moved
    }  # fmt: skip
    staying = [item for item in items if item.place not in refused]
    if sizes:
        full = await over(store.jobs, sizes, [item.new.job for item in staying])
        refused |= {
            staying[at].place: Pushed(PushStatus.FULL, staying[at].new.job.id) for at in full
        }
    if refused:
        keys = [items[place].key for place in refused]
        found = await store.jobs.find({"_id": {"$in": keys}}, {"born": 1}).to_list(None)
        born = {one["_id"]: one.get("born") for one in found}
        for place, answer in refused.items():
            item = items[place]
            ours = born.get(item.key) == item.born
            answers[place] = Pushed(PushStatus.CREATED, item.new.job.id) if ours else answer


def moved_queues(restricted: dict[str, Restriction]) -> dict[str, str]:
    """Return where the queues are that have moved, of those that are restricted."""
    return {
        name: one.settings.moved_to
        for name, one in restricted.items()
        if one.settings.moved_to is not None
    }


async def _line_up(store: Store, items: list[_Item], answers: dict[int, Pushed]) -> None:
    """Give the lines that jobs have come to a place in the ring."""
    come: dict[lines_ring.Place, int] = {}
    known: set[lines_ring.Place] = set()
    for item in items:
        job = item.new.job
        if job.group is None or job.state is not State.WAITING or not item.waits:
            continue
        if item.inserted:
            come.setdefault((job.queue, job.group), item.rev)
        elif answers[item.place].status is PushStatus.CREATED:
            known.add((job.queue, job.group))
    if come:
        await lines_ring.join(store, come)
    if known:  # an earlier try may have died before it came to this
        await lines_ring.join_if_waiting(store, known)


async def _round(store: Store, items: list[_Item], answers: dict[int, Pushed]) -> list[_Item]:
    """Try the first item of each id and key; return what must be tried again."""
    first, later = _first_of_each(items)
    replacing = {item.born: item for item in first if item.replaces}
    if replacing:
        news = {born: item.new for born, item in replacing.items()}
        for born, answer in (await replaced_before(store, news)).items():
            answers[replacing[born].place] = answer
        # Mostly there is an owner, so that an insert would be in vain.
        unknown = [item for item in replacing.values() if item.place not in answers]
        await _explain(store, unknown, answers)
        first = [item for item in first if item.place not in answers]
    refused = await _insert(store, first)
    for item in first:
        if item.place not in refused:
            item.inserted = True
            answers[item.place] = Pushed(PushStatus.CREATED, item.new.job.id)
    unsettled = [item for item in first if item.place in refused]
    if unsettled:
        await _explain(store, unsettled, answers)
    return [item for item in unsettled if item.place not in answers] + later


def _first_of_each(items: list[_Item]) -> tuple[list[_Item], list[_Item]]:
    taken: set[Any] = set()
    first: list[_Item] = []
    later: list[_Item] = []
    for item in items:
        job = item.new.job
        names = {item.key} if job.dedup is None else {item.key, (job.queue, job.dedup.key)}
        (first if taken.isdisjoint(names) else later).append(item)
        taken |= names
    return first, later


def placed(store: Store, new: NewJob, born: str, fence: int = 0) -> Document:
    """Return the document of a job created now; its fence is above the one given."""
    document = _placed(store, new, born, store.clock.earliest(), store.numbers.next())
    document["fence"] = max(document["fence"], fence + 1)
    return document


def _placed(store: Store, new: NewJob, born: str, now: int, seq: int) -> Document:
    job = new.job
    if job.dedup is not None:
        document = _ranked(store, new, born, now, seq)
        return document | owned_by(job, store.clock.latest())
    return _ranked(store, new, born, now, seq)


def _ranked(store: Store, new: NewJob, born: str, now: int, seq: int) -> Document:
    job = new.job
    if job.state is State.WAITING:
        return new_document(job, born, now, -seq if job.lifo else seq, rank=job.priority)
    if job.state is not State.DELAYED:
        return new_document(job, born, now, seq, rank=now)
    due = store.clock.latest() + new.delay if job.run_at is None else job.run_at
    return new_document(replace(job, run_at=due), born, now, seq, rank=due)


async def _insert(store: Store, items: list[_Item]) -> set[int]:
    """Insert; return the places of the items whose id or key is taken."""
    now, documents = store.clock.earliest(), []
    for item, number in zip(items, store.numbers.take(len(items)), strict=True):
        item.rev = number
        documents.append(_placed(store, item.new, item.born, now, number))
    taken: set[int] = set()
    weights = [len(document["body"]) for document in documents]
    for part in parts(weights):
        with allowance(store.patience, sum(weights[part])):
            refused = await _insert_part(store, documents[part])
        taken |= {items[part.start + at].place for at in refused}
    return taken


async def _insert_part(store: Store, documents: list[Document]) -> set[int]:
    try:
        await store.jobs.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        details: Any = error.details
        if details.get("writeConcernErrors"):
            raise
        for one in details["writeErrors"]:
            if one["code"] != DUPLICATE_KEY:
                raise store_error(one["code"], one["errmsg"]) from None
        return {one["index"] for one in details["writeErrors"]}
    return set()


async def _explain(store: Store, items: list[_Item], answers: dict[int, Pushed]) -> None:
    """Answer refused items; those whose obstacle is gone stay unanswered."""
    shown = {"born": 1, "state": 1, "rev": 1, "ops": 1, "fence": 1}
    found = store.jobs.find({"_id": {"$in": [item.key for item in items]}}, shown)
    there = {one["_id"]: one for one in await found.to_list(None)}
    owners = await owners_of(store, [item.new.job for item in items if item.key not in there])
    planned: list[tuple[_Item, Replacement]] = []
    for item in items:
        document = there.get(item.key)
        job = item.new.job
        if document is None:
            planned += await _meet_owner(store, item, answers, owners.get(item.key))
        elif document.get("born") == item.born:
            answers[item.place] = Pushed(PushStatus.CREATED, job.id)
        elif document.get("state") != REMOVED:
            answers[item.place] = Pushed(PushStatus.DUPLICATE, job.id)
        else:
            planned += await _replace(store, item, document, answers)
    if planned and await replace_all(store, [one for _, one in planned]):
        answers |= {item.place: one.answer for item, one in planned}


async def _meet_owner(
    store: Store,
    item: _Item,
    answers: dict[int, Pushed],
    owner: Document | None,
    tombstone: Document | None = None,
) -> list[tuple[_Item, Replacement]]:
    """Answer a job whose key has an owner, unless another job is to get its content."""
    if owner is None:
        return []
    met = await meet(store, item.new, item.born, owner, tombstone)
    if isinstance(met, Pushed):
        answers[item.place] = met
    elif isinstance(met, Replacement):
        return [(item, met)]
    elif met is not None:
        item.rev, item.inserted, item.waits = met["rev"], True, False
        answers[item.place] = Pushed(PushStatus.CREATED, item.new.job.id)
    return []


async def _replace(
    store: Store, item: _Item, tombstone: Document, answers: dict[int, Pushed]
) -> list[tuple[_Item, Replacement]]:
    """Put a new job where a removed one was; what that remembered stays remembered.

    If its key has an owner, that is met as by `_meet_owner`.
    """
    document = placed(store, item.new, item.born, fence=tombstone["fence"])
    document["ops"] = tombstone["ops"]
    there = {"_id": item.key, "rev": tombstone["rev"]}
    written = await store.write([ReplaceOne(there, document)])
    if written.errors:
        owners = await owners_of(store, [item.new.job])
        return await _meet_owner(store, item, answers, owners.get(item.key), tombstone)
    if written.matched:
        item.rev, item.inserted = document["rev"], True
        answers[item.place] = Pushed(PushStatus.CREATED, item.new.job.id)
    return []


async def _take_back(
    store: Store, items: list[_Item], moved: dict[str, str], answers: dict[int, Pushed]
) -> None:
    """Delete what this call inserted into queues that have moved meanwhile."""
    emptied: set[lines_ring.Place] = set()
    for item in items:
        job = item.new.job
        if not item.inserted or job.queue not in moved:
            continue
        untouched = {"_id": item.key, "born": item.born, "state": {"$in": _UNCLAIMED}}
        if (await store.jobs.delete_one(untouched)).deleted_count:
            answers[item.place] = Pushed(PushStatus.MOVED, moved[job.queue])
            if job.group is not None:
                emptied.add((job.queue, job.group))
    if emptied:
        await lines_ring.leave(store, emptied)
