"""What a page of jobs looks at."""

from __future__ import annotations

import pytest
from taskmux.driver import BlockedCause, FindAsk, State

FILTERS = [{"task": "t"}, {"tag": "red"}, {"cause": BlockedCause.HOLD}, {"error": "ValueError"}]


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
@pytest.mark.parametrize(("scan", "looks"), [(0, 5), (1, 5), (5, 5), (90, 90)])
def test_with_any_filter_a_page_looks_at_what_scan_says_or_at_its_limit(wanted, scan, looks):
    ask = FindAsk(queue="q", state=State.BLOCKED, limit=5, scan=scan, **wanted)
    assert ask.selects
    assert ask.looks == looks


def test_without_a_filter_it_looks_at_its_limit():
    ask = FindAsk(queue="q", state=State.BLOCKED, limit=5, scan=90)
    assert not ask.selects
    assert ask.looks == 5
