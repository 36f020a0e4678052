"""The memory driver, the reference: `memory://` and `memory://name`."""

from taskmux.memory.driver import MemoryDriver, taskmux_driver
from taskmux.memory.store import MemoryStore

__all__ = ["MemoryDriver", "MemoryStore", "taskmux_driver"]
