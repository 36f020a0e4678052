"""A queue's settings: as they are read back, and as scripts read them."""

from __future__ import annotations

import secrets

import msgspec
from taskmux.driver import CorruptRecord, LineSettings, QueueSettings, Rate

from taskmux_redis.failures import WrongType
from taskmux_redis.scripts import script
from taskmux_redis.store import Store

__all__ = ["put_settings", "settings"]

_PUT_SETTINGS = script("put_settings")


async def settings(store: Store, queue: str) -> QueueSettings:
    """Return the stored settings, or the defaults.

    Raises:
        CorruptRecord: they cannot be read.
    """
    key = store.keys(queue)["settings"]
    try:
        data, rev = await store.connection.command("HMGET", key, "data", "rev")
    except WrongType as error:
        found = error
    else:
        return QueueSettings() if data is None else _read(queue, key, data, rev)
    raise await store.named(found, [key], f" of queue {queue!r}")


def _read(queue: str, key: bytes, data: bytes, rev: bytes) -> QueueSettings:
    try:
        stored = msgspec.json.decode(data, type=QueueSettings)
        return msgspec.structs.replace(stored, rev=int(rev))
    except (ValueError, TypeError, msgspec.MsgspecError):
        raise CorruptRecord(
            f"The settings of queue {queue!r} cannot be read. Other queues go on. Remove the key "
            f"{key.decode()!r}, then set them again."
        ) from None


async def put_settings(store: Store, queue: str, new: QueueSettings) -> bool:
    """Store settings by compare-and-set; the token lets a resent call see that it was it."""
    await store.list_queue(queue)
    parts = (part for pair in _flat(new).items() for part in pair)
    return bool(await store.run(queue, _PUT_SETTINGS, new.rev, secrets.token_hex(8), *parts))


def _flat(new: QueueSettings) -> dict[str, str | bytes]:
    """Return the fields of the settings hash: what scripts read, and the whole as JSON."""
    flat: dict[str, str | bytes] = {"paused": f"{new.paused:d}", "data": msgspec.json.encode(new)}
    if new.moved_to is not None:
        flat["moved"] = new.moved_to
    if new.limited:
        flat["limited"] = "1"
    if new.group_size is not None:
        flat["size"] = f"{new.group_size}"
    if (new.concurrency, new.rate) != (None, None):
        flat["limits"] = _limits(paused=new.paused, concurrency=new.concurrency, rate=new.rate)
    if new.groups != LineSettings():
        flat["groups"] = _line_limits(new.groups)
    if new.events != QueueSettings().events:
        flat["events"] = f"{new.events}"
    if new.lines:
        flat["named"] = f"{len(new.lines)}"
    return flat | {f"l:{name}": _line_limits(line) for name, line in new.lines.items()}


def _line_limits(line: LineSettings) -> str:
    return _limits(paused=line.paused, concurrency=line.concurrency, rate=line.rate)


def _limits(*, paused: bool, concurrency: int | None, rate: Rate | None) -> str:
    """Return what holds for a queue or a line as `lua/lib/gates.lua` reads it."""
    most = "" if concurrency is None else concurrency
    pace = "::" if rate is None else f"{rate.count}:{rate.per}:{rate.burst}"
    return f"{paused:d}:{most}:{pace}"
