from __future__ import annotations

import time

import pytest
from taskmux.api.call import Terms
from taskmux.api.connection import BEAT_COUNTS_MS, _store_time
from taskmux.api.options import JobOptions, parse_options
from taskmux.model.workers import WorkerInfo
from taskmux.worker.beat import TTL_MS

NOW = 1_000_000_000


def seen(*instants: int) -> list[WorkerInfo]:
    return [
        WorkerInfo(id="w", host="h", pid=1, queues=(), tasks=(), concurrency=1, seen_at=at)
        for at in instants
    ]


class TestTheStoresTime:
    @pytest.mark.parametrize(
        ("workers", "time_there"),
        [
            (None, NOW),
            ([], NOW),
            (seen(NOW - 500), NOW),  # the clocks may agree
            (seen(NOW + 3_000, NOW + 60_000), NOW + 60_000),  # the clock here is slow
            (seen(NOW - 3_600_000), NOW - 3_600_000 + BEAT_COUNTS_MS),  # and here fast
        ],
    )
    def test_is_bounded_by_heartbeats(self, monkeypatch, workers, time_there):
        monkeypatch.setattr(time, "time_ns", lambda: NOW * 1_000_000)
        assert _store_time(workers) == time_there

    def test_a_heartbeat_counts_as_long_as_workers_say(self):
        assert BEAT_COUNTS_MS == TTL_MS


class TestHowLongEnqueueingWaits:
    @pytest.mark.parametrize(
        ("said", "app", "seconds"),
        [
            ({}, {}, 15.0),
            ({"enqueue_timeout": "2s"}, {"enqueue_timeout": "9s"}, 2.0),
            ({}, {"enqueue_timeout": "9s"}, 9.0),
            ({"enqueue_timeout": None}, {}, None),
        ],
    )
    def test_call_over_app_over_default(self, said: JobOptions, app: JobOptions, seconds):
        assert Terms.settled(parse_options(said), parse_options(app)).wait == seconds
