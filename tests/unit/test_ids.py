from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from taskmux.model.ids import new_id


@pytest.fixture
def frozen(monkeypatch):
    """A clock that stands, so that every id is of one millisecond."""
    monkeypatch.setattr("taskmux.model.ids.time.time_ns", lambda: 1_700_000_000_123_456_789)


class TestIds:
    def test_one_begins_with_the_time_and_is_27_digits_long(self, frozen):
        assert len(new_id()) == 27
        assert int(new_id()[:11], 16) == 1_700_000_000_123

    def test_those_of_one_thread_sort_as_they_were_made(self):
        ids = [new_id() for _ in range(5000)]
        assert ids == sorted(ids)

    def test_another_millisecond_begins_somewhere_else(self, frozen, monkeypatch):
        before = new_id()
        monkeypatch.setattr("taskmux.model.ids.time.time_ns", lambda: 1_700_000_000_124_000_000)
        after = new_id()
        assert int(after[11:], 16) - int(before[11:], 16) != 1

    def test_it_begins_anywhere_in_the_range(self, monkeypatch):
        """Else two processes meet: 63 random bits keep them apart."""
        starts = []
        for ms in range(64):
            instant = (1_700_000_000_000 + ms) * 1_000_000
            monkeypatch.setattr("taskmux.model.ids.time.time_ns", lambda at=instant: at)
            starts.append(int(new_id()[11:], 16))
        assert max(starts) >= 2**62
        assert min(starts) < 2**62

    def test_threads_never_make_the_same(self):
        made: list[list[str]] = [[] for _ in range(8)]
        begin = threading.Barrier(len(made))

        def make(mine: list[str]) -> None:
            begin.wait()
            mine += [new_id() for _ in range(5000)]

        threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({one for mine in made for one in mine}) == 8 * 5000


FORKS = """
import os, time
time.time_ns = lambda: 1_700_000_000_123_456_789
from taskmux.model.ids import new_id
new_id()
child = os.fork()
told = new_id().encode() + b"\\n"
if child != 0:
    os.waitpid(child, 0)
os.write(1, told)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
class TestAfterAFork:
    def test_a_child_makes_other_ids(self):
        told = subprocess.run(
            [sys.executable, "-c", FORKS], check=True, capture_output=True, text=True, timeout=60
        )
        one, other = told.stdout.split()
        assert one != other
