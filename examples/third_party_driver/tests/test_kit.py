"""The kit, inherited: every contract of the driver interface is a test of this driver."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from taskmux.conformance import DriverSuite
from taskmux.driver import Driver, Ref, StoreError, StoreIncompatible, StoreUnavailable
from taskmux_files import FilesDriver


class TestFiles(DriverSuite):
    """A directory for each test, on a clock that moves when told to."""

    @pytest.fixture
    def unopened_driver(self, tmp_path: Path) -> FilesDriver:
        """Return an unopened driver on an empty store."""
        self.clock = 1_700_000_000_000
        self.root = tmp_path / "jobs"
        return FilesDriver(f"files://{self.root}", clock=lambda: self.clock)

    async def advance(self, ms: float) -> None:
        """Let time pass on the store's clock."""
        self.clock += max(1, round(ms))

    async def leaked(self, driver: Driver) -> list[str]:  # noqa: ARG002 - there is one directory
        """Return files that an operation left half-way."""
        return [path.name for path in self.root.glob("*.new")]

    async def damage(self, driver: Driver, ref: Ref) -> bool:  # noqa: ARG002 - as above
        """Make one job's record unreadable."""
        file = self.root / f"{ref.queue}.queue"
        saved = msgspec.msgpack.decode(file.read_bytes())
        saved["jobs"][ref.id] = b"\xc1"
        file.write_bytes(msgspec.msgpack.encode(saved))
        return True

    async def unfit(self) -> Sequence[tuple[Driver, type[StoreError]]]:
        """Return drivers on what is no directory of ours."""
        (self.root.parent / "a file").touch()
        (self.root.parent / "other").mkdir()
        (self.root.parent / "other" / "letter.txt").touch()
        return [
            (FilesDriver(f"files://{self.root.parent}/a%20file"), StoreIncompatible),
            (FilesDriver(f"files://{self.root.parent}/other"), StoreIncompatible),
            (FilesDriver(f"files://{self.root.parent}/nowhere/jobs"), StoreUnavailable),
        ]
