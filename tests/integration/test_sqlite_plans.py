"""Which index answers which question: no query reads or sorts more than it needs."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from taskmux.driver import TERMINAL, State

from taskmux_sqlite import apply, claim, leases, lines, prune, push, read, wait
from taskmux_sqlite.schema import migrate


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, tmp_path)
        yield connection


PLANS = {
    "ring": (lines.RING, "lines_ring (queue=? AND turn>?)"),
    "last turn": (lines.LAST_TURN, "COVERING INDEX lines_ring (queue=?)"),
    "opened lines": (lines.OPENED, "lines_opening (queue=? AND opens_at<?)"),
    "kept lines": (lines.KEPT_BACK, "COVERING INDEX lines_ring (queue=? AND turn=?)"),
    "claim": (
        lines.WAITING,
        "jobs_waiting (queue=? AND state=? AND line=? AND (priority,sequence)>(?,?))",
    ),
    "push to a group": (push.IN_LINE, "COVERING INDEX jobs_waiting (queue=? AND state=? AND"),
    "standing": (lines.STANDS, "jobs_waiting (queue=? AND state=? AND line=? AND priority<?)"),
    "promote": (claim.DUE, "jobs_delayed (queue=? AND state=? AND run_at<?)"),
    "next due": (claim.NEXT_DUE, "jobs_delayed (queue=? AND state=? AND run_at<?)"),
    "endless leases": (leases.ENDLESS, "jobs_active (queue=? AND state=? AND lease_until>?)"),
    "never due": (leases.NEVER_DUE, "jobs_delayed (queue=? AND state=? AND run_at>?)"),
    "reclaim": (leases.LAPSED, "jobs_active (queue=? AND state=? AND lease_until<?)"),
    "get": (read.RECORD, "jobs_id (queue=? AND id=?)"),
    "expired": (prune.EXPIRED, "jobs_expiring (queue=? AND expires_at<?)"),
    "counted": (prune.COUNTED, "jobs_counted (queue=?)"),
    "oldest kept": (prune.OLDEST_KEPT, "jobs_finished (queue=? AND state=? AND finished_at>?)"),
    "beyond the count": (
        prune.BEYOND,
        "jobs_counted (queue=? AND state=? AND keep_count=? AND finished_at<?)",
    ),
    "finish": (
        apply.update_query(("state", "worker"), (False, True), apply.BY_FENCE),
        "jobs_id (queue=? AND id=?)",
    ),
    "find waiting in the common line": (
        read.page_query(State.WAITING, newest=False),
        "jobs_waiting (queue=? AND state=? AND line=? AND (priority,sequence)>(?,?))",
    ),
    "find waiting in groups": (
        read.page_query(State.WAITING, newest=True),
        "jobs_lined (queue=? AND state=? AND (priority,sequence)<(?,?))",
    ),
    "find delayed, newest": (
        read.page_query(State.DELAYED, newest=True),
        "jobs_delayed (queue=? AND state=? AND run_at<?)",
    ),
    "find blocked": (
        read.page_query(State.BLOCKED, newest=False),
        "jobs_blocked (queue=? AND state=? AND created_at>?)",
    ),
} | {
    f"find {state}, newest {newest}": (
        read.page_query(state, newest=newest),
        f"jobs_finished (queue=? AND state=? AND finished_at>?{' AND finished_at<?' * newest})",
    )
    for state in sorted(TERMINAL)
    for newest in (False, True)
}


def plan(connection: sqlite3.Connection, query: str) -> list[str]:
    named = dict.fromkeys(("queue", "id", "first", "second", "limit"))
    arguments = named if ":queue" in query else [None] * query.count("?")
    rows = connection.execute(f"EXPLAIN QUERY PLAN {query}", arguments)
    return [detail for *_, detail in rows]


def wasteful(steps: list[str]) -> list[str]:
    return [step for step in steps if re.search(r"\bSCAN (?!CONSTANT ROW)|TEMP B-TREE", step)]


@pytest.mark.parametrize("name", PLANS)
def test_a_query_walks_one_index_and_sorts_nothing(
    connection: sqlite3.Connection, name: str
) -> None:
    query, index = PLANS[name]
    steps = plan(connection, query)
    assert any(index in step for step in steps), steps
    assert wasteful(steps) == []


def test_active_jobs_are_listed_from_the_lease_index(connection: sqlite3.Connection) -> None:
    # Sorted, because they are few: those that workers hold now.
    steps = plan(connection, read.page_query(State.ACTIVE, newest=False))
    assert any("jobs_active (queue=? AND state=?)" in step for step in steps), steps
    assert wasteful(steps) == ["USE TEMP B-TREE FOR ORDER BY"]


@pytest.mark.parametrize("query", [lines.RUNNING, wait.ACTIVE])
def test_leases_are_counted_in_an_index_alone(connection: sqlite3.Connection, query: str) -> None:
    steps = [step for step in plan(connection, query) if "subquery" not in step]
    assert [re.search(r"COVERING INDEX jobs_(active|running)", step) is None for step in steps] == [
        False
    ]


def test_counts_come_from_the_states_indexes_alone(connection: sqlite3.Connection) -> None:
    steps = plan(connection, read.COUNTS)
    indexes = [match[1] for step in steps if (match := re.search(r"COVERING INDEX (\w+)", step))]
    expected = ["finished", "waiting", "delayed", "blocked", "active"]
    assert indexes == [f"jobs_{state}" for state in expected]
    assert wasteful(steps) == []


def test_a_wait_looks_at_indexes_only(connection: sqlite3.Connection) -> None:
    steps = plan(connection, wait.READY)
    assert wasteful(steps) == []
    assert any("lines_ring (queue=? AND turn>?)" in step for step in steps), steps
    assert any("jobs_delayed (queue=? AND state=? AND run_at<?)" in step for step in steps), steps
