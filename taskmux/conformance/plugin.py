"""A pytest plug-in that tells, at the end of a run, what each driver suite kept.

Switch it on with `pytest_plugins = ["taskmux.conformance.plugin"]` in the topmost conftest.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

__all__ = ["Conformance", "pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    """Start collecting."""
    config.pluginmanager.register(Conformance(), "taskmux-conformance-report")


class Conformance:
    """Collects outcomes by suite and level, such as `TestMemory: required`."""

    def __init__(self) -> None:
        self.levels: defaultdict[str, dict[str, str]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of a case: its call decides, or else what failed or was skipped."""
        if report.when != "call" and report.outcome == "passed":
            return
        for key, level in report.user_properties:
            if key == "taskmux":
                self.levels[str(level)][report.nodeid] = report.outcome

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write a line for each suite and level."""
        if self.levels:
            terminalreporter.section("driver conformance")
        for level, outcomes in sorted(self.levels.items()):
            required = level.endswith(": required")
            verdict = _verdict(Counter(outcomes.values()), required=required)
            terminalreporter.line(f"{level}: {verdict}")


def _verdict(outcomes: Counter[str], *, required: bool) -> str:
    passed, failed, skipped = (outcomes[name] for name in ("passed", "failed", "skipped"))
    if not required and not passed and not failed:
        return "not offered"
    verdict = f"{passed}/{passed + failed}"
    if not required:
        verdict = f"failed ({verdict})" if failed else f"passed ({verdict})"
    return verdict + (f", {skipped} not applicable" if skipped else "")
