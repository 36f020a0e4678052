from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from taskmux import DeclarationError, Keep, Taskmux
from taskmux.api.options import parse_options
from taskmux.driver import PruneAsk
from taskmux.model.errors import StoreUnavailable
from taskmux.model.job import Keep as Kept
from taskmux.worker.duties import repeat
from taskmux.worker.outage import Outage
from taskmux.worker.prune import BATCH, SOON, Pruner


class Shelf:
    """A driver that has so many records to remove in each queue."""

    def __init__(self, **left: int) -> None:
        self.left = Counter(left)
        self.asked: list[str] = []

    async def prune(self, ask: PruneAsk) -> int:
        await asyncio.sleep(0)
        self.asked.append(ask.queue)
        gone = min(ask.limit, self.left[ask.queue])
        self.left[ask.queue] -= gone
        return gone


def pruner(shelf: Any, *queues: str) -> Pruner:
    return Pruner(shelf, queues)


class TestSweep:
    async def test_it_goes_on_until_nothing_is_left_and_comes_again_soon(self):
        shelf = Shelf(a=3 * BATCH + 1)
        assert await pruner(shelf, "a").sweep() == SOON
        assert shelf.left.total() == 0
        assert len(shelf.asked) == 4

    async def test_queues_take_turns(self):
        shelf = Shelf(big=3 * BATCH, small=1)
        await pruner(shelf, "big", "small").sweep()
        assert shelf.asked[:2] == ["big", "small"]
        assert shelf.left.total() == 0

    async def test_an_idle_store_is_asked_once_a_queue(self):
        shelf = Shelf()
        assert await pruner(shelf, "a", "b").sweep() is None
        assert shelf.asked == ["a", "b"]

    async def test_the_store_has_as_much_time_for_others(self, monkeypatch):
        clock, rests = [0.0], []

        class Slow(Shelf):
            async def prune(self, ask: PruneAsk) -> int:
                clock[0] += 0.25
                return await super().prune(ask)

        async def rest(seconds: float) -> None:
            rests.append(seconds)

        monkeypatch.setattr("taskmux.worker.prune.monotonic", lambda: clock[0])
        shelf = Slow(a=BATCH + 1)
        sweeping = pruner(shelf, "a").sweep()
        monkeypatch.setattr("taskmux.worker.prune.asyncio.sleep", rest)
        await sweeping
        assert [seconds for seconds in rests if seconds] == [0.25, 0.25]

    async def test_a_duty_says_when_it_comes_again(self, monkeypatch):
        paused: list[float] = []

        async def pause(seconds: float) -> None:
            paused.append(seconds)
            if len(paused) == 2:
                raise StoreUnavailable("enough")

        monkeypatch.setattr("taskmux.worker.duties.asyncio.sleep", pause)
        answers: list[float | None] = [5.0, None]

        async def duty() -> float | None:
            return answers.pop(0)

        with pytest.raises(StoreUnavailable):
            await repeat("a duty", duty, 60.0, Outage("test://"))
        assert 4 <= paused[0] <= 6
        assert 48 <= paused[1] <= 72


class TestKeep:
    @pytest.mark.parametrize(
        ("said", "kept"),
        [
            ({"completed": "24h"}, {"completed": Kept(86_400_000)}),
            ({"completed": 0}, {"completed": Kept(10_000)}),
            ({"completed": "1s", "dead": 0}, {"completed": Kept(10_000), "dead": Kept(10_000)}),
            ({"completed": Keep("1h", count=5)}, {"completed": Kept(3_600_000, 5)}),
            (
                {"completed": Keep("1h", count=5), "completed_count": 7},
                {"completed": Kept(3_600_000, 7)},
            ),
            ({"dead_count": 0}, {"dead": Kept(30 * 86_400_000, 0)}),
            (
                Keep("1d", count=9),
                dict.fromkeys(("completed", "cancelled", "dead"), Kept(86_400_000, 9)),
            ),
        ],
    )
    def test_what_is_said(self, said, kept):
        policy = parse_options({"retention": said}).policy()
        assert {state: getattr(policy, state) for state in kept} == kept

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda: Keep("soon"),
            lambda: Keep("1d", count=-1),
            lambda: Keep("1d", count=True),
            lambda: parse_options({"retention": {"completed": Keep}}),
            lambda: parse_options({"retention": {"dead": "1d", "lost": "1d"}}),
        ],
    )
    def test_bad_input(self, wrong):
        with pytest.raises(DeclarationError):
            wrong()

    async def test_call_task_queue_and_app_each_say_it(self):
        mux = Taskmux("memory://", defaults={"retention": {"dead": "1d"}})

        @mux.task(retention={"completed": "2d"})
        async def declared() -> None: ...

        @mux.task()
        async def plain() -> None: ...

        async with mux:
            await mux.queue("default").set_defaults(retention=Keep("3d"))
            call = await (await declared.options(retention={"completed": "4d"}).enqueue()).record()
            task = await (await declared.enqueue()).record()
            queue = await (await plain.enqueue()).record()
            app = await (await plain.options(queue="other").enqueue()).record()
        days = [one.policy.completed.age_ms // 86_400_000 for one in (call, task, queue, app)]
        assert days == [4, 2, 3, 1]
        assert [one.policy.dead.age_ms // 86_400_000 for one in (queue, app)] == [3, 1]
