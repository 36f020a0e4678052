"""The names of keys: all keys of a queue share one hash tag, and so one cluster slot."""

from __future__ import annotations

import re

from taskmux.driver import InvalidURL

from taskmux_redis.scripts import Script

__all__ = ["OF_A_QUEUE", "TYPES", "QueueKeys", "check_prefix", "store_key"]

_PREFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,31}\Z")


OF_A_QUEUE = {
    **dict.fromkeys(("work", "live", "dedup", "successors", "ops"), "hash"),
    **dict.fromkeys(("settings", "corrupt", "repair"), "hash"),
    **dict.fromkeys(("gate", "full", "sequence", "looked", "numbers"), "string"),
    **dict.fromkeys(("ready", "grouped", "ring", "parked", "rests", "marker"), "zset"),
    **dict.fromkeys(("delayed", "blocked", "leases", "throttled"), "zset"),
    **dict.fromkeys(("completed", "dead", "cancelled", "moved", "ages", "counted"), "zset"),
    "events": "stream",
}
"""The type of each key that a queue has once. `docs/redis.md` lists them."""
OF_THE_STORE = {
    "queues": "set",
    "workers": "zset",
    "about": "hash",
    "told": "list",
    "given": "list",
}
TYPES = OF_A_QUEUE | OF_THE_STORE


def check_prefix(prefix: str) -> str:
    """Return the prefix.

    Raises:
        InvalidURL: it has characters that would break the hash tag or an ACL pattern.
    """
    if not _PREFIX.match(prefix):
        raise InvalidURL(
            f"The key prefix {prefix!r} is not usable. Write 1 to 32 letters, digits, '_', '.' or "
            f"'-' that do not begin with '.' or '-', for example ?prefix=tm."
        )
    return prefix


def store_key(prefix: str, name: str) -> bytes:
    """Return the name of a key that belongs to the store as a whole."""
    return f"{{{prefix}}}:{name}".encode()


class QueueKeys:
    """The keys of one queue.

    Jobs are in two hashes, `work` and `live`. Indexes are sorted sets, one for each state:
    `ready` (waiting), `delayed`, `blocked`, `leases` (active), `completed`, `dead`, `cancelled`,
    `moved`. `docs/redis.md` lists every key.
    """

    def __init__(self, prefix: str, queue: str) -> None:
        self.queue = queue
        self.base = f"{{{prefix}:{queue}}}:".encode()
        self._of: dict[str, list[bytes]] = {}

    def __getitem__(self, name: str) -> bytes:
        """Return one key's full name."""
        return self.base if name == "base" else self.base + name.encode()

    def of(self, script: Script) -> list[bytes]:
        """Return the keys that a script's header names, in its order."""
        keys = self._of.get(script.name)
        if keys is None:
            keys = self._of[script.name] = [self[name] for name in script.keys]
        return keys
