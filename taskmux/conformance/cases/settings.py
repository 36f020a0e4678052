"""A queue's stored settings."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from taskmux.conformance.bench import Bench
from taskmux.driver import QueueSettings


class SettingsCases:
    """S1 to S3."""

    @pytest.mark.parametrize(
        "given",
        [
            QueueSettings(),
            QueueSettings(paused=True),
            QueueSettings(moved_to="mongodb://there/db?replicaSet=rs&x=%20"),
            QueueSettings(paused=True, moved_to="redis://there"),
            QueueSettings(defaults=b'{"said":{}}', strikes=b'[{"id":"a","task":"\xc3\xa9"}]'),
        ],
    )
    async def test_s1_settings_come_back_equal(self, bench: Bench, given: QueueSettings) -> None:
        assert await bench.driver.put_settings(bench.queue, given)
        assert await bench.driver.settings(bench.queue) == replace(given, rev=1)

    async def test_s1_no_settings_are_the_defaults(self, bench: Bench) -> None:
        assert await bench.driver.settings(bench.queue) == QueueSettings()
        await bench.created(bench.job())
        assert await bench.driver.settings(bench.queue) == QueueSettings()

    async def test_s1_settings_are_of_one_queue(self, bench: Bench) -> None:
        assert await bench.driver.put_settings(bench.queue, QueueSettings(paused=True))
        assert await bench.driver.settings(bench.another_queue()) == QueueSettings()

    async def test_s2_the_rev_rises_at_every_change(self, bench: Bench) -> None:
        for rev in range(4):
            assert await bench.driver.put_settings(bench.queue, QueueSettings(rev=rev))
            assert (await bench.driver.settings(bench.queue)).rev == rev + 1

    @pytest.mark.parametrize("rev", [0, 1, 3, 99])
    async def test_s3_another_rev_changes_nothing(self, bench: Bench, rev: int) -> None:
        for stored in range(2):
            assert await bench.driver.put_settings(bench.queue, QueueSettings(rev=stored))
        before = await bench.driver.settings(bench.queue)
        assert not await bench.driver.put_settings(
            bench.queue, QueueSettings(rev=rev, paused=True, moved_to="redis://there")
        )
        assert await bench.driver.settings(bench.queue) == before

    async def test_s3_the_first_setting_needs_rev_0(self, bench: Bench) -> None:
        assert not await bench.driver.put_settings(bench.queue, QueueSettings(rev=1, paused=True))
        assert await bench.driver.settings(bench.queue) == QueueSettings()
