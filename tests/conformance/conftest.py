from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Not `pytest_plugins`: pytest takes that from the topmost conftest only.
    config.pluginmanager.import_plugin("taskmux.conformance.plugin")
