"""Rates: the arithmetic, against a plain record of what was let go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskmux.model.errors import DeclarationError
from taskmux.model.queue import Rate
from taskmux.policy import gcra

NOW = 1_700_000_000_000
RATES = st.builds(Rate, st.integers(1, 2000), st.integers(1, 100_000), st.integers(0, 50))


class TestRates:
    @given(RATES, st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 40)), max_size=60))
    def test_no_window_sees_more_than_the_rate_and_its_burst(self, rate, asks):
        meter, now = gcra.Meter(), NOW
        starts: list[int] = []
        for pause, wanted in asks:
            now += pause
            count = min(wanted, gcra.room(rate, meter, now))
            if count:
                meter = gcra.spend(rate, meter, now, count)
                starts += [now] * count
        for first in set(starts):
            within = sum(first <= one < first + rate.per for one in starts)
            assert within <= rate.count + rate.burst

    @given(RATES, st.integers(0, 10_000))
    def test_it_opens_exactly_when_it_says(self, rate, later):
        meter = gcra.spend(rate, gcra.Meter(), NOW, rate.burst + 1)
        now = NOW + min(later, rate.per // rate.count)
        wait = gcra.opens_in(rate, meter, now)
        assert gcra.room(rate, meter, now + wait) >= 1
        if wait:
            assert gcra.room(rate, meter, now + wait - 1) == 0

    @given(RATES, st.integers(10, 400))
    def test_who_comes_at_once_loses_nothing(self, rate, count):
        """Over any length of time all of the rate is used, down to the millisecond."""
        meter, now = gcra.Meter(), NOW
        for _ in range(count):
            now += gcra.opens_in(rate, meter, now)
            meter = gcra.spend(rate, meter, now, 1)
        if rate.burst >= max(1, rate.count / rate.per):  # it makes up for whole milliseconds
            assert now - NOW <= (count - 1) * rate.per / rate.count + 1

    def test_a_slower_rate_before_does_not_keep_it_shut(self):
        meter = gcra.spend(Rate(1, 86_400_000), gcra.Meter(), NOW, 1)
        assert gcra.opens_in(Rate(1, 1000), meter, NOW) == 1000

    def test_a_larger_burst_before_does_not_keep_it_shut(self):
        meter = gcra.spend(Rate(1000, 1000, 10_000), gcra.Meter(), NOW, 10_000)
        assert gcra.opens_in(Rate(10, 60_000), meter, NOW) == 6000

    def test_a_clock_set_back_does_not_stop_it(self):
        rate = Rate(1, 1000)
        meter = gcra.spend(rate, gcra.Meter(), NOW, 1)
        assert gcra.room(rate, meter, NOW - 500) == 0
        assert gcra.room(rate, meter, NOW - 3_600_000) == 1


class TestGates:
    RATE = Rate(10, 1000, 4)

    def test_a_gate_without_anything_is_open(self):
        gate = gcra.Gate()
        assert gate.room(None, NOW) == gcra.OPEN
        assert gate.room(self.RATE, NOW) == 5
        assert gate.opens_in(None, NOW) == gate.opens_in(self.RATE, NOW) == 0

    def test_the_later_of_rate_and_hold_counts(self):
        gate = gcra.Gate().spent(self.RATE, NOW, 5)
        assert (gate.room(self.RATE, NOW), gate.opens_in(self.RATE, NOW)) == (0, 100)
        assert gate.held(NOW + 70).opens_in(self.RATE, NOW) == 100
        assert gate.held(NOW + 700).opens_in(self.RATE, NOW) == 700
        assert gate.held(NOW + 700).opens_in(None, NOW) == 700

    def test_a_hold_ends_at_its_instant(self):
        gate = gcra.Gate().held(NOW + 5)
        assert [gate.room(None, NOW + ms) for ms in (0, 4, 5)] == [0, 0, gcra.OPEN]

    def test_starts_do_not_end_a_hold_nor_a_hold_the_starts(self):
        gate = gcra.Gate().held(NOW + 700).spent(self.RATE, NOW, 3)
        assert (gate.held_until, gate.level) == (NOW + 700, 3)
        assert gate.let_go() == gcra.Gate(level=3, at=NOW)
        assert gate.held(NOW + 900).level == 3

    @given(RATES, st.integers(1, 100), st.integers(0, 10_000), st.booleans())
    def test_from_when_on_it_is_as_if_there_were_none(self, rate, count, hold, limited):
        gate = gcra.Gate().spent(rate, NOW, min(count, rate.burst + 1)).held(NOW + hold)
        empty = gate.empty_at(rate if limited else None)
        assert empty >= gate.held_until
        if limited:
            assert gate.room(rate, empty) == rate.burst + 1
        else:
            assert gate.room(None, empty) == gcra.OPEN


class TestText:
    @pytest.mark.parametrize(
        ("text", "rate"),
        {
            "100/m": Rate(100, 60_000, 10),
            "5/s": Rate(5, 1000, 1),
            "1/h": Rate(1, 3_600_000, 1),
            "10/30s": Rate(10, 30_000, 1),
            "2/1.5s": Rate(2, 1500, 1),
            " 100/m+0 ": Rate(100, 60_000, 0),
            "100/d+500": Rate(100, 86_400_000, 500),
            "1/250ms": Rate(1, 250, 1),
        }.items(),
    )
    def test_what_is_a_rate(self, text, rate):
        assert gcra.as_rate(text) == rate
        assert gcra.as_rate(rate) == rate

    @pytest.mark.parametrize(
        "wrong",
        [
            *("", "100", "0/m", "/m", "1/", "1/0s", "1/2d", "1/w", "1.5/s", "-1/s", "1/s+"),
            *("1/x", "1/ms ms", "9999999/s", "1/" + "9" * 5000 + "s", 5, None, True),
            *(Rate(0, 1), Rate(1, 0)),
        ],
    )
    def test_what_is_none(self, wrong):
        with pytest.raises(DeclarationError, match=r"is not a rate\. Write how many per s"):
            gcra.as_rate(wrong)
