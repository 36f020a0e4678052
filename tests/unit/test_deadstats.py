"""Statistics of dead letters."""

from __future__ import annotations

from taskmux.model.job import ErrorInfo, JobRecord, State
from taskmux.policy.deadstats import MOST_GROUPS, OTHERS, WINDOWS, DeadStats, DeadTally

NOW = 2_000_000_000_000
HOUR = 3_600_000


def dead(number: int, message: str, *, ago: int = 0, task: str = "send") -> JobRecord:
    return JobRecord(
        queue="q",
        id=f"{number}",
        task=task,
        state=State.DEAD,
        finished_at=NOW - ago,
        error=ErrorInfo("ValueError", message) if message else None,
        reason="crashed its worker 3 times (max_crashes)",
    )


def counted(*jobs: JobRecord) -> DeadStats:
    tally = DeadTally("q", NOW)
    for job in jobs:
        tally.add(job)
    return tally.stats()


def test_the_same_failure_is_one_group_with_its_first_and_last_time() -> None:
    found = counted(
        dead(1, "user 1 is unknown", ago=2 * HOUR),
        dead(2, "user 2 is unknown", ago=50 * HOUR),
        dead(3, "user 3 is unknown", ago=500 * HOUR),
        dead(4, "no route", ago=1),
    )
    first, second = found.groups
    assert (found.total, first.count, second.count) == (4, 3, 1)
    assert first.pattern == "user <number> is unknown"
    assert (first.task, first.error, first.sample) == ("send", "ValueError", "1")
    assert (first.first_at, first.last_at) == (NOW - 500 * HOUR, NOW - 2 * HOUR)
    assert first.recent == {"1h": 0, "3h": 1, "24h": 1, "3d": 2, "7d": 2}


def test_the_matrix_adds_up_by_type_of_error() -> None:
    found = counted(
        dead(1, "a", ago=1), dead(2, "b", ago=4 * HOUR), dead(3, "", ago=1), dead(4, "a", task="x")
    )
    assert found.errors["ValueError"] == {"1h": 2, "3h": 2, "24h": 3, "3d": 3, "7d": 3, "all": 3}
    assert found.errors["crashed its worker <number> times (max_crashes)"]["all"] == 1
    assert {group.task for group in found.groups} == {"send", "x"}


def test_a_span_includes_its_first_instant() -> None:
    at_its_edge = [dead(at, "x", ago=span) for at, span in enumerate(WINDOWS.values())]
    assert counted(*at_its_edge).groups[0].recent == {"1h": 1, "3h": 2, "24h": 3, "3d": 4, "7d": 5}
    assert counted(dead(1, "x", ago=HOUR + 1)).groups[0].recent["1h"] == 0


def test_memory_does_not_grow_with_the_ways_of_failing() -> None:
    words = (
        f"{'abcdefghij'[n % 10]}{'klmnopqrst'[n // 10 % 10]} {'x' * (n // 100)}"
        for n in range(3000)
    )
    found = counted(*(dead(at, f"no {word}") for at, word in enumerate(words)))
    assert found.total == 3000
    assert len(found.groups) == MOST_GROUPS + 1
    assert found.errors["ValueError"]["all"] == 3000
    others = found.groups[0]
    assert (others.fingerprint, others.count) == (OTHERS, 3000 - MOST_GROUPS)
