"""A driver is asked for a capability by name, and refused by name if it lacks it."""

from __future__ import annotations

import pytest
from taskmux.driver import CAPABILITIES, capabilities_of, require
from taskmux.memory import MemoryDriver
from taskmux.model.errors import UnsupportedFeature


class Bare(MemoryDriver):
    beat = workers = None


def test_a_driver_that_has_the_capability_passes():
    require(MemoryDriver(), "presence", feature="Listing workers")


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_driver_is_refused_exactly_for_what_it_does_not_list(capability):
    driver = Bare("memory://tests")
    if capability in capabilities_of(driver):
        require(driver, capability, feature="It")
        return
    with pytest.raises(UnsupportedFeature) as raised:
        require(driver, capability, feature="It")
    for word in (f"It needs the capability '{capability}'", "Bare", "memory://tests"):
        assert word in str(raised.value)


def test_a_capability_that_does_not_exist_is_a_mistake_of_the_caller():
    with pytest.raises(KeyError):
        require(MemoryDriver(), "telepathy", feature="It")
