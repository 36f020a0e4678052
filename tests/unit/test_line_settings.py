"""Settings of lines: what holds for all groups, for one by name, and for a task's own line."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from taskmux.model.errors import DeclarationError
from taskmux.model.queue import LineSettings, QueueSettings, Rate
from taskmux.policy.lines import MOST_LINES, change_groups, change_line, declare, forget_line

RATE = Rate(5, 1000)


def of(settings: QueueSettings, line: str) -> LineSettings:
    """Return what holds for a line, without the note."""
    return replace(settings.line(line), declared=None)


class TestGroups:
    def test_a_change_by_name_is_for_that_group_alone(self):
        settings = change_line(QueueSettings(), "a", {"concurrency": 2})
        assert of(settings, "a") == LineSettings(concurrency=2)
        assert of(settings, "b") == LineSettings()

    def test_what_was_set_by_name_stays_and_the_rest_follows(self):
        settings = change_line(QueueSettings(), "a", {"concurrency": 2})
        settings = change_groups(settings, {"concurrency": 9, "rate": RATE})
        assert of(settings, "a") == LineSettings(concurrency=2, rate=RATE)
        assert of(settings, "b") == LineSettings(concurrency=9, rate=RATE)

    def test_changes_by_name_add_up(self):
        settings = change_line(QueueSettings(), "a", {"concurrency": 2})
        settings = change_line(settings, "a", {"rate": RATE})
        settings = change_groups(settings, {"concurrency": 9, "rate": Rate(1, 1)})
        assert of(settings, "a") == LineSettings(concurrency=2, rate=RATE)

    def test_a_group_that_is_resumed_needs_nothing_of_its_own(self):
        settings = change_line(QueueSettings(), "a", {"paused": True})
        assert of(settings, "a").paused
        settings = change_line(settings, "a", {"paused": False})
        assert settings.lines == {}

    def test_a_group_that_runs_while_all_others_are_paused_is_set_apart(self):
        paused = change_groups(QueueSettings(), {"paused": True})
        settings = change_line(paused, "a", {"paused": False})
        assert not of(settings, "a").paused
        assert of(settings, "b").paused
        assert change_line(settings, "a", {"paused": True}).lines == {}

    def test_pausing_one_keeps_its_limits(self):
        settings = change_line(QueueSettings(), "a", {"concurrency": 2})
        settings = change_line(settings, "a", {"paused": True})
        settings = change_line(settings, "a", {"paused": False})
        assert of(settings, "a") == LineSettings(concurrency=2)

    def test_a_forgotten_one_goes_by_what_holds_for_all(self):
        settings = change_groups(QueueSettings(), {"concurrency": 9})
        settings = forget_line(change_line(settings, "a", {"concurrency": 2}), "a")
        assert of(settings, "a") == LineSettings(concurrency=9)
        assert settings.lines == {}

    def test_a_note_that_nobody_can_read_is_no_note(self):
        own = LineSettings(concurrency=2, declared="by hand")
        settings = change_groups(QueueSettings(lines={"a": own}), {"concurrency": 9})
        assert of(settings, "a") == LineSettings(concurrency=9)

    def test_there_is_a_most_of_them(self):
        full = QueueSettings(lines={f"g{n}": LineSettings() for n in range(MOST_LINES)})
        with pytest.raises(DeclarationError, match="reset"):
            change_line(full, "one more", {"concurrency": 1})
        assert len(change_line(full, "g0", {"concurrency": 1}).lines) == MOST_LINES


class TestOfATask:
    DECLARED = LineSettings(concurrency=3)

    def test_it_begins_with_what_is_declared(self):
        assert of(declare(QueueSettings(), "@t", self.DECLARED), "@t") == self.DECLARED

    def test_the_same_declaration_undoes_no_change(self):
        settings = declare(QueueSettings(), "@t", self.DECLARED)
        settings = change_line(settings, "@t", {"concurrency": 1})
        assert declare(settings, "@t", self.DECLARED) is settings

    def test_another_declaration_counts_and_a_pause_stays(self):
        settings = declare(QueueSettings(), "@t", self.DECLARED)
        settings = change_line(settings, "@t", {"concurrency": 1, "paused": True})
        settings = declare(settings, "@t", LineSettings(rate=RATE))
        assert of(settings, "@t") == LineSettings(rate=RATE, paused=True)

    def test_a_forgotten_one_goes_by_its_declaration(self):
        settings = declare(QueueSettings(), "@t", self.DECLARED)
        settings = forget_line(change_line(settings, "@t", {"concurrency": 1}), "@t")
        assert of(settings, "@t") == self.DECLARED

    def test_it_goes_with_its_declaration(self):
        settings = declare(QueueSettings(), "@t", self.DECLARED)
        assert declare(settings, "@t", None).lines == {}
        assert declare(QueueSettings(), "@t", None) == QueueSettings()

    def test_what_holds_for_groups_is_not_for_tasks(self):
        settings = declare(QueueSettings(), "@t", self.DECLARED)
        assert of(change_groups(settings, {"concurrency": 9}), "@t") == self.DECLARED

    def test_a_task_without_a_line_has_nothing_to_change(self):
        with pytest.raises(DeclarationError, match="own_line"):
            change_line(QueueSettings(), "@t", {"concurrency": 1})
