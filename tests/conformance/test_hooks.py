"""What a driver's author may tell the kit is used, and can fail a case."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from taskmux.conformance import Bench, DriverSuite
from taskmux.driver import CorruptRecord, Ref, StoreDenied
from taskmux.memory import MemoryDriver


class Locked(MemoryDriver):
    async def open(self):
        raise StoreDenied("The store refused the password. Check the URL.")


class SetsAside(MemoryDriver):
    """Knows a damaged record, and counts it nowhere."""

    damaged: tuple[Ref, ...] = ()

    async def get(self, refs):
        if set(refs) & set(self.damaged):
            raise CorruptRecord("The record is not readable. Remove it.")
        return await super().get(refs)


class Tells(DriverSuite):
    """Overrides every hook."""

    unfit_driver: MemoryDriver = Locked()
    left: Sequence[str] = ()

    async def unfit(self):
        return [(self.unfit_driver, StoreDenied)]

    async def leaked(self, driver):
        return list(self.left)

    async def damage(self, driver, ref):
        stored = driver._stored(ref)
        if isinstance(driver, SetsAside):
            driver.damaged = (ref,)
            queue = driver.store.queue(ref.queue)
            queue.leave(stored)
            del queue.jobs[ref.id]
        return True


async def run(driver: MemoryDriver, case: str, suite: Tells) -> None:
    async with Bench(driver, suite) as bench:
        await getattr(suite, case)(bench)


async def test_an_unfit_store_must_be_refused() -> None:
    case = "test_o2_a_store_that_does_not_fit_is_refused"
    await run(MemoryDriver(), case, Tells())
    opens_anything = Tells()
    opens_anything.unfit_driver = MemoryDriver()
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await run(MemoryDriver(), case, opens_anything)


async def test_a_damaged_record_must_be_set_aside() -> None:
    case = "test_a_corrupt_record_is_set_aside"
    await run(SetsAside(), case, Tells())
    with pytest.raises(AssertionError):
        await run(MemoryDriver(), case, Tells())


async def test_a_leak_fails_any_case() -> None:
    case = "test_c3_no_more_than_asked"
    await run(MemoryDriver(), case, Tells())
    leaky = Tells()
    leaky.left = ["key:without:owner"]
    with pytest.raises(AssertionError, match="key:without:owner"):
        await run(MemoryDriver(), case, leaky)
