from __future__ import annotations

from pathlib import Path

import pytest
from harness.suites import PoisonSuite


@pytest.mark.chaos
class TestSQLite(PoisonSuite):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/chaos.db"
