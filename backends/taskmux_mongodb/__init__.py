"""The MongoDB driver: `mongodb://localhost` and `mongodb+srv://cluster.example`."""

from __future__ import annotations

from taskmux.driver import Driver, hookimpl

from taskmux_mongodb.driver import MongoDriver, taskmux_driver
from taskmux_mongodb.transactions import TransactionInterrupted

__all__ = ["MongoDriver", "TransactionInterrupted", "taskmux_client_driver", "taskmux_driver"]

_CLIENTS = ("AsyncMongoClient", "AsyncIOMotorClient")


@hookimpl
def taskmux_client_driver(client: object) -> Driver | None:
    """Use an application's own PyMongo `AsyncMongoClient` or Motor `AsyncIOMotorClient`."""
    names = {kind.__name__ for kind in type(client).__mro__}
    return MongoDriver.from_client(client) if names.intersection(_CLIENTS) else None
