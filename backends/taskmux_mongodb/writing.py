"""What a transition writes into a document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import UNSET
from taskmux.driver import TERMINAL, Keep, Place, State, Transition

from taskmux_mongodb.documents import OPS_KEPT, REMOVED, Document, encode_field, stored_state
from taskmux_mongodb.store import Store

__all__ = ["MEMORY_MS", "Before", "removal", "request", "update"]

MEMORY_MS: Final = 600_000
"""How long a finished or removed job's document stays at least: it remembers operations."""

_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)

_UNLEASED: Final[Document] = {"worker": None, "lease_until": None, "started": False}
_FORGOTTEN: Final = {"expires": "", "expire_at": "", "keep_count": ""}


class Before(msgspec.Struct, frozen=True):
    """What an update depends on: where the job is now, its priority, creation and line."""

    state: State
    priority: int | None = None
    created_at: int = 0
    line: str | None = None


def update(store: Store, one: Transition, target: State, before: Before, mark: str) -> Document:
    """Return the update that brings a job from `before` to `target`; `mark` is its operation."""
    fields = {
        name: value for name, value in msgspec.structs.asdict(one.changes).items()
        if value is not UNSET
    }  # fmt: skip
    extra: Document = {"rev": store.numbers.next(), "state": stored_state(target, before.line)}
    dropped: Document = {}
    if before.state is State.ACTIVE and target is not State.ACTIVE:
        fields |= _UNLEASED
        dropped |= {"claim": "", "lapsed": ""}
    if before.state is State.BLOCKED and target is not State.BLOCKED:
        fields["cause"] = None
    if target not in TERMINAL:
        fields["finished_at"] = None
        dropped |= _FORGOTTEN if before.state in TERMINAL else {}
    elif target is not before.state:
        fields["finished_at"] = now = store.clock.earliest()
        extra |= _retention(now, one.retention)
        if one.retention.count is None:
            dropped["keep_count"] = ""
    extra |= _place(store, one, target, before, fields)
    return _encoded(fields, extra, dropped, mark)


def _place(
    store: Store, one: Transition, target: State, before: Before, fields: Document
) -> Document:
    """Return where the job stands among those of its state; `run_at` goes into the fields."""
    moves = one.to is target
    priority = fields.get("priority", before.priority)
    if target in TERMINAL:
        return {} if fields.get("finished_at") is None else {"rank": fields["finished_at"]}
    if target is State.DELAYED and moves:
        fields["run_at"] = store.clock.latest() + one.delay if one.run_at is None else one.run_at
        return {"rank": fields["run_at"]}
    if target is State.BLOCKED and moves:
        return {"rank": before.created_at}
    place: Document = {}
    if target in {State.WAITING, State.ACTIVE} and priority is not None:
        place["rank"] = priority
    if target is State.WAITING and moves and one.place is not Place.KEEP:
        seq = store.numbers.next()
        place["seq"] = -seq if one.place is Place.FRONT else seq
    return place


def _retention(finished_at: int, keep: Keep) -> Document:
    """Return when a finished document may go, and when the server removes it by itself."""
    fields: Document = {"expires": finished_at + keep.age_ms}
    if keep.count is not None:
        fields["keep_count"] = keep.count
    last = finished_at + max(keep.age_ms, MEMORY_MS)
    if last < _LATEST.timestamp() * 1000:
        fields["expire_at"] = datetime.fromtimestamp(last / 1000, UTC)
    return fields


def _encoded(fields: Document, extra: Document, dropped: Document, mark: str) -> Document:
    given: Document = extra
    for name, value in fields.items():
        stored = encode_field(name, value)
        if stored is None:
            dropped[name] = ""
        else:
            given[name] = stored
    written: Document = {"$set": given, "$push": {"ops": {"$each": [mark], "$slice": -OPS_KEPT}}}
    if dropped:
        written["$unset"] = dropped
    return written


def request(store: Store, mark: str) -> Document:
    """Return the update that asks an active job to cancel."""
    fields: dict[str, Any] = {"cancel_requested": True}
    return _encoded(fields, {"rev": store.numbers.next()}, {}, mark)


def removal(store: Store, before: Document, mark: str) -> Document:
    """Return the tombstone of a job: it has no queue, and nothing of the job but its memory."""
    now = store.clock.earliest()
    return {
        "_id": before["_id"],
        "state": REMOVED,
        "rev": store.numbers.next(),
        "fence": before["fence"],
        "born": before.get("born"),
        "ops": [*before.get("ops", ()), mark][-OPS_KEPT:],
        "finished_at": now,
        "expire_at": datetime.fromtimestamp((now + MEMORY_MS) / 1000, UTC),
    }
