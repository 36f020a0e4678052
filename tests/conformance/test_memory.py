from __future__ import annotations

import pytest
from taskmux.conformance import DriverSuite
from taskmux.memory import MemoryDriver, MemoryStore


class TestMemory(DriverSuite):
    """The reference driver, on a clock that moves when told to."""

    @pytest.fixture
    def unopened_driver(self) -> MemoryDriver:
        self.clock = 1_700_000_000_000
        return MemoryDriver(store=MemoryStore(clock=lambda: self.clock))

    async def advance(self, ms: float) -> None:
        self.clock += max(1, round(ms))
