"""A queue's settings and retention."""

from __future__ import annotations

import secrets

import msgspec
from taskmux.driver import CorruptRecord, PruneAsk, QueueSettings

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
            int(new.paused),
            new.moved_to or "",
            msgspec.json.encode(new),
        )
    )


async def prune(link: Link, keys: QueueKeys, ask: PruneAsk) -> int:
    """Remove finished records past their retention; return how many went."""
    return int(await link.run(_PRUNE, keys.of(_PRUNE), ask.limit, ask.spare, ask.memory))


async def in_use(link: Link, keys: QueueKeys) -> bool:
    """Return whether the queue holds a job or has settings."""
    names = (*INDEXES.values(), "settings")
    return bool(await link.command("EXISTS", *(keys[name] for name in names)))
