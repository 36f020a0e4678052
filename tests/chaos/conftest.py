from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Worker processes and tests share the harness; a test module is not importable by others.
sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("harness")
