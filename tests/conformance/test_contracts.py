"""Every numbered contract has a case named for it, and every number in a name is a contract."""

from __future__ import annotations

import inspect
import re

import pytest
from taskmux.conformance import DriverSuite
from taskmux.driver import events, lines, presence, required, transactions

CONTRACTS = sorted(
    number
    for module in (required, lines, presence, transactions, events)
    for number in re.findall(r"^ +([A-Z]\d+) \S", inspect.getsource(module), re.MULTILINE)
)

CASES = [name for name in dir(DriverSuite) if name.startswith("test_")]


def test_contract_numbers_are_found_and_unique() -> None:
    assert {"O1", "P7", "A10", "W3", "B2"} <= set(CONTRACTS)
    assert len(CONTRACTS) == len(set(CONTRACTS))


@pytest.mark.parametrize("number", CONTRACTS)
def test_every_contract_has_a_case(number: str) -> None:
    assert any(name.startswith(f"test_{number.lower()}_") for name in CASES)


@pytest.mark.parametrize("case", CASES)
def test_a_case_names_a_contract_that_there_is(case: str) -> None:
    named = re.match(r"test_([a-z]\d+)_", case)
    assert named is None or named[1].upper() in CONTRACTS
