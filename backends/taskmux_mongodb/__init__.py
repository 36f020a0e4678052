"""The MongoDB driver: `mongodb://localhost` and `mongodb+srv://cluster.example`."""

from taskmux_mongodb.driver import MongoDriver, taskmux_driver

__all__ = ["MongoDriver", "taskmux_driver"]
