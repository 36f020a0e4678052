"""A driver author's file, run as an author runs it: plain pytest, strict asyncio mode."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

AUTHORS_FILE = """
import pytest

from taskmux.conformance import DriverSuite
from taskmux.memory import MemoryDriver


class Bare(MemoryDriver):
    beat = workers = None


class Broken(MemoryDriver):
    def _promote(self, queue, now):
        super()._promote(queue, now + 10**9)


class TestSound(DriverSuite):
    @pytest.fixture
    def unopened_driver(self):
        return MemoryDriver()


class TestBare(TestSound):
    @pytest.fixture
    async def unopened_driver(self):
        yield Bare()


class TestBroken(TestSound):
    @pytest.fixture
    def unopened_driver(self):
        return Broken()

    async def leaked(self, driver):
        return ["a stray key"] if await driver.workers() else []


class TestNothingSaid(DriverSuite):
    pass
"""
CASES = "test_c2_a_delayed or test_b1_a_worker or test_o2_"


def test_the_report_tells_what_each_suite_kept(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["taskmux.conformance.plugin"]\n')
    (tmp_path / "test_drivers.py").write_text(AUTHORS_FILE)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-k", CASES, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    report = ran.stdout.partition("driver conformance")[2]
    assert ran.returncode == 1, ran.stdout + ran.stderr
    for line in (
        "TestSound: required: 1/1, 1 not applicable",
        "TestSound: presence: passed (1/1)",
        "TestBare: required: 1/1, 1 not applicable",
        "TestBare: presence: not offered",
        "TestBroken: required: 0/1, 1 not applicable",
        "TestBroken: presence: failed (0/1)",
    ):
        assert line in report, report
    assert "Bare has no capability 'presence'" in ran.stdout
    assert "left in the store: ['a stray key']" in ran.stdout
    assert "Override the fixture `unopened_driver`" in ran.stdout
