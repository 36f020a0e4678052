"""Every row of the tables of `docs/schedules.md` that names slots is computed."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from taskmux.policy.schedule import declare, words
from taskmux.policy.schedule.slots import slots, walk

PAGE = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text(encoding="utf-8")
NEW_YORK = ZoneInfo("America/New_York")


def rows(name: str) -> list[list[str]]:
    table = re.search(rf"<!-- {name} -->\n\|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE)
    assert table is not None
    return [
        [cell.strip().strip("`") for cell in line.strip("|").split(" |")]
        for line in table[1].splitlines()
    ]


@pytest.mark.parametrize(("expression", "due"), rows("cron"))
def test_cron(expression, due):
    found = islice(walk(declare.cron(expression), ms(datetime(2026, 1, 1, tzinfo=UTC)) - 1), 3)
    shown = [datetime.fromtimestamp(slot / 1000, UTC) for slot in found]
    year = "" if shown[0].year == 2026 else "%Y-"
    assert ", ".join(f"{at:{year}%m-%d %H:%M}" for at in shown) == due


@pytest.mark.parametrize(("expression", "day", "options", "due"), rows("clocks"))
def test_clocks_that_are_set(expression, day, options, due):
    said = dict(re.findall(r'(\w+)="(\w+)"', options))
    trigger = declare.cron(expression, tz="America/New_York", **said)
    first = date.fromisoformat(day)
    begin, end = (
        ms(datetime.combine(one, datetime.min.time(), NEW_YORK))
        for one in (first, first + timedelta(days=1))
    )
    found = slots(trigger, begin - 1, end - 1)
    shown = [datetime.fromtimestamp(slot / 1000, NEW_YORK) for slot in found]
    assert (", ".join(f"{at:%H:%M %Z}" for at in shown) or "never") == due


@pytest.mark.parametrize(("text", "said"), rows("words"))
def test_words(text, said):
    now = ms(datetime(2026, 11, 28, 14, tzinfo=ZoneInfo("Europe/Berlin")))
    assert words.understand(text, now, tz="Europe/Berlin").said == said


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
