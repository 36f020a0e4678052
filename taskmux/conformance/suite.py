"""The suite: every case, in one class to inherit."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from taskmux.conformance.bench import Bench
from taskmux.conformance.cases.apply import ApplyCases
from taskmux.conformance.cases.cancelled import CancelledCases
from taskmux.conformance.cases.claim import ClaimCases
from taskmux.conformance.cases.dedup import DedupCases
from taskmux.conformance.cases.events import EventCases
from taskmux.conformance.cases.faulty import FaultyCases
from taskmux.conformance.cases.fields import FieldCases
from taskmux.conformance.cases.history import HistoryCases
from taskmux.conformance.cases.holds import HoldCases
from taskmux.conformance.cases.leases import LeaseCases
from taskmux.conformance.cases.life import LifeCases
from taskmux.conformance.cases.limits import LimitCases
from taskmux.conformance.cases.lines import LineCases
from taskmux.conformance.cases.moves import MoveCases
from taskmux.conformance.cases.notes import NoteCases
from taskmux.conformance.cases.order import OrderCases
from taskmux.conformance.cases.payloads import PayloadCases
from taskmux.conformance.cases.presence import PresenceCases
from taskmux.conformance.cases.prune import PruneCases
from taskmux.conformance.cases.push import PushCases
from taskmux.conformance.cases.races import RaceCases
from taskmux.conformance.cases.reading import ReadingCases
from taskmux.conformance.cases.settings import SettingsCases
from taskmux.conformance.cases.waiting import WaitCases
from taskmux.conformance.hooks import Hooks
from taskmux.driver import Driver, capabilities_of

__all__ = ["DriverSuite"]


@pytest.mark.asyncio
class DriverSuite(
    LifeCases,
    PushCases,
    DedupCases,
    ClaimCases,
    OrderCases,
    LineCases,
    LimitCases,
    HoldCases,
    ApplyCases,
    MoveCases,
    NoteCases,
    LeaseCases,
    ReadingCases,
    PayloadCases,
    FieldCases,
    PruneCases,
    SettingsCases,
    WaitCases,
    RaceCases,
    FaultyCases,
    CancelledCases,
    HistoryCases,
    PresenceCases,
    EventCases,
    Hooks,
):
    """Every contract of the driver interface as a test. Inherit it, say where the driver is."""

    @pytest.fixture
    def unopened_driver(self) -> Driver:
        """Return an unopened driver on an empty store. Override me, as a fixture of any kind."""
        raise NotImplementedError("Override the fixture `unopened_driver` in your test class.")

    @pytest.fixture(autouse=True)
    def _case(self, request: pytest.FixtureRequest, unopened_driver: Driver) -> None:
        """Label the case for the report, and skip it if the driver lacks its capability."""
        capability: str | None = getattr(request.function, "capability", None)
        suite = type(request.instance).__name__
        request.node.user_properties.append(("taskmux", f"{suite}: {capability or 'required'}"))
        if capability is not None and capability not in capabilities_of(unopened_driver):
            pytest.skip(f"{type(unopened_driver).__name__} has no capability {capability!r}")

    @pytest_asyncio.fixture
    async def bench(
        self, request: pytest.FixtureRequest, unopened_driver: Driver
    ) -> AsyncIterator[Bench]:
        """Open the driver, and check the invariants and close it when the test is over."""
        async with Bench(unopened_driver, request.instance) as bench:
            yield bench
