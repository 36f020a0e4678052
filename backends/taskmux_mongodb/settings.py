"""Settings: what is stored about a queue, by compare-and-set."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace
from pymongo.errors import DuplicateKeyError
from taskmux.driver import CorruptRecord, QueueSettings

from taskmux_mongodb import lines_ring
from taskmux_mongodb.lines_holds import end_holds
from taskmux_mongodb.restrictions import restrictive
from taskmux_mongodb.store import Store

__all__ = ["put_settings", "settings"]


async def settings(store: Store, queue: str) -> QueueSettings:
    """Return a queue's settings; see `Driver.settings`."""
    document = await store.queues.find_one({"_id": queue})
    try:
        return QueueSettings() if document is None else msgspec.convert(document, QueueSettings)
    except msgspec.ValidationError as error:
        raise CorruptRecord(
            f"The settings of queue {queue!r} cannot be read: {error}. Delete its document from "
            f"the collection 'queues' while no worker runs; its jobs stay."
        ) from None


async def put_settings(store: Store, queue: str, new: QueueSettings, call: str) -> bool:
    """Store settings if the rev is the stored one; see `Driver.put_settings`.

    `call` tells a call that is sent again from another one.
    """
    fields: dict[str, Any] = msgspec.to_builtins(replace(new, rev=new.rev + 1))
    before = await store.queues.find_one({"_id": queue}, {"paused": 1})
    if bool((before or {}).get("paused")) is not new.paused:
        fields["flipped"] = new.rev + 1  # for its event
    document = {"_id": queue, "call": call} | fields
    if new.rev:
        known = {"_id": queue, "rev": new.rev}
        stored = bool((await store.queues.replace_one(known, document)).matched_count)
    else:
        stored = True
        try:
            await store.queues.insert_one(document)
        except DuplicateKeyError:
            stored = False
    if not stored:
        found = await store.queues.find_one({"_id": queue}, {"call": 1})
        stored = found is not None and found.get("call") == call
    if stored:
        await end_holds(store, queue)
        await lines_ring.readmit_all(store, queue)
        store.bell.ring([queue])
        if restrictive(new):
            await store.restrictions.in_force(queue)
    return stored
