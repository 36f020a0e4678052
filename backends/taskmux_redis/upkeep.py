"""A queue's settings and retention."""

from __future__ import annotations

import secrets

import msgspec
from taskmux.driver import CorruptRecord, LineSettings, PruneAsk, QueueSettings, Rate

from taskmux_redis.keys import QueueKeys
from taskmux_redis.link import Link
from taskmux_redis.reading import INDEXES
from taskmux_redis.scripts import script

__all__ = ["in_use", "prune", "put_settings", "settings"]

_PRUNE, _PUT_SETTINGS = script("prune"), script("put_settings")


async def settings(link: Link, keys: QueueKeys) -> QueueSettings:
    """Return the stored settings, or the defaults.

    Raises:
        CorruptRecord: they cannot be read.
    """
    data, rev = await link.command("HMGET", keys["settings"], "data", "rev")
    if data is None:
        return QueueSettings()
    try:
        stored = msgspec.json.decode(data, type=QueueSettings)
        return msgspec.structs.replace(stored, rev=int(rev))
    except (ValueError, TypeError, msgspec.MsgspecError):
        raise CorruptRecord(
            f"The settings of queue {keys.queue!r} cannot be read. Remove the key "
            f"{keys['settings'].decode()!r}, then set them again."
        ) from None


async def put_settings(link: Link, keys: QueueKeys, new: QueueSettings) -> bool:
    """Store settings by compare-and-set; the token lets a resent call see that it was it."""
    return bool(
        await link.run(
            _PUT_SETTINGS,
            keys.of(_PUT_SETTINGS),
            new.rev,
            secrets.token_hex(8),
            *(part for pair in _flat(new).items() for part in pair),
        )
    )


def _flat(new: QueueSettings) -> dict[str, str | bytes]:
    """Return the fields of the settings hash: what scripts read, and the whole as JSON."""
    flat: dict[str, str | bytes] = {"data": msgspec.json.encode(new), "paused": f"{new.paused:d}"}
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


async def prune(link: Link, keys: QueueKeys, ask: PruneAsk) -> int:
    """Remove finished records past their retention; return how many went."""
    return int(await link.run(_PRUNE, keys.of(_PRUNE), ask.limit, ask.spare, ask.memory))


async def in_use(link: Link, keys: QueueKeys) -> bool:
    """Return whether the queue holds a job or has settings."""
    names = (*INDEXES.values(), "grouped", "settings")
    return bool(await link.command("EXISTS", *(keys[name] for name in names)))
