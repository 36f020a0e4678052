"""Who follows a queue, and until when."""

from __future__ import annotations

import asyncio

from taskmux.api.following import Following
from taskmux.driver import Ref, StoreEvent
from taskmux.memory import MemoryDriver


async def test_who_waited_for_a_job_is_not_told_any_more():
    live = asyncio.Event()

    def hear(_event: StoreEvent | None) -> None:
        live.set()

    following = Following(MemoryDriver())
    reader = following.follow("q", hear)
    assert reader is not None
    await live.wait()
    with following.changes(Ref("q", "a"), ends=True):
        reader.remove(None, hear)
    await following.close()
    assert reader.ended
