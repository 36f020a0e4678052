"""The reference driver's lines as an engine of their own, as a driver may use it."""

from __future__ import annotations

import pytest
from taskmux.driver import LINE_LIMIT, LineSettings, QueueSettings, Rate
from taskmux.memory.lines import STALE, Lines

FREE = QueueSettings()


class Queue:
    """Waiting jobs and active ones, by the rules of `Lines`: what a driver adds to it."""

    def __init__(self) -> None:
        self.waiting: dict[str, tuple[int, int, str]] = {}
        self.active: list[str] = []
        self.lines = Lines(lambda line: sum(name[0] == line for name in self.active), self.current)
        self.count = 0

    def current(self, spot: tuple[int, int, str]) -> bool:
        return self.waiting.get(spot[2]) == spot

    def push(self, *names: str) -> None:
        for name in names:
            self.count += 1
            self.waiting[name] = (100, self.count, name)
            self.lines.enter(name[0], self.waiting[name])

    def leave(self, name: str) -> None:
        del self.waiting[name]
        self.lines.leave(name[0])

    def claim(self, limit: int, settings: QueueSettings = FREE, now: int = 0) -> list[str]:
        self.lines.begin(now)
        given: list[str] = []
        while len(given) < limit and (name := self.lines.next(settings, now)) is not None:
            self.leave(name)
            self.active.append(name)
            given.append(name)
        return given


@pytest.fixture
def queue() -> Queue:
    return Queue()


def test_turns_go_on_where_the_last_claim_ended(queue):
    queue.push("a1", "a2", "a3", "b1", "b2", "c1")
    assert [queue.claim(2), queue.claim(2), queue.claim(9)] == [
        ["a1", "b1"],
        ["c1", "a2"],
        ["b2", "a3"],
    ]


def test_a_line_that_is_full_is_not_looked_at_until_it_has_room(queue):
    settings = QueueSettings(groups=LineSettings(concurrency=1))
    queue.push("a1", "a2", "b1")
    assert queue.claim(9, settings) == ["a1", "b1"]
    assert queue.lines.kept(0) == (False, 0) or queue.claim(9, settings) == []
    assert queue.lines.kept(0) == (True, None)
    queue.active.remove("a1")
    assert queue.lines.made_room("a")
    assert queue.claim(9, settings) == ["a2"]


def test_a_parked_line_that_lost_its_jobs_is_forgotten(queue):
    settings = QueueSettings(groups=LineSettings(concurrency=1))
    queue.push("a1", "a2")
    assert queue.claim(9, settings) == ["a1"]
    queue.leave("a2")
    assert not queue.lines.made_room("a")
    assert queue.claim(9, settings) == []
    queue.active.clear()
    queue.push("a3")
    assert queue.claim(9, settings) == ["a3"]


def test_a_rate_opens_its_line_at_its_instant(queue):
    settings = QueueSettings(groups=LineSettings(rate=Rate(1, 100)))
    queue.push("a1", "a2", "b1")
    assert queue.claim(9, settings) == ["a1", "b1"]
    assert queue.lines.kept(0) == (True, 100)
    assert queue.claim(9, settings, now=99) == []
    assert queue.claim(9, settings, now=100) == ["a2"]


def test_a_claim_passes_over_a_bounded_number_of_lines(queue):
    settings = QueueSettings(groups=LineSettings(paused=True))
    names = [f"{chr(1000 + n)}1" for n in range(LINE_LIMIT + 5)]
    queue.push(*names, "z1")
    settings = QueueSettings(groups=LineSettings(paused=True), lines={"z": LineSettings()})
    assert queue.claim(9, settings) == []
    assert queue.lines.kept(0) == (False, 0)
    assert queue.claim(9, settings) == ["z1"]


def test_jobs_that_moved_on_do_not_pile_up(queue):
    queue.push("a-stays")
    for number in range(20 * STALE):
        queue.push(f"a{number}")
        queue.leave(f"a{number}")
    assert len(queue.lines._heaps["a"]) <= STALE + 3
    assert queue.claim(9) == ["a-stays"]


def test_gates_that_keep_nothing_back_are_forgotten_and_others_are_not(queue):
    settings = QueueSettings(lines={"a": LineSettings(rate=Rate(1, 100))})
    queue.push("a1")
    queue.claim(1, settings, now=0)
    queue.lines.hold("b", 500, alone=True)
    queue.lines.forget_open(settings, 50)
    assert set(queue.lines._gates) == {"a", "b"}
    queue.lines.forget_open(settings, 100)
    assert set(queue.lines._gates) == {"b"}
    queue.lines.forget_open(settings, 500)
    assert not queue.lines._gates
