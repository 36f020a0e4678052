"""Forked children: whatever becomes of a child, the parent's connections stay whole.

A forked child has copies of the parent's sockets. When it ends, or when its garbage collector
runs, Python closes their streams, and that reaches the parent: TLS says goodbye on the shared
connection, and the event loop takes the socket out of the selector, which the kernel shares
between both processes. The parent would then never hear the reply that it waits for. So in the
child each of these sockets is replaced, under the same number, by one that leads nowhere. A client
that the child goes on using finds its connections closed and makes new ones.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakSet

__all__ = ["keep_whole"]

_clients: WeakSet[Any] = WeakSet()


def keep_whole(client: Any) -> None:
    """Keep the connections of a client out of what forked children do, for as long as it lives."""
    _clients.add(client)


def _pools(client: Any) -> Iterator[Any]:
    pool = getattr(client, "connection_pool", None)
    if pool is not None:
        yield pool
    for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
        yield sentinel.connection_pool


def _connections(client: Any) -> Iterator[Any]:
    for pool in _pools(client):
        yield from getattr(pool, "_available_connections", ())
        yield from getattr(pool, "_in_use_connections", ())
    nodes = getattr(getattr(client, "nodes_manager", None), "nodes_cache", {})
    for node in nodes.values():
        yield from getattr(node, "_connections", ())


def _detach() -> None:
    nowhere, other = socket.socketpair()
    other.close()
    with nowhere:
        for client in tuple(_clients):
            for connection in _connections(client):
                # redis-py gives no other way to the socket
                writer = getattr(connection, "_writer", None)
                shared = None if writer is None else writer.get_extra_info("socket")
                if shared is not None and shared.fileno() >= 0:
                    with suppress(OSError):
                        os.dup2(nowhere.fileno(), shared.fileno(), inheritable=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_detach)
