from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskmux.model.errors import DeclarationError, InvalidName
from taskmux.model.units import (
    MAX_MS,
    PRIORITIES,
    check_name,
    check_queue,
    instant_ms,
    milliseconds,
    priority_number,
    show_ms,
    storable,
)

MEGABYTE = 1_048_576
HOSTILE = [
    "",
    " ",
    "a b",
    "a\n",
    "\n",
    "a\x00",
    "a\r\nb",
    "{a}",
    "$where",
    ".hidden",
    "-flag",
    "ü",
    "a*",
    "\ud800",
    "%00",
    "a" * MEGABYTE,
    "a." * (MEGABYTE // 2),
    "." * MEGABYTE,
    b"bytes",
    None,
    1,
    True,
    ["a"],
]


class TestDurations:
    @pytest.mark.parametrize(
        ("value", "ms"),
        [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
            ("0s", 0),
            ("1.5s", 1500),
            (" 3s ", 3000),
            (2, 2000),
            (0.25, 250),
            (timedelta(minutes=1, microseconds=400), 60_000),
        ],
    )
    def test_forms(self, value, ms):
        assert milliseconds(value) == ms

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "s",
            "5",
            "5 s",
            "5s5",
            "x5s",
            "-5s",
            "1e3s",
            "1,5s",
            "5S",
            "5s" * MEGABYTE,
            "9" * MEGABYTE,
            "9" * MEGABYTE + "s",
            "1." * MEGABYTE,
            -1,
            -0.001,
            float("nan"),
            float("inf"),
            True,
            None,
            [],
            b"5s",
            10**12,
            10**400,
            10**5000,
            timedelta(seconds=-1),
            timedelta.max,
            "99999w",
        ],
        ids=count(),
    )
    def test_what_is_none_is_refused_in_a_short_message(self, value):
        with pytest.raises(DeclarationError, match="not a duration") as caught:
            milliseconds(value, "delay")
        assert len(str(caught.value)) < 500

    @given(st.integers(min_value=0, max_value=MAX_MS))
    def test_whole_milliseconds_are_kept_exactly(self, ms):
        assert milliseconds(timedelta(milliseconds=ms)) == ms

    @given(st.integers(min_value=0, max_value=10**12))
    def test_whole_milliseconds_are_kept_exactly_as_text(self, ms):
        assert milliseconds(f"{ms}ms") == ms

    @given(st.text() | st.binary() | st.floats() | st.integers() | st.none())
    def test_anything_is_a_duration_or_a_typed_error(self, value):
        try:
            ms = milliseconds(value)
        except DeclarationError:
            return
        assert 0 <= ms <= MAX_MS

    @pytest.mark.parametrize(
        ("ms", "text"),
        [
            (0, "0ms"),
            (999, "999ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (90_000, "1m30s"),
            (61_250, "1m1s"),
            (90_061_000, "1d1h"),
        ],
    )
    def test_shown_as_people_write_them(self, ms, text):
        assert show_ms(ms) == text


class Nowhere(tzinfo):
    """A time zone that knows no offset: a datetime in it is still no instant."""

    def utcoffset(self, when: datetime | None) -> None:
        return None


class TestInstants:
    def test_an_aware_datetime_is_an_instant(self):
        assert instant_ms(datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)) == 1500

    @pytest.mark.parametrize(
        "value", [datetime(2030, 1, 1), datetime(2030, 1, 1, tzinfo=Nowhere()), 5, "now", None]
    )
    def test_anything_else_is_not(self, value):
        with pytest.raises(DeclarationError, match="names no instant"):
            instant_ms(value)


class TestPriorities:
    def test_names_and_numbers(self):
        assert [priority_number(name) for name in PRIORITIES] == [10, 50, 100, 200]
        assert priority_number(0) == 0
        assert priority_number(2047) == 2047

    @pytest.mark.parametrize(
        "value", [-1, 2048, 1.0, True, "urgent", None, [], "1" * MEGABYTE], ids=count()
    )
    def test_others_are_refused(self, value):
        with pytest.raises(DeclarationError, match="priority") as caught:
            priority_number(value)
        assert len(str(caught.value)) < 500


class TestNames:
    @pytest.mark.parametrize("name", ["a", "0", "_x", "email.high-1", "A" * 128])
    def test_good_queue_names(self, name):
        assert check_queue(name) == name

    @pytest.mark.parametrize("name", ["a", "billing.charge", "welcome:42", "a/b@c+d-e", "A" * 255])
    def test_good_names(self, name):
        assert check_name(name, "job id") == name

    @pytest.mark.parametrize("name", [*HOSTILE, "a:b", "a/b", "A" * 129], ids=count())
    def test_hostile_queue_names_are_refused_in_a_short_message(self, name):
        with pytest.raises(InvalidName, match="is not a queue name") as caught:
            check_queue(name)
        assert len(str(caught.value)) < 500

    @pytest.mark.parametrize("name", [*HOSTILE, "a{b}", "a$", "A" * 256], ids=count())
    def test_hostile_names_are_refused_in_a_short_message(self, name):
        with pytest.raises(InvalidName, match="is not a job id") as caught:
            check_name(name, "job id")
        assert len(str(caught.value)) < 500

    @given(st.text())
    def test_a_name_has_no_character_that_some_store_cannot_hold(self, text):
        try:
            name = check_name(text, "tag")
        except InvalidName:
            return
        assert name.isascii()
        assert name.isprintable()
        assert not set(name) & set("{}$*? \\\"'")


class TestStorableText:
    @given(st.text(), st.integers(min_value=1, max_value=50))
    def test_what_fits_is_kept(self, text, limit):
        stored = storable(text, limit)
        assert len(stored) <= limit
        assert stored == text.replace("\0", "␀") or len(text) > limit

    @given(st.text(st.characters(categories=["Cs", "Ll"])))
    def test_every_store_can_hold_it(self, text):
        storable(text, 100).encode()  # a lone surrogate would raise

    def test_a_nul_is_shown(self):
        assert storable("a\0b\0", 4) == "a␀b␀"

    def test_it_is_cut_and_says_so(self):
        assert storable("abcdef", 6) == "abcdef"
        assert storable("abcdefg", 6) == "abcde…"

    def test_a_lone_surrogate_is_escaped(self):
        assert storable("a\udcffü", 9) == "a\\udcffü"
