from __future__ import annotations

from pathlib import Path

import pytest
from harness.kill import Plan
from harness.suites import KillSuite


@pytest.mark.chaos
class TestSQLite(KillSuite):
    plan = Plan(jobs=10_000, workers=4, kills=40, stops=10)

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/chaos.db"
