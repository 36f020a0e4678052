"""Whether somebody can be asked if a removal is meant."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from taskmux.cli import emptying


@pytest.mark.parametrize(
    ("reads", "shows"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_only_a_terminal_that_reads_and_shows_is_asked(reads, shows, monkeypatch):
    ends = {
        name: SimpleNamespace(isatty=lambda is_one=is_one: is_one)
        for name, is_one in (("stdin", reads), ("stderr", shows))
    }
    monkeypatch.setattr(emptying, "sys", SimpleNamespace(**ends))
    assert emptying._can_ask() is (reads and shows)
