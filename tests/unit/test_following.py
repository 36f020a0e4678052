"""Who follows a queue, and until when."""

from __future__ import annotations

from taskmux.api.following import Following
from taskmux.driver import Ref
from taskmux.memory import MemoryDriver


async def test_who_waited_for_a_job_is_not_told_any_more():
    following = Following(MemoryDriver())
    reader = following.follow("q", print)
    assert reader is not None
    with following.changes(Ref("q", "a"), ends=True):
        assert not reader.ended
    reader.remove(None, print)
    await following.close()
    assert reader.ended
