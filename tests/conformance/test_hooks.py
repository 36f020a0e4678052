"""What a driver's author may tell the kit is used, and can fail a case."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from taskmux.conformance import Bench, DriverSuite, resend
from taskmux.conformance.cases import life
from taskmux.driver import CorruptRecord, Ref, StoreDenied, StoreUnavailable
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


class Breaks(MemoryDriver):
    """Has connections that can be cut, and answers that with errors of a kind."""

    error: type[Exception] = StoreUnavailable
    recovers = True
    is_cut = False

    async def counts(self, queue):
        if self.is_cut:
            self.is_cut = not self.recovers
            raise self.error("The connection to the store broke. Send it again.")
        return await super().counts(queue)


class BreaksWithAnErrorOfItsClient(Breaks):
    error = ConnectionResetError


class StaysBroken(Breaks):
    recovers = False


class Tells(DriverSuite):
    """Overrides every hook."""

    unfit_driver: MemoryDriver = Locked()
    left: Sequence[str] = ()

    async def unfit(self):
        return [(self.unfit_driver, StoreDenied)]

    async def leaked(self, driver):
        return list(self.left)

    async def cut(self, driver):
        driver.is_cut = True
        return True

    async def damage(self, driver, ref):
        stored = driver._stored(ref)
        if isinstance(driver, SetsAside):
            driver.damaged = (ref,)
            queue = driver.store.queue(ref.queue)
            queue.leave(stored)
            del queue.jobs[ref.id]
        return True


async def run(driver: MemoryDriver, case: str, suite: Tells, **params: str) -> None:
    async with Bench(driver, suite) as bench:
        await getattr(suite, case)(bench, **params)


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


@pytest.mark.parametrize("moment", ["before", "during"])
async def test_a_cut_connection_must_be_unavailable_and_made_anew(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = "test_o6_a_cut_connection_is_unavailable_and_made_anew"
    monkeypatch.setattr(life, "resend", partial(resend, tries=2))
    await run(Breaks(), case, Tells(), verb="counts", moment=moment)
    if moment == "before":  # in memory a call that has begun has ended
        with pytest.raises(AssertionError):
            await run(BreaksWithAnErrorOfItsClient(), case, Tells(), verb="counts", moment=moment)
    with pytest.raises(StoreUnavailable):
        await run(StaysBroken(), case, Tells(), verb="counts", moment=moment)


async def test_a_leak_fails_any_case() -> None:
    case = "test_c3_no_more_than_asked"
    await run(MemoryDriver(), case, Tells())
    leaky = Tells()
    leaky.left = ["key:without:owner"]
    with pytest.raises(AssertionError, match="key:without:owner"):
        await run(MemoryDriver(), case, leaky)
